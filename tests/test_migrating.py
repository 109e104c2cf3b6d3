"""The page about moving from JAXopt: every row of its tables is true.

``data/jaxopt_0_8_5.json`` has the public names of JAXopt 0.8.5 with their arguments and defaults, read off the
installed package by ``inspect.signature``. An empty string stands for no default, and ``...`` for one that is not a
number, a string or None.
"""

import functools
import importlib
import inspect
import json
import re
import warnings
from pathlib import Path

import pytest

import jaxsolve

HERE = Path(__file__).parent
THERE = json.loads((HERE / "data" / "jaxopt_0_8_5.json").read_text())


def _rows():
    for line in (HERE.parent / "docs" / "migrating.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and re.fullmatch(r"`[\w.]+`", cells[0]) and cells[0].strip("`") in THERE:
            yield cells[0].strip("`"), re.findall(r"`(\w+)`", cells[1]), cells[2]


ROWS = {name: (options, state) for name, options, state in _rows()}


def _find(name):
    return functools.reduce(getattr, name.split("."), jaxsolve)


def _recorded(default):
    if default is inspect.Parameter.empty:
        return ""
    return repr(default) if isinstance(default, (bool, int, float, str, type(None))) else "..."


def test_every_name_has_one_row():
    names = [name for name, _, _ in _rows()]
    assert sorted(names) == sorted(THERE)


@pytest.mark.parametrize("name", THERE)
def test_row(name):
    options, state = ROWS[name]
    assert options == list(THERE[name])
    assert state == "there" or state.startswith("changed: ")
    parameters = inspect.signature(_find(name)).parameters if options else {}
    for option, default in THERE[name].items():
        assert option in parameters, option
        if _recorded(parameters[option].default) != default:
            assert f"`{option}`" in state, f"{option} has another default, and the page does not say so"


def test_the_record_is_that_of_the_installed_jaxopt():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jaxopt = pytest.importorskip("jaxopt", exc_type=ImportError)
        modules = {name.split(".")[0] for name in THERE if "." in name}
        public = {f"{m}.": importlib.import_module(f"jaxopt.{m}") for m in modules} | {"": jaxopt}
    names = {
        prefix + name
        for prefix, module in public.items()
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert names == set(THERE)
    for name, options in THERE.items():
        value = functools.reduce(getattr, name.split("."), jaxopt)
        if options:
            parameters = inspect.signature(value).parameters
            assert {option: _recorded(parameters[option].default) for option in options} == options
