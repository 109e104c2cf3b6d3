"""The programs in the pages of the documentation run and print what the pages say.

They run as readers run them: in float32, and without the strictness of the other tests.
"""

import contextlib
import doctest
import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxsolve

ROOT = Path(__file__).parent.parent
PAGES = sorted(page.stem for page in (ROOT / "docs").glob("*.md") if "{testcode}" in page.read_text())
BLOCK = re.compile(r"^```\{(testcode|testoutput)\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.DONT_ACCEPT_TRUE_FOR_1


@pytest.fixture(autouse=True)
def as_readers_do(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    x64 = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)  # some pages turn it on
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    jax.config.update("jax_enable_x64", x64)


def _expected(block, printed):
    return f"the page says\n{block}but its program printed\n{printed}"


@pytest.mark.parametrize("page", PAGES)
def test_page(page):
    path = ROOT / "docs" / f"{page}.md"
    names = {"jax": jax, "jnp": jnp, "jaxsolve": jaxsolve}
    printed = ""
    for kind, block in BLOCK.findall(path.read_text()):
        if kind == "testoutput":
            assert doctest.OutputChecker().check_output(block, printed, FLAGS), _expected(block, printed)
            printed = ""
            continue
        assert not printed, _expected("", printed)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, str(path), "exec"), names)
        printed = out.getvalue()
    assert not printed, _expected("", printed)
