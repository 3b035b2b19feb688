"""Power cuts at every moment of a scripted run, with every loss, and what a server finds afterwards.

`Script` drives a RaftIo on a `MemoryFs` and notes in the journal what was asked for and what was acknowledged. `check`
replays the journal: after each event it lets the power fail in all the ways that `crashfs.losses` knows, starts on the
image, with automatic recovery off and on, and compares: every acknowledged entry, term, vote and snapshot is there,
nothing is there that was not asked for, and the directory can be written on and loaded again. Starting changes the
directory too, so power fails once more at every moment of that.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from io_uv import disk, marker, metadata, raft_uv_set_block_size, raft_uv_set_segment_size, segment
from io_uv.fs import Failure
from io_uv.state import Metadata
from pyraft import configuration
from pyraft.types import (
    RAFT_CHANGE,
    RAFT_COMMAND,
    EntryBatch,
    RaftEntry,
    RaftIoAppend,
    RaftIoSnapshotPut,
    RaftSnapshot,
)
from tests.lib.crashfs import DIR, Event, Image, MemoryFs, Replay, installed
from tests.lib.disk import conf
from tests.lib.uvtest import Outcome, UvIo, run_until

Entry: TypeAlias = tuple[int, int, bytes]
"""Term, type, payload."""

BLOCK_SIZE = 1024
SEGMENT_SIZE = 4096


class Expected:
    """What may and what must be on the disk, by what was asked for and what was acknowledged."""

    def __init__(self) -> None:
        # Term and vote: the acknowledged ones, and those under way.
        self.state = (0, 0)
        self.states: set[tuple[int, int]] = {(0, 0)}
        # Entries by index: acknowledged ones, and all that may be there, with the serial number of the append.
        self.must: dict[int, Entry] = {}
        self.may: dict[int, dict[Entry, int]] = {}
        # A truncate that no acknowledged append has followed yet: its serial number and index.
        self.cut: tuple[int, int] | None = None
        # Snapshots by index: content; the newest acknowledged, and the install under way.
        self.snapshots: dict[int, tuple[int, bytes]] = {}
        self.snapshot = 0
        self.install: int | None = None

    def note(self, kind: str, *args: Any) -> None:
        """Take over a note of the script."""
        getattr(self, "_" + kind)(*args)

    def _asked_state(self, state: tuple[int, int]) -> None:
        self.states.add(state)

    def _state(self, state: tuple[int, int]) -> None:
        self.state = state
        self.states = {state}

    def _append(self, serial: int, first: int, entries: Sequence[Entry]) -> None:
        for index, entry in enumerate(entries, first):
            self.may.setdefault(index, {})[entry] = serial

    def _appended(self, serial: int, first: int, entries: Sequence[Entry]) -> None:
        cut, self.cut = self.cut, None
        if cut is not None and serial < cut[0]:
            self.cut = cut
        elif cut is not None:
            # The truncate has been carried out before this append: what it removed must not come back.
            for index, found in self.may.items():
                if index >= cut[1]:
                    self.may[index] = {entry: when for entry, when in found.items() if when > cut[0]}
            self.must = {index: entry for index, entry in self.must.items() if index < cut[1]}
        for index, entry in enumerate(entries, first):
            self.must[index] = entry

    def _truncate(self, serial: int, index: int) -> None:
        self.cut = (serial, index if self.cut is None else min(self.cut[1], index))

    def _put(self, index: int, term: int, data: bytes, install: bool) -> None:
        self.snapshots[index] = (term, data)
        if install:
            self.install = index

    def _stored(self, index: int) -> None:
        self.snapshot = max(self.snapshot, index)
        if self.install is not None:
            self.must = {}
            self.may = {}
            self.install = None

    def problems(self, found: "Found") -> str:
        """Return what is wrong with what a start found, "" if nothing."""
        if (found.term, found.voted_for) not in self.states | {self.state}:
            return f"term and vote {found.term, found.voted_for} instead of {self.state}"
        at = 0
        if found.snapshot is not None:
            at = found.snapshot.index
            content = (found.snapshot.term, b"".join(bytes(buf) for buf in found.snapshot.bufs))
            if self.snapshots.get(at) != content:
                return f"snapshot at {at} has another content"
        if at < self.snapshot:
            return f"snapshot at {at} instead of {self.snapshot}"
        if not found.entries.bufs and found.start_index != at + 1:
            return f"start index {found.start_index} behind a snapshot at {at}"
        if found.start_index > at + 1:
            return f"a gap between snapshot at {at} and the log from {found.start_index}"
        return self._log_problems(found, at)

    def _log_problems(self, found: "Found", at: int) -> str:
        log = found.log()
        replaced = self.install is not None and at == self.install
        for index, entry in log.items():
            if entry not in self.may.get(index, {}):
                return f"entry {index} was never asked for"
        for index, entry in self.must.items():
            if index <= at or replaced or (self.cut is not None and index >= self.cut[1]):
                continue
            if log.get(index) != entry:
                return f"acknowledged entry {index} is {'another' if index in log else 'missing'}"
        return ""


class Found:
    """What a start on an image found."""

    def __init__(self, auto_recovery: bool) -> None:
        state = metadata.load(DIR)
        self.version, self.term, self.voted_for = state.version, state.term, state.voted_for
        disk.clean_up(DIR)
        self.snapshot: RaftSnapshot | None
        self.snapshot, self.start_index, self.entries = disk.load(DIR, auto_recovery)
        self.marked = marker.marker_read(DIR) is not None

    def log(self) -> dict[int, Entry]:
        """Return the entries by index."""
        columns = zip(self.entries.terms, self.entries.types, self.entries.bufs, strict=True)
        return dict(enumerate(columns, self.start_index))


def _start(image: Image, auto_recovery: bool) -> tuple[Found | None, str, MemoryFs]:
    """Start on an image; return what was found, or why that failed, and the file system afterwards."""
    with installed(MemoryFs(image)) as memory:
        try:
            found = Found(auto_recovery)
        except Failure as exc:
            return None, exc.message, memory
    return found, "a marker was left" if found.marked else "", memory


def _goes_on(found: Found, memory: MemoryFs) -> str:
    """Store a term and append an entry, load again; return what is wrong, "" if nothing."""
    entry: Entry = (found.term + 1, RAFT_COMMAND, b"goes on!")
    with installed(memory):
        metadata.store(DIR, Metadata(found.version + 1, found.term + 1, 0))
        index = found.start_index + len(found.entries)
        segment.write_closed(DIR, index, [EntryBatch([entry[0]], [entry[1]], [entry[2]])])
        try:
            again = Found(False)
        except Failure as exc:
            return f"does not load again: {exc.message}"
    if again.term != found.term + 1 or again.log() != {**found.log(), index: entry}:
        return "does not go on from what was found"
    return ""


class Report:
    """What was tried."""

    def __init__(self) -> None:
        self.events = 0
        self.states = 0
        self.images = 0
        self.restarts = 0
        self.calls: Counter[str] = Counter()
        self.problems: list[str] = []

    def add(self, other: "Report") -> None:
        """Add up."""
        self.events += other.events
        self.states += other.states
        self.images += other.images
        self.restarts += other.restarts
        self.calls += other.calls
        self.problems += other.problems

    def __str__(self) -> str:
        return (
            f"{self.states} crash states after {self.events} events ({self.images} different directories), "
            f"{self.restarts} of them of a power cut during the start after another, {len(self.problems)} problems"
        )


class Checker:
    """Checks the journals of one file system."""

    def __init__(self, seed: int, more: int, nested: float) -> None:
        self.rng = random.Random(seed)
        self.more = more
        self.nested = nested
        self.report = Report()
        self._starts: dict[tuple[int, bool], tuple[Found | None, str]] = {}

    def check(self, memory: MemoryFs) -> Report:
        """Let the power fail after every event of the journal."""
        replay, expected = Replay(memory.base), Expected()
        for number, event in enumerate(memory.journal):
            if event[0] == "note":
                expected.note(*event[1:])
            else:
                replay.step(event)
                self.report.calls[event[0]] += 1
            self.report.events += 1
            for image in replay.losses(self.rng, self.more):
                self.report.states += 1
                self._try(image, expected, f"event {number} {_brief(event)}", nested=True)
        return self.report

    def _try(self, image: Image, expected: Expected, where: str, nested: bool) -> None:
        for auto_recovery in (False, True):
            known = self._starts.get((image.key, auto_recovery))
            if known is None:
                known = self._first_start(image, auto_recovery, expected, where, nested)
            found, problem = known
            if found is not None and not problem:
                problem = expected.problems(found)
            if problem:
                self._record(image, f"{where}, recovery {'on' if auto_recovery else 'off'}: {problem}")

    def _first_start(
        self, image: Image, auto_recovery: bool, expected: Expected, where: str, nested: bool
    ) -> tuple[Found | None, str]:
        found, problem, memory = _start(image, auto_recovery)
        self.report.images += not auto_recovery
        journal = list(memory.journal)
        if found is not None and not problem:
            problem = _goes_on(found, memory)
        known = self._starts[image.key, auto_recovery] = found, problem
        if nested and journal and self.rng.random() < self.nested:
            replay = Replay(image)
            for number, event in enumerate(journal):
                replay.step(event)
                for again in replay.losses(self.rng, 1):
                    self.report.restarts += 1
                    self.report.states += 1
                    self._try(again, expected, f"{where}, then {number} {_brief(event)}", nested=False)
        return known

    def _record(self, image: Image, problem: str) -> None:
        names = ", ".join(f"{name} ({len(content)})" for name, (content, _) in sorted(image.files.items()))
        self.report.problems.append(f"{problem}; files: {names}")


def _brief(event: Event) -> str:
    return " ".join(str(part) for part in event if not isinstance(part, bytes | list))[:80]


# ---- scripts ---------------------------------------------------------------------------------------------------------


class Script:
    """Drives a RaftIo on a MemoryFs and notes what it asks for and what is acknowledged."""

    def __init__(self, memory: MemoryFs, seed: int = 0) -> None:
        self.memory = memory
        self.rng = random.Random(seed)
        self.counter = 0
        self._serial = 0
        self.term = 0
        self.uv = self._open()

    def _open(self) -> UvIo:
        uv = UvIo(Path(DIR))
        assert uv.init() == 0, uv.io.errmsg
        raft_uv_set_block_size(uv.io, BLOCK_SIZE)
        raft_uv_set_segment_size(uv.io, SEGMENT_SIZE)
        loaded = uv.io.load(uv.io)
        assert loaded[0] == 0, uv.io.errmsg
        return uv

    def serial(self) -> int:
        """Return a number above all before."""
        self._serial += 1
        return self._serial

    @property
    def next_index(self) -> int:
        """Index of the next entry."""
        index: int = self.uv.uv.append_next_index
        return index

    def restart(self) -> None:
        """Close and open again."""
        self.close()
        self.uv = self._open()

    def close(self) -> None:
        """Close the instance."""
        self.uv.close()

    def set_term(self, term: int) -> None:
        """Store a term."""
        self.memory.note("asked_state", (term, 0))
        assert self.uv.io.set_term(self.uv.io, term) == 0, self.uv.io.errmsg
        self.memory.note("state", (term, 0))
        self.term = term

    def set_vote(self, id: int) -> None:
        """Store a vote."""
        self.memory.note("asked_state", (self.term, id))
        assert self.uv.io.set_vote(self.uv.io, id) == 0, self.uv.io.errmsg
        self.memory.note("state", (self.term, id))

    def bootstrap(self) -> None:
        """Bootstrap with one server."""
        entry = (1, RAFT_CHANGE, configuration.encode(conf()))
        self.memory.note("asked_state", (1, 0))
        self.memory.note("append", self.serial(), 1, [entry])
        assert self.uv.io.bootstrap(self.uv.io, conf()) == 0, self.uv.io.errmsg
        self.memory.note("state", (1, 0))
        self.memory.note("appended", self.serial(), 1, [entry])
        self.term = 1
        self.uv.io.load(self.uv.io)

    def recover(self) -> None:
        """Recover with one server, as a program does that is no running server."""
        entry = (max(self.term, 1), RAFT_CHANGE, configuration.encode(conf()))
        self.memory.note("append", self.serial(), self.next_index, [entry])
        index = self.next_index
        assert self.uv.io.recover(self.uv.io, conf()) == 0, self.uv.io.errmsg
        self.memory.note("appended", self.serial(), index, [entry])
        self.restart()

    def _entries(self, sizes: Sequence[int]) -> list[Entry]:
        made = []
        for size in sizes:
            self.counter += 1
            made.append((self.term, RAFT_COMMAND, self.counter.to_bytes(8, "little") + self.rng.randbytes(size - 8)))
        return made

    def submit(self, *sizes: int) -> Outcome:
        """Append entries of these sizes as one batch; do not wait. The acknowledgement is noted."""
        serial, first, entries = self.serial(), self.next_index, self._entries(sizes)
        self.memory.note("append", serial, first, entries)
        outcome = Outcome()

        def done(req: RaftIoAppend, status: int) -> None:
            if status == 0:
                self.memory.note("appended", serial, first, entries)
            outcome(req, status)

        batch = [RaftEntry(*entry) for entry in entries]
        assert self.uv.io.append(self.uv.io, RaftIoAppend(), batch, len(batch), done) == 0, self.uv.io.errmsg
        return outcome

    def wait(self, *outcomes: Outcome) -> None:
        """Wait for these."""
        run_until(self.uv.loop, lambda: all(outcome.calls for outcome in outcomes))

    def append(self, *sizes: int) -> None:
        """Append a batch and wait."""
        self.wait(self.submit(*sizes))

    def truncate(self, index: int) -> None:
        """Truncate; do not wait."""
        self.memory.note("truncate", self.serial(), index)
        assert self.uv.io.truncate(self.uv.io, index) == 0, self.uv.io.errmsg

    def put(self, index: int, trailing: int, size: int = 20) -> Outcome:
        """Put a snapshot; do not wait. trailing 0 installs."""
        snapshot = RaftSnapshot()
        snapshot.index, snapshot.term, snapshot.configuration_index = index, self.term, 1
        snapshot.configuration = conf()
        snapshot.bufs = [self.rng.randbytes(size)]
        self.memory.note("put", index, self.term, snapshot.bufs[0], trailing == 0)
        outcome = Outcome()

        def done(req: RaftIoSnapshotPut, status: int) -> None:
            assert status == 0, self.uv.io.errmsg
            self.memory.note("stored", index)
            outcome(req, status)

        rv = self.uv.io.snapshot_put(self.uv.io, trailing, RaftIoSnapshotPut(), snapshot, done)
        assert rv == 0, self.uv.io.errmsg
        return outcome


def terms_and_votes(s: Script) -> None:
    """Terms and votes in both files, and over a restart."""
    s.set_term(1)
    s.set_vote(2)
    s.set_term(2)
    s.set_term(5)
    s.restart()
    s.set_vote(1)
    s.set_term(6)


def appends_and_rolls(s: Script) -> None:
    """Small and large entries over several segments, with part-filled and exactly filled blocks."""
    s.bootstrap()
    s.append(64)
    s.append(256, 256)
    s.append(8)
    for size in (600, 1000, 304, 2000, 64):
        s.append(size)
    s.append(*[64] * 30)
    s.append(64)


def gathered_writes(s: Script) -> None:
    """Several batches in one write, in the first write of a segment too."""
    s.bootstrap()
    outcomes = [s.submit(*[40] * n) for n in (1, 3, 2, 5, 1)]
    s.wait(*outcomes)
    outcomes = [s.submit(size) for size in (104, 504, 40, 1000, 8, 600)]
    s.wait(*outcomes)
    outcomes = [s.submit(200) for _ in range(20)]
    s.wait(*outcomes)


def restarts(s: Script) -> None:
    """Segments are closed by io.close and found by the next start."""
    s.bootstrap()
    s.append(64)
    s.restart()
    s.append(64, 128)
    s.append(2000)
    s.restart()
    s.set_term(2)
    s.append(64)


def truncates(s: Script) -> None:
    """In the middle of a segment, at its start, over several, with writes pending."""
    s.bootstrap()
    for size in (64, 64, 1504, 1504, 64, 1504, 1504, 64):
        s.append(size)
    s.set_term(2)
    s.truncate(7)
    s.append(80)
    s.truncate(3)
    s.append(88)
    first = s.submit(96)
    s.set_term(3)
    s.truncate(s.next_index - 1)
    s.wait(first, s.submit(104))
    s.truncate(2)
    s.append(112)


def snapshots(s: Script) -> None:
    """Local snapshots while entries go on, with few and many trailing entries."""
    s.bootstrap()
    for _ in range(6):
        s.append(1200)
    s.wait(s.put(4, 2), s.submit(64))
    for _ in range(3):
        s.append(1200)
    s.wait(s.put(8, 100, size=3000))
    s.append(64)
    s.wait(s.put(10, 1), s.submit(504))
    s.append(64)


def installs(s: Script) -> None:
    """A snapshot replaces a log that is shorter, and one that is longer and of another term."""
    s.bootstrap()
    for _ in range(4):
        s.append(1504)
    s.set_term(2)
    s.wait(s.put(20, 0))
    for _ in range(5):
        s.append(1504)
    s.set_term(3)
    s.wait(s.put(22, 0, size=2000))
    s.append(64)
    s.append(64)


def recovers(s: Script) -> None:
    """A new configuration is appended to a log that ends in a closed segment."""
    s.bootstrap()
    s.append(64)
    s.set_term(4)
    s.append(1504, 2000)
    s.restart()
    s.recover()
    s.append(64)


SCRIPTS: dict[str, Callable[[Script], None]] = {
    function.__name__: function
    for function in (
        terms_and_votes,
        appends_and_rolls,
        gathered_writes,
        restarts,
        truncates,
        snapshots,
        installs,
        recovers,
    )
}


def run(name: str, seed: int = 0, more: int = 2, nested: float = 0.1) -> Report:
    """Run a script, then let the power fail at every moment of it."""
    with installed(MemoryFs()) as memory:
        script = Script(memory, seed)
        SCRIPTS[name](script)
        script.close()
    return Checker(seed, more, nested).check(memory)
