"""A process that dies behind any change of its directory: the README's program goes on from what is left.

Every system call of `io_uv.fs` that changes something is followed by a copy of the directory. On each copy the program
is started again: init, bootstrap (refused where that is done), start, a command. The stories are first starts, starts
behind a kill, automatic recovery, and `raft_recover`.
"""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from io_uv import fs, marker, metadata, probe
from io_uv.pyuv import Loop
from io_uv.state import Metadata
from pyraft import (
    RAFT_CANTBOOTSTRAP,
    RAFT_CORRUPT,
    RAFT_LEADER,
    RAFT_VOTER,
    RaftConfiguration,
    raft_bootstrap,
    raft_configuration_add,
    raft_errmsg,
    raft_init,
    raft_recover,
    raft_set_election_timeout,
    raft_set_heartbeat_timeout,
    raft_start,
)
from tests.lib.uvnode import Node, free_addresses
from tests.lib.uvtest import run_until

CHANGES = ("open", "write", "pwrite", "ftruncate", "fallocate", "rename", "unlink", "setxattr", "removexattr")

Image: TypeAlias = dict[str, tuple[bytes, tuple[tuple[str, bytes], ...]]]
"""Files by name: content and attributes."""

SEGMENT_SIZE = 16 * 1024


def image_of(dir: Path) -> Image:
    """Return what a directory holds."""
    found: Image = {}
    for path in sorted(dir.iterdir()):
        attributes = tuple((name, os.getxattr(path, name)) for name in sorted(os.listxattr(path)))
        found[path.name] = (path.read_bytes(), attributes)
    return found


def put(image: Image, dir: Path) -> Path:
    """Make a directory of an image."""
    dir.mkdir()
    for name, (content, attributes) in image.items():
        (dir / name).write_bytes(content)
        for attribute, value in attributes:
            os.setxattr(dir / name, attribute, value)
    return dir


