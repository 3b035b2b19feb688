"""The command `pyraft` as a person uses it: what it prints, its exit codes, and no traceback."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import click
import pytest
from click.testing import CliRunner, Result

from io_uv import datadir, directory
from pyraft.command import decoding, program, text
from pyraft.node import Machine, Node, command, identity
from pyraft.types import RAFT_CHANGE, RAFT_COMMAND, RAFT_VOTER
from tests.integration.test_datadir import change
from tests.lib.disk import Dir, commands
from tests.lib.uvnode import free_addresses


def run(*arguments: object) -> Result:
    """Run the command; an exception other than an exit is a failure of the test."""
    result = CliRunner().invoke(program, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    for line in result.output.splitlines():
        assert len(line) <= 80 or line.startswith((" ", '"', "{", "Error", "member", "FAULT")) or " " not in line, line
    return result


@pytest.fixture
def dir(tmp_path: Path) -> Dir:
    """The directory of a member of three."""
    made = Dir(tmp_path / "data")
    made.path.mkdir()
    made.metadata(1, 3, 4, 2)
    made.metadata(2, 2, 3)
    made.closed(1, [change(1)], commands(2, 4))
    made.snapshot(1, 4)
    made.closed(6, [change(3, term=4)], commands(7, 1, term=4))
    made.open(1, commands(8, 2, term=4), ours=True)
    return made


def every_command(group: click.Group = program, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command."""
    for name, found in group.commands.items():
        if isinstance(found, click.Group):
            yield from every_command(found, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    """The help says what it is for, on 80 columns."""
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert re.search(r"Example: [^$]*\bpyraft\s+" + r"\s+".join(path), result.output)
    assert max(map(len, result.output.splitlines())) <= 80


def test_long_paths_are_whole_and_nothing_else_is_wider_than_the_terminal(tmp_path: Path) -> None:
    """A path that was cut could not be copied; all that is said around it stands on other lines."""
    path = f"/{'a-long-name/' * 12}data"
    sentence = f"start it on {path}, and on nothing else; " + "then look at it again " * 5
    shown = [*text.wrap(sentence, ""), *text.wrap(sentence), *text.items([sentence])]
    shown += text.pairs([("file", path), ("state", f"stopped: {sentence}"), ("free", "")])
    assert sum(path in line for line in shown) == 5
    assert [line for line in shown if len(line) > 80 and path not in line] == []
    assert {line.replace(path, "").strip() for line in shown if path in line} == {",", "file"}
    deep = tmp_path / "a-long-name" / ("b" * 80)
    deep.mkdir(parents=True)
    lines = run("dir", "measure", deep, "--seconds", 0.01).output.splitlines()
    assert lines[:2] == ["milliseconds for a durable write", str(deep)]


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_every_command_prints_json(path: tuple[str, ...]) -> None:
    """The ones that run until somebody ends them too, in lines."""
    found: click.Command = program
    for word in path:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    assert any("--json" in one.opts for one in found.params)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("dir", "show", "/nowhere"), 1, "does not exist"),
        (("dir", "log", "/nowhere"), 1, "does not exist"),
        (("dir", "recover", "/nowhere"), 2, "Missing option '--server'"),
        (("dir", "backup", "/nowhere"), 1, "/nowhere"),
        (("status", "--via", "127.0.0.1:1"), 1, "Connection refused"),
        (("status", "--via", "127.0.0.1:1", "--timeout", "nan"), 2, "is not a number"),
        (("check", "--via", "127.0.0.1:1", "--clock", "nan"), 2, "is not a number"),
        (("watch", "--via", "127.0.0.1:1", "--interval", "nan", "--count", "1"), 2, "is not a number"),
        (("join", "/nowhere/x", "--address", "h:1", "--via", "127.0.0.1:1", "--timeout", "-3"), 2, "not in the range"),
        (("add", f"{1 << 64}=h:1", "--via", "127.0.0.1:1"), 2, "is not an id: a number from 1 to"),
        (("add", f"{'9' * 5000}=h:1", "--via", "127.0.0.1:1"), 2, "is not of the form"),
        (("add", "7=\udcff:1", "--via", "127.0.0.1:1"), 2, "is not of the form"),
        (("nonsense",), 2, "No such command"),
        (("--nonsense",), 2, "No such option"),
    ],
    ids=lambda words: "-".join(words[:2]) if isinstance(words, tuple) else "",
)
def test_errors_are_json_too(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str) -> None:
    """They are a line of it on standard output, and one for people on standard error; without --json only this one."""
    for options in (("--json",), ()):
        with pytest.raises(SystemExit) as raised:
            program([*words, *options])
        output, errors = capsys.readouterr()
        assert (raised.value.code, said in errors) == (code, True), errors
        assert (said in json.loads(output)["error"]) if options else (output == "")


