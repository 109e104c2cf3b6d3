"""What the build of the site checks by itself, tried on pages that fail, and the pages that were built, if any."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "docs" / "_build" / "html"


@pytest.fixture(scope="module")
def no_network():
    spec = importlib.util.spec_from_file_location("no_network", ROOT / "docs" / "ext" / "no_network.py")
    module = importlib.util.module_from_spec(spec)
    pytest.importorskip("sphinx")
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page",
    [
        '<script async src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        "<img alt='a' src='http://pictures.example/a.png'>",
    ],
)
def test_external_requests_are_found(no_network, page):
    assert len(no_network.external_requests(page)) == 1


def test_links_that_one_clicks_are_no_requests(no_network):
    page = '<a href="https://a.example">a</a><script src="_static/x.js"></script><link rel="stylesheet" href="a.css">'
    assert no_network.external_requests(page) == []
    assert no_network.external_requests("a { src: url(https://a.example/f.woff) }", is_style=True) == [
        "https://a.example/f.woff"
    ]


def test_built_pages_need_no_network_and_have_no_generated_texts(no_network):
    pages = list(BUILT.rglob("*.html"))
    if not pages:
        pytest.skip("the site has not been built")
    for page in pages:
        text = page.read_text()
        assert no_network.external_requests(text) == [], page
        assert "Alias for field number" not in text, page
