"""Directions to whoever adds something: pyraft/README.md names the modules that the things of today are in.

The smallest RPC, each constant of a format and each kind of recipe are looked up in the source; a module that has a
part in them and is not named under "Where something new goes" would be forgotten.
"""

import re
from pathlib import Path

import pytest

import pyraft
from pyraft import node
from tests.lib.compiled import COMPILED
from tests.lib.source import ROOT
from tests.test_tidy import python_files

pytestmark = pytest.mark.skipif(COMPILED, reason="about the source tree")

OF_TRANSFERS = {"accept", "recovering", "state", "leases", "messages"}
"""Modules that know TimeoutNow for what it does: it makes a follower stand."""

PATTERN = r"^_?((DISK_)?FORMAT|FRAME_VERSION|MAGIC): Final = (1|\"|b\"[a-z]+\\x01)"
"""A constant with the version of a format."""

OF_OTHERS = {"io_uv/dqlite/commands.py", "io_uv/dqlite/image.py"}
"""Modules whose formats are dqlite's."""


def item(title: str) -> str:
    """Return an item of the section."""
    assert pyraft.__file__ is not None
    section = Path(pyraft.__file__).with_name("README.md").read_text().split("## Where something new goes")[1]
    return section.split(f"* **{title}**")[1].split("\n* ")[0].split("\n## ")[0]


def modules_with(pattern: str) -> list[Path]:
    """Return the modules in whose text a pattern is."""
    return [path for path in python_files("pyraft", "io_uv") if re.search(pattern, path.read_text(), re.M)]


def test_all_places_of_an_rpc_are_named() -> None:
    """TimeoutNow is in these modules, and in those of what it does."""
    text = item("A new RPC")
    for name in {path.stem for path in modules_with(r"timeout_?now|TIMEOUT_NOW")} - OF_TRANSFERS:
        assert re.search(rf"\b{name}\b", text) or name.startswith("recv_"), name
    assert "`recv_…`" in text


def test_all_places_of_a_question_are_named() -> None:
    """Those that answer and ask the questions of today are in these modules."""
    text = item("A new question between nodes")
    for path in python_files("pyraft/node"):
        if re.search(r'"(transfer|status|backup)": self\.|\.ask\("|_ask\("|^QUESTIONS: ', path.read_text(), re.M):
            assert f"`node/{path.name}`" in text, path.name


def test_all_formats_are_named() -> None:
    """Each module that says in a constant which version of a format it writes."""
    text = item("A new version of a file format")
    found = {path.relative_to(ROOT).as_posix() for path in modules_with(PATTERN)}
    assert len(found - OF_OTHERS) > 4
    for name in found - OF_OTHERS:
        assert name.removeprefix("pyraft/").removesuffix(".py") in text, name


@pytest.mark.parametrize("recipe", ["Map", "Counter", "Set", "Queue", "Lock", "Semaphore", "Barrier"])
def test_all_places_of_a_recipe_are_named(recipe: str) -> None:
    """Its handle is in a module that is named, and so is the method that makes one."""
    text = item("A new recipe")
    handle = getattr(node, recipe)
    assert f"`{handle.__module__.removeprefix('pyraft.').replace('.', '/')}.py`" in text
    makers = {
        cls.__module__
        for cls in (*node.Node.__mro__, *node.Client.__mro__)
        if getattr(vars(cls).get(recipe.lower()), "__annotations__", {}).get("return") is handle
    }
    assert makers == {"pyraft.node.things"}
    assert "`node/things.py`" in text