def test_ctrl_c_is_json_too(dir: Dir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that reads it finds a value then, too."""
    monkeypatch.setattr(datadir, "check", interrupt)
    with pytest.raises(SystemExit) as raised:
        program(["dir", "check", str(dir), "--json"])
    output, errors = capsys.readouterr()
    assert (raised.value.code, json.loads(output), "Aborted!" in errors) == (1, {"error": "interrupted"}, True)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_ctrl_c_while_the_command_is_loaded(options: tuple[str, ...]) -> None:
    """It ends the command without a traceback, as later: its modules take longer to load than most commands to run."""
    finder = """
import signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "pyraft.command.clusters":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from pyraft.__main__ import main
main()
"""
    words = [sys.executable, "-c", finder, "dir", "import", "1.export", "data/1", *options]
    result = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (1, "\nAborted!\n")
    assert result.stdout == ('{"error": "interrupted"}\n' if options else "")


def interrupt(*_: object, **__: object) -> None:
    """Be interrupted."""
    raise KeyboardInterrupt


def broken_output(kind: str) -> TextIO | None:
    """Return a file on a full disk, a pipe that nobody reads, or none."""
    if kind == "none":
        return None
    if kind == "full":
        return open("/dev/full", "w")
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


@pytest.mark.parametrize(
    "words", ["check", "log", "show", "repair", "check --json", "log --json", "show --json", "--help"]
)
@pytest.mark.parametrize(
    ("kind", "code", "said"), [("full", 1, "No space left on device"), ("pipe", 1, ""), ("none", 0, "")]
)
def test_an_output_that_takes_nothing(
    dir: Dir,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    kind: str,
    code: int,
    said: str,
) -> None:
    """A full disk is told in a line, a pipe that nobody reads ends the command quietly, and without any all is well."""
    stdout = broken_output(kind)
    monkeypatch.setattr(sys, "stdout", stdout)
    first, *rest = words.split()
    try:
        with pytest.raises(SystemExit) as raised:
            program(["dir", first, *(() if first == "--help" else (str(dir),)), *rest])
        if sys.stdout is not None:
            sys.stdout.flush()  # as the interpreter does at its end
    finally:
        monkeypatch.undo()
        if stdout is not None:
            with contextlib.suppress(OSError):
                stdout.close()
    errors = capsys.readouterr().err
    assert (raised.value.code, said in errors, len(errors.splitlines())) == (code, True, bool(said)), errors


def test_wrong_words() -> None:
    """They have an exit code of their own, and so has a command without words."""
    for group in ((), ("dir",), ("snapshot",), ("dqlite",)):
        result = run(*group)
        assert result.exit_code == 2
        assert result.output.startswith("Usage: ")
    assert run("nonsense").exit_code == 2


def test_show(dir: Dir) -> None:
    """It tells people and JSON the same facts."""
    result = run("dir", "show", dir)
    assert result.exit_code == 0
    assert "log            1 to 9" in result.output
    assert "  server 3     voter 3" in result.output
    assert "open-1 becomes 0000000000000008-0000000000000009" in result.output
    facts = json.loads(run("dir", "show", dir, "--json").output)
    assert (facts["term"], facts["voted_for"], facts["first_index"], facts["last_index"]) == (4, 2, 1, 9)
    assert facts["configuration"] == [{"id": i, "address": str(i), "role": "voter"} for i in (1, 2, 3)]
    assert facts["start"]["starts"] is True
    assert facts["snapshots"][0]["index"] == 4
    assert facts["member"] is None


def test_log(dir: Dir) -> None:
    """It lists entries by range, also as lines of JSON."""
    lines = run("dir", "log", dir, "--from", 6, "--to", 7).output.splitlines()
    assert [line.split()[:4] for line in lines] == [["6", "4", "change", "48"], ["7", "4", "command", "8"]]
    assert lines[0].endswith("1 voter 1, 2 voter 2, 3 voter 3")
    found = run("dir", "log", dir, "--from", 8, "--json").output.splitlines()
    assert [json.loads(line)["index"] for line in found] == [8, 9]
    dir.remove("0000000000000001-0000000000000005")
    dir.closed(1, [change(1)])
    assert "4 entries are not here" in run("dir", "log", dir).output


def test_check_and_repair(dir: Dir) -> None:
    """Exit codes tell whether something is wrong; --apply mends it."""
    assert run("dir", "check", dir).output == "nothing is wrong\n"
    result = run("dir", "repair", dir)
    assert (result.exit_code, "A start loads this directory as it is." in result.output) == (0, True)
    dir.overwrite("0000000000000006-0000000000000007", 12, b"\xff")
    result = run("dir", "check", dir)
    assert result.exit_code == 1
    assert "loss: 0000000000000006-0000000000000007: " in result.output
    assert json.loads(run("dir", "check", dir, "--json").output)[0]["severity"] == "loss"
    dir.remove("open-1")
    dir.closed(8, commands(8, 2, term=4))
    result = run("dir", "repair", dir)
    assert result.exit_code == 1
    assert "it would be mended by these steps (--apply does them):" in result.output
    assert json.loads(run("dir", "repair", dir, "--json").output)["applied"] is False
    result = run("dir", "repair", dir, "--apply")
    assert result.exit_code == 0
    assert "done:" in result.output
    assert "is refused while the mark stands, if this server is the one voter" in result.output
    assert json.loads(run("dir", "show", dir, "--json").output)["start"]["alone"] is True


def test_recover_and_readdress(dir: Dir) -> None:
    """The arguments are checked, and nothing happens without --apply."""
    before = {name: dir.read(name) for name in dir.names}
    assert run("dir", "position", dir).output == "4:4:9\n"
    result = run("dir", "recover", dir, "--server", "1=h:1", "--position", "4:4:10")
    assert result.exit_code == 1
    assert "has the log that goes furthest" in result.output
    assert run("dir", "recover", dir, "--server", "one=h:1").exit_code == 2
    assert run("dir", "recover", dir, "--server", "1=h:1", "--server", "1=h:2").exit_code == 2
    assert run("dir", "recover", dir, "--server", "1=h:1", "--position", "4:4").exit_code == 2
    result = run("dir", "readdress", dir, "9=h:1")
    assert (result.exit_code, "there is no server 9" in result.output) == (1, True)
    result = run("dir", "recover", dir, "--server", "1=h:1")
    assert (result.exit_code, "--apply does it" in result.output) == (0, True)
    assert {name: dir.read(name) for name in dir.names} == before
    facts = json.loads(run("dir", "recover", dir, "--server", "1=h:1", "--json").output)
    assert (facts["applied"], len(facts["steps"])) == (False, 2)
    result = run("dir", "readdress", dir, "1=h:1", "--position", "4:4:9", "--position", "5:4:8", "--apply")
    assert result.exit_code == 0, result.output
    assert "1 voter h:1, 2 voter 2, 3 voter 3" in run("dir", "log", dir, "--from", 10).output
    assert run("dir", "position", dir).output == "6:6:10\n"


def test_a_member_recovers_itself_where_it_is(dir: Dir) -> None:
    """A configuration without it, or with another address for it than its own file has, would leave it outside."""
    identity.write(str(dir), identity.Identity(1, "h:1", "ab" * 16, identity.MEMBER))
    before = {name: dir.read(name) for name in dir.names}
    result = run("dir", "recover", dir, "--server", "2=h:2", "--apply")
    assert (result.exit_code, "is of member 1 at h:1: it has to be one of the servers" in result.output) == (1, True)
    result = run("dir", "recover", dir, "--server", "1=h:11", "--apply")
    assert (result.exit_code, "member 1 is at h:1, as " in result.output) == (1, True)
    result = run("dir", "recover", dir, "--standby", "1=h:1", "--server", "2=h:2", "--position", "4:4:9", "--apply")
    assert (result.exit_code, "it has to be a --server" in " ".join(result.output.split())) == (1, True)
    assert {name: dir.read(name) for name in dir.names} == before
    assert run("dir", "recover", dir, "--server", "1=h:1", "--apply").exit_code == 0


def test_survivors_that_are_a_majority_are_seen_by_their_files(dir: Dir, tmp_path: Path) -> None:
    """Another voter's directory counts, although the new configuration leaves it out."""
    identity.write(str(dir), identity.Identity(1, "h:1", "ab" * 16, identity.MEMBER))
    other = tmp_path / "other"
    shutil.copytree(dir.path, other)
    words = ("dir", "recover", dir, "--server", "1=h:1", "--other", other)
    assert "servers 1, 2" not in run(*words).output
    identity.write(other, identity.Identity(2, "h:2", "ab" * 16, identity.MEMBER))
    result = run(*words, "--apply")
    assert (result.exit_code, "servers 1, 2 are a majority of the 3 voters" in result.output) == (1, True)
    assert run("dir", "position", dir).output == "4:4:9\n"


def test_what_is_no_directory_or_in_use(dir: Dir, tmp_path: Path) -> None:
    """Each command says so in a line on standard error."""
    (tmp_path / "file").write_bytes(b"")
    lock = directory.lock_dir(str(dir))
    for name in ("show", "log", "check", "position", "repair"):
        for path, said in (
            (tmp_path / "none", "does not exist"),
            (tmp_path / "file", "is not a directory"),
            (dir, "is in use by another server"),
        ):
            result = run("dir", name, path)
            assert (result.exit_code, said in result.output) == (1, True), (name, path, result.output)
    lock.release()


def test_names_from_a_directory_do_not_reach_the_terminal_as_they_are(dir: Dir) -> None:
    """A file may have an escape in its name."""
    os.rename(dir.path / "open-1", dir.path / "corrupt-1-\x1b[31m")
    result = run("dir", "check", dir)
    assert "\x1b" not in result.output


class Shop(Machine):
    """Has one command."""

    @command
    def take(self, item: str, n: int = 1) -> int:
        """Take something."""
        return n


def test_a_directory_of_a_node(tmp_path: Path) -> None:
    """`init` made it; its commands are decoded, and its own address moves with the configuration."""
    address = free_addresses(1)[1]
    path = tmp_path / "1"
    result = run("init", path, "--address", address)
    assert result.exit_code == 0
    assert f"at {address} began cluster" in result.output

    async def serve() -> None:
        async with Node(path, Shop()) as node:
            await node.machine.take("apple", n=2)

    asyncio.run(serve())
    said = run("dir", "log", path, "--full").output
    assert "take('apple', n=2)" in said
    facts = json.loads(run("dir", "show", path, "--json").output)
    id = facts["member"]["id"]
    moved = free_addresses(1)[1]
    result = run("dir", "readdress", path, f"{id}={moved}", "--apply")
    assert result.exit_code == 0, result.output
    assert f"says {moved} instead of {address}" in result.output.replace("\n    ", " ")
    asyncio.run(serve())
    assert json.loads(run("dir", "show", path, "--json").output)["configuration"][0]["address"] == moved


def word(n: int) -> bytes:
    return n.to_bytes(8, "little")


def test_entries_of_dqlite() -> None:
    """They are shown by its format, and what does not fit it to the last byte as bytes."""
    head = bytes((1, 2, 0, 0, 0, 0, 0, 0))
    frames = b"test.db\0" + word(0) + bytes(4) + bytes((1, 0, 0, 0)) + bytes((2, 0, 0, 0)) + bytes((0, 16, 0, 0))
    data = head + frames + word(1) + word(7) + bytes(2 * 4096)
    assert decoding.describe(RAFT_COMMAND, data) == "dqlite FRAMES test.db: pages 1, 7"
    assert decoding.describe(RAFT_COMMAND, data + bytes(8)).startswith("0102")
    assert decoding.describe(RAFT_COMMAND, bytes((1, 1, 0, 0, 0, 0, 0, 0)) + b"test.db\0") == "dqlite OPEN test.db"
    assert decoding.describe(RAFT_COMMAND, bytes((1, 3, 0, 0, 0, 0, 0, 0)) + word(5)) == "dqlite UNDO 5"
    assert decoding.describe(RAFT_COMMAND, b"hello\0\0\0") == "'hello'"
    assert decoding.describe(RAFT_CHANGE, b"\xff" * 8).startswith("no configuration: ")
    assert RAFT_VOTER == 1
