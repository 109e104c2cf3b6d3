"""What the build of the site checks by itself, tried on pages that fail."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
