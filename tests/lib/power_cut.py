"""Power cuts at every moment of a scripted run, with every loss, and what a server finds afterwards.

A script (`power_cut_scripts`) leaves a journal of what it did to the disk, what it asked for and what was acknowledged.
`Checker` replays it: after each event it lets the power fail in all the ways that `Replay.losses` knows, starts on the
image, with automatic recovery off and on, and compares: every acknowledged entry, term, vote and snapshot is there,
nothing is there that was not asked for, and the server goes on: the directory can be written and loaded again.
Starting changes the directory too, so power fails once more at every moment of that.
"""

import copy
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from io_uv import disk, marker, metadata, segment
from io_uv.failure import Failure
from io_uv.state import Metadata
from pyraft.types import (
    RAFT_COMMAND,
    EntryBatch,
    RaftSnapshot,
)
from tests.lib.crashfs import DIR, Event, Image, MemoryFs, Replay, installed
from tests.lib.uvtest import UvIo

Entry: TypeAlias = tuple[int, int, bytes]
"""Term, type, payload."""

BLOCK_SIZE = 1024
SEGMENT_SIZE = 4096


class Expected:
    """The content that may and that must be on the disk, by what was asked for and what was acknowledged."""

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

    def problems(self, found: "Found", fall_back: bool = False) -> str:
        """Return what is wrong with what a start found, "" if nothing; `fall_back` accepts an older snapshot."""
        if (found.term, found.voted_for) not in self.states | {self.state}:
            return f"term and vote {found.term, found.voted_for} instead of {self.state}"
        at = 0
        if found.snapshot is not None:
            at = found.snapshot.index
            content = (found.snapshot.term, b"".join(bytes(buf) for buf in found.snapshot.bufs))
            if self.snapshots.get(at) != content:
                return f"snapshot at {at} has another content"
        if at < self.snapshot and not fall_back:
            return f"snapshot at {at} instead of {self.snapshot}"
        if not found.entries.bufs and found.start_index != at + 1:
            return f"start index {found.start_index} behind a snapshot at {at}"
        if found.start_index > at + 1:
            return f"a gap between snapshot at {at} and the log from {found.start_index}"
        if found.snapshot is not None and at in found.log() and found.log()[at][0] != found.snapshot.term:
            return f"the log contradicts the snapshot at {at}"
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
    """The findings of a start on an image."""

    def __init__(self, auto_recovery: bool) -> None:
        state = metadata.load(DIR)
        self.version, self.term, self.voted_for = state.version, state.term, state.voted_for
        disk.clean_up(DIR)
        self.snapshot: RaftSnapshot | None
        self.snapshot, self.start_index, self.entries = disk.load(DIR, auto_recovery)
        self.marked = marker.marker_read(DIR) is not None

    def state(self) -> tuple[Any, ...]:
        """Return all that the server acts on."""
        snapshot = self.snapshot and (self.snapshot.index, self.snapshot.term, bytes(self.snapshot.bufs[0]))
        return self.term, self.voted_for, snapshot, self.start_index, self.log()

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


def _lives_on(image: Image, found: Found) -> str:
    """Start a RaftIo on an image, let it store a term, entries and a snapshot, restart; return what is wrong.

    It is killed between entries and snapshot, too.
    """
    with installed(MemoryFs(image)) as memory:
        uv = UvIo(Path(DIR)).start()
        index = uv.uv.append_next_index
        assert uv.io.set_term(uv.io, found.term + 1) == 0, uv.io.errmsg
        for size in (64, 2000, 2000):
            uv.append(size=size, term=found.term + 1)
        killed = Image({name: (bytes(f.content), tuple(f.attributes.items())) for name, f in memory.names.items()})
        put = uv.put(index, term=found.term + 1)
        uv.wait(put)
        assert put.statuses == [0], uv.io.errmsg
        uv.append(size=64, term=found.term + 1)
        again = uv.reopen()
        loaded = again.loaded
        again.close()
    _, term, _, snapshot, start_index, entries = loaded
    if term != found.term + 1 or snapshot is None or snapshot.index != index or start_index > index + 1:
        return "does not live on"
    if start_index + len(entries) != index + 4:
        return "does not live on with all entries"
    after, problem, _ = _start(killed, False)
    if after is None or after.start_index + len(after.entries) != index + 3:
        return f"does not live on after a kill {problem}"
    return ""


class Report:
    """The counts of tries."""

    def __init__(self) -> None:
        self.events = 0
        self.states = 0
        self.images = 0
        self.restarts = 0
        self.lives = 0
        self.calls: Counter[str] = Counter()
        self.problems: list[str] = []

    def add(self, other: "Report") -> None:
        """Add up."""
        self.events += other.events
        self.states += other.states
        self.images += other.images
        self.restarts += other.restarts
        self.lives += other.lives
        self.calls += other.calls
        self.problems += other.problems

    def __str__(self) -> str:
        return (
            f"{self.states} crash states after {self.events} events ({self.images} different directories), "
            f"{self.restarts} of them of a second power cut during the start, {self.lives} servers run on, "
            f"{len(self.problems)} problems"
        )


class Checker:
    """Checks a journal.

    `more` random combinations of losses are tried where there are too many; on a part of the different directories
    (`nested`, `live` from 0 to 1) the power fails again during the start, and a whole RaftIo goes on. After a part of
    the events (`killed`) only the process dies, and the power fails during the next start.
    """

    def __init__(self, seed: int, more: int, nested: float, live: float, killed: float) -> None:
        self.rng = random.Random(seed)
        self.killed = killed
        self.more = more
        self.nested = nested
        self.live = live
        self.report = Report()
        self._starts: dict[tuple[int, bool], tuple[Found | None, str]] = {}

    def check(self, memory: MemoryFs, stop: bool = False) -> Report:
        """Let the power fail after every event of the journal; with `stop` up to the first problem only."""
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
                if stop and self.report.problems:
                    return self.report
            if self.rng.random() < self.killed:
                self._kill(replay, expected, f"kill after event {number} {_brief(event)}")
        return self.report

    def _kill(self, replay: Replay, expected: Expected, where: str) -> None:
        """Let the process die, start another, and cut the power at every moment of that start and after it.

        The server acts on what the start returned, so all of it must be durable by then.
        """
        memory, replay = replay.running(), copy.deepcopy(replay)
        with installed(memory):
            try:
                found = Found(False)
            except Failure as exc:
                self.report.problems.append(f"{where}: {exc.message}")
                return
        problem = expected.problems(found)
        if problem:
            self.report.problems.append(f"{where}: {problem}")
        for number, event in enumerate(memory.journal):
            replay.step(event)
            for image in replay.losses(self.rng, 1):
                self.report.states += 1
                self._try(image, expected, f"{where}, then {number} {_brief(event)}", nested=False)
        for image in replay.losses(self.rng, 1):
            again, problem, _ = _start(image, False)
            if again is None or again.state() != found.state():
                self._record(image, f"{where}: what was loaded is not durable {problem}")

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
            if not problem and self.rng.random() < self.live:
                self.report.lives += 1
                problem = _lives_on(image, found)
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
