"""Directories that belong to another user than the one who calls `pyraft`: root's work for a service, and no way in."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from io_uv import fs
from pyraft.node import init
from pyraft.node.identity import read
from tests.integration.test_command import run
from tests.lib import nodes
from tests.lib.uvnode import free_addresses

USER = 65534
"""Nobody, whose files the tests make."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that others than root can reach."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


@contextlib.contextmanager
def user() -> Iterator[None]:
    """Be another user for the block."""
    os.seteuid(USER)
    try:
        yield
    finally:
        os.seteuid(0)


def member(where: Path, owner: int) -> Path:
    """Return the directory of a member, with all its files the owner's."""
    address = free_addresses(1)[1]

    async def main() -> None:
        await init(where, address)

    nodes.run(main)
    for one in (where, *where.iterdir()):
        os.chown(one, owner, owner)
    return where


def owners(where: Path) -> dict[str, int]:
    """Return who the files of a directory belong to."""
    return {one.name: one.stat().st_uid for one in where.iterdir()}


def test_what_root_writes_into_a_directory_of_a_service_is_the_service_s(place: Path) -> None:
    """Its server could not open it else, and would not start: what is there afterwards belongs to the same user."""
    old = member(place / "1", USER)
    address = free_addresses(1)[1]
    own = read(old)
    assert own is not None
    assert run("dir", "readdress", old, f"{own.id}={address}", "--apply").exit_code == 0
    assert set(owners(old).values()) == {USER}
    with user():
        assert address in run("dir", "show", old).output
        assert "nothing is wrong" in run("dir", "check", old).output
    (place / "2").mkdir()
    os.chown(place / "2", USER, USER)
    assert run("dir", "export", old, place / "export").exit_code == 0
    assert run("dir", "import", place / "export", place / "2").exit_code == 0
    assert set(owners(place / "2").values()) == {USER}


@pytest.mark.parametrize("kind", ["with content", "with another name"])
def test_a_file_that_was_there_keeps_its_owner(place: Path, kind: str) -> None:
    """The owner of the directory could have made it another name of a file of root's."""
    os.chown(place, USER, USER)
    there = place / "metadata1"
    there.write_text("content" if kind == "with content" else "")
    if kind == "with another name":
        os.link(there, place / "kept")
    fs.close(fs.open(str(there), os.O_WRONLY | os.O_CREAT))
    assert set(owners(place).values()) == {0}


def test_a_directory_of_root_is_closed_to_others(place: Path) -> None:
    """Each command says so in a line, and changes nothing."""
    there = member(place / "1", 0)
    os.chmod(there, 0o700)
    before = sorted(owners(there))
    with user():
        for words in (("show",), ("check",), ("position",), ("measure",), ("repair", "--apply")):
            result = run("dir", words[0], there, *words[1:])
            assert (result.exit_code, "ermission denied" in result.output) == (1, True), result.output
        result = run("init", there, "--address", "127.0.0.1:1")
        assert (result.exit_code, "Permission denied" in result.output) == (1, True), result.output
    assert sorted(owners(there)) == before
