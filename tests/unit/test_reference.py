"""The reference that `make docs` renders has every public package, and on it what its classes inherit, too."""

import importlib

import pytest

from tests.lib import reference
from tests.unit.test_names import FRONTS

BYTES = {"io_uv.dqlite"}
"""A package that gathers no names: its modules are for those who write another node."""


def test_every_public_package_has_a_page() -> None:
    """All that gathers names for users; io_uv.pyuv is one of io_uv's names."""
    assert FRONTS - BYTES - {"io_uv.pyuv"} <= set(reference.MODULES)
    assert "pyuv" in importlib.import_module("io_uv").__all__


@pytest.mark.parametrize("name", ["Node", "Client"])
def test_the_page_of_a_class_has_what_it_inherits(name: str) -> None:
    """Maps and locks are made by a base of nodes and clients, members are asked for by another one."""
    doc = pytest.importorskip("pdoc.doc")
    with reference.inherited_too():
        page = doc.Module(importlib.import_module("pyraft.node")).members[name]
        shown = {member.name: member.docstring for member in page.own_members}
    assert all(shown.get(method) for method in ("map", "lock", "elect", "members", "replace", "session", "ask"))
    page = doc.Module(importlib.import_module("pyraft.node")).members[name]
    assert "map" not in {member.name for member in page.own_members}


def test_the_index_says_what_each_module_is_for() -> None:
    """With the first paragraph of its docstring, as text."""
    render, doc = pytest.importorskip("pdoc.render"), pytest.importorskip("pdoc.doc")
    with reference.own_index():
        index = render.html_index({name: doc.Module(importlib.import_module(name)) for name in reference.MODULES})
    assert all(f'.html">{name}</a></dt>' in index for name in reference.MODULES)
    assert "<p>An asyncio front: requests as awaitables" in index
