"""The programs in the pages of the documentation run and print what the pages say.

They run as readers run them: in float32, and without the strictness of the other tests.
"""

import contextlib
import doctest
import io
import re
from pathlib import Path

import jax
import pytest

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


# These run whole examples, some for half a minute.
LONG = ("conic", "experiments", "qp_degenerate", "qp_layers")


@pytest.mark.parametrize("page", [pytest.param(p, marks=pytest.mark.slow) if p in LONG else p for p in PAGES])
def test_page(page):
    path = ROOT / "docs" / f"{page}.md"
    names = {}
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


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_programs_fit_on_a_page(page):
    blocks = BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text())
    long = [line for kind, block in blocks if kind == "testcode" for line in block.splitlines() if len(line) > 80]
    assert long == []


def test_readme():
    """The example at the top: a reader who pastes it into a file sees what the page shows."""
    program, shown = re.search(
        r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    ).groups()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(program, "README.md", "exec"), {})
    # The last digits of an error depend on the machine.
    rounded = re.compile(r"(error \S)\S*")
    assert rounded.sub(r"\1", out.getvalue()) == rounded.sub(r"\1", shown)


def test_every_example_is_executed_by_a_page_or_a_test():
    pages = "\n".join(block for page in PAGES for _, block in BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text()))
    whole = (ROOT / "tests" / "examples" / "test_whole.py").read_text()
    for script in (ROOT / "examples").glob("*.py"):
        tested = (ROOT / "tests" / "examples" / f"test_{script.name}").exists() or f'"{script.stem}": ' in whole
        assert tested or f"import {script.stem}\n" in pages, script.name
