"""A command that is refused leaves nothing behind that it made, and says why in one line."""

import asyncio
import contextlib
import struct
from pathlib import Path

import msgpack
import pytest
from click.testing import CliRunner, Result

from pyraft.command import program
from pyraft.node import NodeError, identity, join, wire
from pyraft.node.backup import take
from pyraft.node.operate import Operator
from tests.lib import nodes

HERE = "127.0.0.1:9001"
NOBODY = "127.0.0.1:1"
"""A port that only root could listen at, and does not here."""


def run(*words: str) -> Result:
    """Run a command; an exception that would be a traceback is raised here."""
    result = CliRunner().invoke(program, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def left(where: Path) -> list[str]:
    """Return all that is below a directory."""
    return sorted(str(one.relative_to(where)) for one in where.rglob("*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("init", "a/b", "--address", "bad"), "'bad': there is no port in it"),
        (("init", "a/b", "--address", "10.0.0.1:99999"), "'99999' is not a port"),
        (("init", "", "--address", HERE), "the name of the directory is empty"),
        (("join", "a/b", "--address", "bad", "--via", NOBODY), "'bad': there is no port in it"),
        (("join", "a/b", "--address", HERE, "--via", "bad"), "'bad' is not of the form HOST:PORT"),
        (("join", "a/b", "--address", HERE, "--via", NOBODY, "--timeout", "0.1"), NOBODY.partition(":")[0]),
        (("join", "a/b", "--address", HERE, "--via", NOBODY, "--timeout", "-1"), "--timeout"),
        (("join", "a/b", "--address", HERE, "--via", NOBODY, "--timeout", "nan"), "not a number"),
        (
            ("join", "a/b", "--address", HERE, "--via", NOBODY, "--cert", "x", "--key", "y", "--ca", "z"),
            "load certificates from x, y, z",
        ),
        (("dqlite", "witness", "a/b", "--address", "bad", "--join", NOBODY), "'bad' is not of the form HOST:PORT"),
        (("dqlite", "witness", "a/b", "--address", HERE, "--join", "bad"), "'bad' is not of the form HOST:PORT"),
        (("dqlite", "standby", "a/b", "--address", HERE, "--join", NOBODY, "--bind", "bad"), "'bad'"),
        (
            ("dqlite", "replica", "a/b", "--address", HERE, "--join", NOBODY, "--bind", "bad", "--files", "c/d"),
            "'bad'",
        ),
        (("dir", "restore", "none", "a/b", "--address", HERE), "none"),
        (("dir", "import", "none", "a/b"), "none"),
        (("dir", "measure", "a/b"), "does not exist"),
        (("dir", "export", "a/b", "file"), "does not exist"),
        (("backup", "file", "--via", NOBODY), f"{NOBODY} cannot be reached"),
        (("dqlite", "backup", "x", "file", "--via", NOBODY), NOBODY),
        (("serve", "nothing:X", "a/b"), "there is no module nothing"),
        (("serve", "..:X", "a/b"), "not of the form MODULE:MACHINE"),
        (("remove", "1", "--via", "bad"), "'bad' is not of the form HOST:PORT"),
        (
            ("remove", "1", "--via", NOBODY, "--timeout", "0.1"),
            f"the members, asked for by way of {NOBODY}: not done in 0.1 s: no connection to a member",
        ),
        (("add", "5=bad", "--via", NOBODY), "'bad' is not of the form HOST:PORT"),
        (("add", f"{1 << 64}={HERE}", "--via", NOBODY), "is not an id"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing in the directory that it was called in, and one line says what was wrong and where."""
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code in (1, 2)
    (line,) = [one for one in result.output.splitlines() if one.startswith("Error: ")]
    assert said in line
    assert left(tmp_path) == []


def test_a_directory_that_was_there_stays(tmp_path: Path) -> None:
    """Only what a command made goes with it."""
    (tmp_path / "a").mkdir()
    assert run("init", str(tmp_path / "a"), "--address", "bad").exit_code == 1
    assert run("init", str(tmp_path / "a" / "b" / "c"), "--address", "bad").exit_code == 1
    assert left(tmp_path) == ["a"]


def test_a_file_that_is_no_backup_makes_no_directory(tmp_path: Path) -> None:
    """It is looked at first."""
    (tmp_path / "file").write_text("no backup")
    for command, *more in (("import",), ("restore", "--address", HERE)):
        assert run("dir", command, str(tmp_path / "file"), str(tmp_path / "a" / "b"), *more).exit_code == 1
    assert left(tmp_path) == ["file"]


def test_a_backup_that_is_restored_to_a_bad_address_makes_no_directory(tmp_path: Path) -> None:
    """Nor does one with an address whose port nobody could connect to."""
    file = tmp_path / "file"

    async def main() -> None:
        async with nodes.Nodes(tmp_path / "nodes") as cluster:
            (node,) = await cluster.grow(1)
            async with Operator([node.address]) as operator:
                await take(operator, file)

    nodes.run(main)
    for address in ("bad", "10.0.0.1:0"):
        assert run("dir", "restore", str(file), str(tmp_path / "a" / "b"), "--address", address).exit_code == 1
        assert not (tmp_path / "a").exists()


def test_a_join_whose_answer_was_lost_keeps_the_id(tmp_path: Path) -> None:
    """The cluster may have taken it in: the next call goes on with the same id, and leaves no spare behind."""
    heard: list[tuple[int, list[object]]] = []

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # a caller whose time is over hangs up at any moment
            await reader.readexactly(8)
            while data := await reader.read(4):
                (size,) = struct.unpack("<I", data)
                kind, *rest = msgpack.unpackb(await reader.readexactly(size))
                heard.append((kind, rest))
                if kind == wire.HELLO:
                    writer.write(wire.pack(wire.WELCOME, wire.VERSION, "0" * 32, 1))
                elif kind == wire.ASK:
                    break  # as a leader that is killed then
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(deaf, "127.0.0.1") as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(NodeError):
                await join(tmp_path / "a", HERE, f"127.0.0.1:{port}", timeout_seconds=1)

    nodes.run(main)
    assert wire.ASK in [kind for kind, _ in heard]
    found = identity.read(tmp_path / "a")
    assert found is not None
    assert found.phase == identity.JOINING