class Recorder:
    """Copies a directory after every change, and notes the numbers that were acknowledged by then."""

    def __init__(self, patch: pytest.MonkeyPatch, dir: Path) -> None:
        self.dir = dir
        self.acknowledged: list[int] = []
        self.images: list[tuple[str, Image, list[int]]] = []
        self._seen: dict[int, int] = {}
        self._lock = threading.RLock()
        # Writes by the kernel's threads could not be stopped between.
        patch.setattr(probe, "_probe_async", lambda *args: None)
        for name in CHANGES:
            patch.setattr(fs, name, self._recording(name, getattr(fs, name)))

    def _recording(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def recording(*args: Any) -> Any:
            with self._lock:
                result = call(*args)
                if name != "open" or args[1] & os.O_CREAT:
                    self.take(f"{len(self.images)}: {name} {args[0]}")
                return result

        return recording

    def take(self, what: str) -> tuple[Image, list[int]]:
        """Keep a copy; if there is one like it, it has to have what is acknowledged by now. Return it with that."""
        with self._lock:
            image, acknowledged = image_of(self.dir), list(self.acknowledged)
        key = hash(tuple(image.items()))
        if key in self._seen:
            self.images[self._seen[key]] = (what, image, acknowledged)
        else:
            self._seen[key] = len(self.images)
            self.images.append((what, image, acknowledged))
        return image, acknowledged


class Program:
    """The README's program, on one directory."""

    def __init__(self, dir: Path, loop: Loop, members: dict[int, str]) -> None:
        self.members = members
        self.loop = loop
        self.node = Node(dir, 1, members, loop)
        r = self.node.raft
        assert raft_init(r, self.node.io, self.node.fsm, 1, members[1]) == 0, raft_errmsg(r)
        self.node.uv.segment_size = SEGMENT_SIZE
        raft_set_election_timeout(r, 50)
        raft_set_heartbeat_timeout(r, 10)

    def configuration(self) -> RaftConfiguration:
        """Return the first configuration: this server alone."""
        conf = RaftConfiguration()
        assert raft_configuration_add(conf, 1, self.members[1], RAFT_VOTER) == 0
        return conf

    def start(self) -> int:
        """Bootstrap if this is the first start, and start; return the code of raft_start."""
        r = self.node.raft
        assert raft_bootstrap(r, self.configuration()) in (0, RAFT_CANTBOOTSTRAP), raft_errmsg(r)
        return raft_start(r)

    def recover(self) -> None:
        """Declare this server's log to be the cluster's."""
        assert raft_recover(self.node.raft, self.configuration()) == 0, raft_errmsg(self.node.raft)

    def leads(self) -> bool:
        """Return whether the server leads, within a moment: alone it does so at once."""
        return self.node.state == RAFT_LEADER

    def apply(self, number: int) -> None:
        """Have a command applied."""
        assert self.node.try_apply(number) == 0

    def close(self) -> None:
        """End."""
        if not self.node.closed:
            self.node.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop for all programs of a test."""
    loop = Loop()
    yield loop
    loop.close()


def leads_with(image: Image, acknowledged: list[int], dir: Path, loop: Loop, members: dict[int, str]) -> str:
    """Start the program on an image; return what is wrong: it has to lead, and to have applied what it acknowledged."""
    program = Program(put(image, dir), loop, members)
    try:
        rv = program.start()
        if rv != 0:
            return f"raft_start: {rv}: {raft_errmsg(program.node.raft)}"
        if not program.leads():
            return "no leader"
        run_until(loop, lambda: len(program.node.fsm.numbers) >= len(acknowledged))
        found = program.node.fsm.numbers[: len(acknowledged)]
        if found != acknowledged:
            return f"{acknowledged} were acknowledged and {found} are there"
        program.apply(99)
        left = marker.BOOTSTRAP_NAME in os.listdir(dir)
        return "the note of the bootstrap is still there" if left else ""
    finally:
        program.close()


def wrong(recorder: Recorder, tmp_path: Path, loop: Loop, members: dict[int, str]) -> list[str]:
    """Return what is wrong on which image."""
    found = []
    for i, (what, image, acknowledged) in enumerate(recorder.images):
        problem = leads_with(image, acknowledged, tmp_path / f"copy-{i}", loop, members)
        if problem:
            found.append(f"behind {what} ({', '.join(image)}): {problem}")
    return found


def live(program: Program, recorder: Recorder, *numbers: int) -> None:
    """Start, apply some numbers, and close."""
    assert program.start() == 0, raft_errmsg(program.node.raft)
    for number in numbers:
        program.apply(number)
        recorder.acknowledged.append(number)
    program.close()


def test_a_first_start(tmp_path: Path, loop: Loop) -> None:
    """It leads from an empty directory to the end: init, bootstrap, load, start, term and vote, entries, close."""
    dir, members = tmp_path / "data", free_addresses(1)
    dir.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch, dir)
        live(Program(dir, loop, members), recorder, 1, 2, 3)
    assert len(recorder.images) > 30
    assert wrong(recorder, tmp_path, loop, members) == []


def test_a_start_behind_a_kill(tmp_path: Path, loop: Loop) -> None:
    """Open segments are closed, what was never complete goes, and so on, and that may be stopped as well."""
    dir, members = tmp_path / "data", free_addresses(1)
    dir.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        first = Recorder(patch, dir)
        program = Program(dir, loop, members)
        assert program.start() == 0
        for number in range(1, 5):
            program.node.try_apply(number, 6000)
            first.acknowledged.append(number)
        image, acknowledged = first.take("the kill")
        program.close()
    put(image, tmp_path / "again")
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch, tmp_path / "again")
        recorder.acknowledged.extend(acknowledged)
        live(Program(tmp_path / "again", loop, members), recorder, 5)
    assert len(recorder.images) > 10
    assert wrong(recorder, tmp_path, loop, members) == []


def with_log(dir: Path, loop: Loop, members: dict[int, str], *numbers: int) -> None:
    """Make a directory of a server that has applied some numbers and was closed."""
    dir.mkdir()
    program = Program(dir, loop, members)
    assert program.start() == 0
    for number in numbers:
        program.apply(number)
    program.close()


def damage(dir: Path) -> None:
    """Flip a byte in the last closed segment."""
    path = sorted(path for path in dir.iterdir() if path.name[0] == "0")[-1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def refused_or_leads(recorder: Recorder, tmp_path: Path, loop: Loop, members: dict[int, str]) -> tuple[int, list[str]]:
    """Start the program on every image, then recover it there; return how many led before, and what is wrong."""
    led, found = 0, []
    for i, (what, image, _) in enumerate(recorder.images):
        problem = leads_with(image, [], tmp_path / f"copy-{i}", loop, members)
        led += not problem
        if problem and f"raft_start: {RAFT_CORRUPT}" not in problem:
            found.append(f"behind {what}: {problem}")
        program = Program(put(image, tmp_path / f"recovered-{i}"), loop, members)
        program.recover()
        if program.start() != 0 or not program.leads():
            found.append(f"behind {what}, recovered again: {raft_errmsg(program.node.raft)}")
        program.close()
    return led, found


def test_a_recovery_by_itself(tmp_path: Path, loop: Loop) -> None:
    """It sets damaged files aside: a voter that is alone is refused before and after, and raft_recover helps it."""
    dir, members = tmp_path / "data", free_addresses(1)
    with_log(dir, loop, members, 1, 2, 3)
    damage(dir)
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch, dir)
        recorder.take("the damage")
        program = Program(dir, loop, members)
        assert program.start() == RAFT_CORRUPT
        program.close()
    assert marker.marker_read(str(dir)) is not None
    led, problems = refused_or_leads(recorder, tmp_path, loop, members)
    assert (led, problems) == (0, [])


def lost_metadata(dir: Path) -> None:
    """Remove term and vote."""
    for path in dir.glob("metadata*"):
        path.unlink()


@pytest.mark.parametrize("spoil", [damage, lost_metadata])
def test_raft_recover(tmp_path: Path, loop: Loop, spoil: Callable[[Path], None]) -> None:
    """Stopped anywhere, it can be repeated; a server that starts without that is one that had it, or is refused."""
    dir, members = tmp_path / "data", free_addresses(1)
    with_log(dir, loop, members, 1, 2, 3)
    spoil(dir)
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch, dir)
        recorder.take("the damage")
        program = Program(dir, loop, members)
        program.recover()
        live(program, recorder)
    led, problems = refused_or_leads(recorder, tmp_path, loop, members)
    assert problems == []
    assert 0 < led < len(recorder.images)


def test_raft_recover_of_a_server_of_three(tmp_path: Path, loop: Loop) -> None:
    """Until the new configuration is durable it is one of three that waits for the others, then it leads alone."""
    dir, members = tmp_path / "data", free_addresses(3)
    dir.mkdir()
    node = Node(dir, 1, members, loop).start()
    node.close()
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch, dir)
        recorder.take("nothing")
        program = Program(dir, loop, members)
        program.recover()
        live(program, recorder, 1)
    outcomes, after = [], False
    for i, (what, image, acknowledged) in enumerate(recorder.images):
        after = after or "0000000000000002-0000000000000002" in image
        problem = leads_with(image, acknowledged, tmp_path / f"copy-{i}", loop, members)
        if problem != ("" if after else "no leader"):
            outcomes.append(f"behind {what}: {problem}")
    assert outcomes == []


def test_a_server_that_has_joined_is_not_bootstrapped(tmp_path: Path, loop: Loop) -> None:
    """A term and no entries are what a server has that others have called; that does not count as a bootstrap,
    whatever the term."""
    for term in (1, 2):
        dir, members = tmp_path / str(term), free_addresses(1)
        dir.mkdir()
        program = Program(dir, loop, members)
        assert raft_start(program.node.raft) == 0
        assert program.node.io.set_term(program.node.io, term) == 0
        program.close()
        again = Program(dir, loop, members)
        assert raft_bootstrap(again.node.raft, again.configuration()) == RAFT_CANTBOOTSTRAP
        again.close()


def test_an_interrupted_bootstrap_is_told(tmp_path: Path, loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    """A program that does not bootstrap again is told what it waits for; another term ends the matter."""
    dir, members = tmp_path / "data", free_addresses(1)
    dir.mkdir()
    marker.bootstrap_begin(str(dir))
    metadata.store(str(dir), Metadata(1, 1, 0))
    program = Program(dir, loop, members)
    assert raft_start(program.node.raft) == 0
    assert "a bootstrap was interrupted" in caplog.text
    assert program.node.io.set_term(program.node.io, 2) == 0
    program.close()
    again = Program(dir, loop, members)
    assert raft_bootstrap(again.node.raft, again.configuration()) == RAFT_CANTBOOTSTRAP
    again.close()
