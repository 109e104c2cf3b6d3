"""Configuration of the documentation build.

``make html`` builds the pages; ``make docs`` also executes the examples for the gallery.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parent / "ext"))

from gallery import Pictures

import jaxsolve

project = "jaxsolve"
author = "the jaxsolve developers"
version = release = jaxsolve.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",  # for its directives: pytest runs the programs of the pages (tests/test_pages.py)
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "api_pages",
    "figures",
    "no_network",
    "public_names",
]
exclude_patterns = ["_build", "gallery/*.py", "gallery/*.ipynb"]
templates_path = ["_templates"]
nitpicky = False

html_theme = "furo"
html_title = "jaxsolve"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False

# One file with its fonts: pages need no network.
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = True
autosummary_generate = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Reference"]
python_use_unqualified_type_names = True

# Prompts and results are not copied.
copybutton_exclude = ".linenos, .gp, .go"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "image_scrapers": (Pictures(),),
    "reset_modules": ("gallery.start_anew",),
    "reset_modules_order": "both",
    "abort_on_example_error": False,
    "only_warn_on_example_error": True,  # warnings are errors
    "download_all_examples": False,
    "within_subsection_order": "ExampleTitleSortKey",
    "show_memory": False,
    "write_computation_times": False,  # a page with scripts from elsewhere
    "show_signature": False,
    "remove_config_comments": True,
    "thumbnail_size": (320, 200),
    "default_thumb_file": str(Path(__file__).parent / "_static" / "example.png"),
    "min_reported_time": 1,
}
suppress_warnings = ["config.cache", "autosummary.import_cycle"]
