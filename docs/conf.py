"""Configuration of the documentation build."""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent / "ext"))

import jaxsolve

project = "jaxsolve"
author = "the jaxsolve developers"
version = release = jaxsolve.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",  # for its directives: pytest runs the programs of the pages (tests/test_pages.py)
    "sphinx.ext.mathjax",
    "public_names",
]
html_theme = "furo"
html_title = "jaxsolve"
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Reference"]
