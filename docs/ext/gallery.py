"""What sphinx-gallery is told of the examples: their pictures, and what becomes of their exit status.

An example writes its pictures into ``output`` beside it, and ends by ``sys.exit``, whose status says whether what it
claims holds. A status other than 0 fails the build.
"""

import builtins
import sys
import time
from pathlib import Path
from shutil import copyfile

import jax
from sphinx_gallery.scrapers import figure_rst

EXAMPLES = Path(__file__).parents[2] / "examples"
_exit = sys.exit


class Pictures:
    """Collects the PNG files that an example has written."""

    def __init__(self):
        self.since = time.time()

    def __repr__(self):
        return "Pictures"  # the same for every build, lest all examples be executed again

    def __call__(self, block, block_vars, gallery_conf):
        output = Path(block_vars["src_file"]).parent / "output"
        new = sorted(path for path in output.glob("*.png") if path.stat().st_mtime > self.since)
        self.since = time.time()
        paths = block_vars["image_path_iterator"]
        shown = []
        for picture in new:
            target = next(paths)
            copyfile(picture, target)
            shown.append(target)
        return figure_rst(shown, gallery_conf["src_dir"])


def start_anew(gallery_conf, name, when):
    """Every example starts in float32, knows its file, and may end by ``sys.exit``."""
    jax.config.update("jax_enable_x64", False)
    running = when == "before" and name is not None
    sys.exit = _finish if running else _exit
    # sphinx-gallery gives scripts no __file__; what is not among the globals is looked up here.
    vars(builtins).pop("__file__", None)
    if running:
        builtins.__file__ = str(EXAMPLES / Path(name).name)


def _finish(status=None):
    if status:
        raise RuntimeError(f"the example ended with status {status}")
