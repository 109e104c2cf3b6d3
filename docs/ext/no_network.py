"""Fails the build if a page would ask for anything that is not beside it, or has a text that Python made up."""

import re
from pathlib import Path

from sphinx.errors import ExtensionError

_LOADED = re.compile(r"<(?:script|img|iframe|source|audio|video)\b[^>]*?\ssrc=[\"']((?:https?:)?//[^\"']*)", re.I)
_LINKED = re.compile(r"<link\b[^>]*>", re.I)
_TARGET = re.compile(r"\shref=[\"']((?:https?:)?//[^\"']*)", re.I)
_MADE_UP = "Alias for field number"
_IN_STYLE = re.compile(r"(?:@import\s+|url\()[\"']?((?:https?:)?//[^\"')]*)", re.I)


def external_requests(text, is_style=False):
    """The addresses that a browser asks for when it opens a page or a style sheet, without those that one clicks."""
    if is_style:
        return _IN_STYLE.findall(text)
    links = [link for link in _LINKED.findall(text) if not re.search(r"rel=[\"'](?:canonical|author|license)", link)]
    return _LOADED.findall(text) + [address for link in links for address in _TARGET.findall(link)]


def _check(app, exception):
    if exception or app.builder.format != "html":
        return
    found, made_up = {}, []
    for path in Path(app.outdir).rglob("*"):
        if path.suffix in (".html", ".css"):
            text = path.read_text(errors="replace")
            asked = external_requests(text, path.suffix == ".css")
            made_up += [path.name] if _MADE_UP in text else []
            if asked:
                found[path.name] = sorted(set(asked))
    if found:
        raise ExtensionError(f"pages that need a network: {found}")
    if made_up:
        raise ExtensionError(f"pages with {_MADE_UP!r} in place of a description: {made_up}")


def setup(app):
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True}
