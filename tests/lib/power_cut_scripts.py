"""Runs of a server for `power_cut` to cut short, and a command that does so at length.

A script is a function of a `Script`, which drives a RaftIo on a `MemoryFs` and notes in its journal what it asks for
and what is acknowledged. Together they do everything that changes a data directory, on a sick disk as well.

    python -m tests.lib.power_cut_scripts --rounds 5 --seed 1
"""

import argparse
import errno
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from io_uv import raft_uv_set_block_size, raft_uv_set_segment_size
from pyraft import configuration
from pyraft.types import RAFT_CHANGE, RAFT_COMMAND, RaftEntry, RaftIoAppend, RaftIoSnapshotPut, RaftSnapshot
from tests.lib.crashfs import DIR, MemoryFs, installed
from tests.lib.disk import conf
from tests.lib.power_cut import Checker, Entry, Report
from tests.lib.uvtest import Outcome, UvIo, run_until

BLOCK_SIZE = 1024
SEGMENT_SIZE = 4096


class Script:
    """Drives a RaftIo on a MemoryFs and notes what it asks for and what is acknowledged."""

    def __init__(self, memory: MemoryFs, seed: int = 0) -> None:
        self.memory = memory
        self.memory.fail = self._fail
        # Calls that are going to fail: name of the call, part of the file's name, how often.
        self.failing: list[list[Any]] = []
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
        uv.uv.disk_retry_delay = 1
        loaded = uv.io.load(uv.io)
        assert loaded[0] == 0, uv.io.errmsg
        return uv

    def _fail(self, call: str, name: str) -> None:
        for failing in self.failing:
            if failing[0] == call and failing[1] in name and failing[2] > 0:
                failing[2] -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    def fail(self, call: str, name: str, times: int = 1) -> None:
        """Let the next calls fail on files whose name has `name` in it."""
        self.failing.append([call, name, times])

    def has_failed(self) -> bool:
        """Return whether all failures that were asked for have happened, and forget them."""
        done = all(failing[2] == 0 for failing in self.failing)
        self.failing.clear()
        return done

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
        """Recover with one server, as a program does without a running server."""
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
            else:
                self.memory.note("truncate", self.serial(), first)
            outcome(req, status)

        batch = [RaftEntry(*entry) for entry in entries]
        assert self.uv.io.append(self.uv.io, RaftIoAppend(), batch, len(batch), done) == 0, self.uv.io.errmsg
        return outcome

    def wait(self, *outcomes: Outcome) -> None:
        """Wait for these."""
        run_until(self.uv.loop, lambda: all(outcome.calls for outcome in outcomes))

    def append(self, *sizes: int) -> None:
        """Append a batch and wait; it must succeed."""
        outcome = self.submit(*sizes)
        self.wait(outcome)
        assert outcome.statuses == [0], self.uv.io.errmsg

    def insist(self, *sizes: int) -> None:
        """Append a batch, again and again until it succeeds."""
        deadline = time.monotonic() + 30
        while True:
            outcome = self.submit(*sizes)
            self.wait(outcome)
            if outcome.statuses == [0]:
                return
            assert time.monotonic() < deadline, self.uv.io.errmsg

    def truncate(self, index: int) -> None:
        """Truncate; do not wait."""
        self.memory.note("truncate", self.serial(), index)
        assert self.uv.io.truncate(self.uv.io, index) == 0, self.uv.io.errmsg

    def put(self, index: int, trailing: int, size: int = 20, beyond: bool = False) -> Outcome:
        """Put a snapshot; do not wait. trailing 0 installs, as does one `beyond` a log whose appends failed."""
        snapshot = RaftSnapshot()
        snapshot.index, snapshot.term, snapshot.configuration_index = index, self.term, 1
        snapshot.configuration = conf()
        snapshot.bufs = [self.rng.randbytes(size)]
        self.memory.note("put", index, self.term, snapshot.bufs[0], trailing == 0 or beyond)
        outcome = Outcome()

        def done(req: RaftIoSnapshotPut, status: int) -> None:
            if status == 0:
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


def sick_writes(s: Script) -> None:
    """Writes fail, with the data on the disk, in part or not, and with others waiting behind them."""
    s.bootstrap()
    s.append(64)
    for call in ("append", "appended"):
        s.fail(call, "open-")
        outcomes = [s.submit(200, 200), s.submit(304), s.submit(64)]
        s.wait(*outcomes)
        assert s.has_failed()
        assert outcomes[0].statuses != [0]
        s.insist(72)
        s.append(80)
    s.append(2000)
    s.fail("appended", "open-")
    s.wait(s.submit(1000))
    s.restart()
    s.append(64)


def sick_segments(s: Script) -> None:
    """Segments cannot be prepared, cut, renamed or removed at first."""
    s.bootstrap()
    for call, name in (
        ("fallocate", "open-"),
        ("fsync", "open-"),
        ("ftruncate", "open-"),
        ("rename", "open-"),
        ("fsync", DIR),
        ("open", "open-"),
    ):
        s.insist(64)
        s.fail(call, name)
        s.insist(1504)
        s.insist(1504)
        s.insist(1504)
        s.insist(64)
    s.restart()
    s.append(64)


def sick_truncates(s: Script) -> None:
    """No step of a truncate works at first."""
    s.bootstrap()
    for call, name in (("unlink", "-0"), ("rename", "tmp-"), ("fsync", "tmp-"), ("fsync", DIR), ("read", "-0")):
        for size in (64, 1504, 1504, 64, 1504):
            s.insist(size)
        s.fail(call, name)
        s.truncate(s.next_index - 4)
        s.insist(104)
    s.restart()
    s.append(64)


def sick_snapshots(s: Script) -> None:
    """Snapshots fail at every step, and are put again."""
    s.bootstrap()
    for _ in range(4):
        s.append(1504)
    for call, name in (("open", ".meta"), ("fsync", ".meta"), ("rename", "tmp-snap"), ("fsync", "tmp-snap")):
        s.fail(call, name)
        s.wait(s.put(4, 1))
        s.has_failed()
        s.append(64)
    s.wait(s.put(5, 1))
    s.append(64)
    for call, name in (("unlink", "-0"), ("fsync", DIR)):
        s.append(1504)
        s.append(1504)
        s.fail(call, name)
        s.wait(s.put(s.next_index - 1, 1))
        s.has_failed()
        s.append(64)


def sick_installs(s: Script) -> None:
    """The log that an installed snapshot replaces cannot be removed at first."""
    s.bootstrap()
    for name, beyond, times in (("-0", 9, 2), ("-0", -1, 1), ("snapshot-", 9, 1)):
        for size in (1504, 1504, 1504, 64):
            s.append(size)
        s.set_term(s.term + 1)
        s.fail("unlink", name, times)
        put = s.put(s.next_index + beyond, 0)
        s.wait(put)
        assert s.has_failed()
        assert put.statuses == [0]
        s.append(64)
        s.append(1504)
    s.restart()
    s.append(64)


def sick_writes_under_snapshots(s: Script) -> None:
    """Writes fail before snapshots that hold what they were to store, and before or after those are asked for."""
    s.bootstrap()
    for call in ("append", "appended"):
        for size in (64, 1504, 64):
            s.insist(size)
        s.fail(call, "open-")
        outcomes = [s.submit(200), s.submit(64)]
        last = s.next_index - 1
        put = s.put(last, 1, beyond=True)
        s.wait(*outcomes, put)
        assert s.has_failed()
        assert (put.statuses, s.next_index) == ([0], last + 1)
        s.append(72)
        s.append(1504)
        s.fail(call, "open-")
        s.wait(s.submit(304))
        assert s.has_failed()
        s.wait(s.put(s.next_index + 1, 4, beyond=True))
        s.append(80)
        s.wait(s.put(s.next_index - 1, 1), s.submit(64))
    s.restart()
    s.append(64)


def sick_metadata(s: Script) -> None:
    """A term or vote cannot be stored at first."""
    s.set_term(1)
    for call in ("open", "write", "written", "fsync"):
        for _ in range(2):
            s.fail(call, "metadata")
            term = s.term + 1
            s.memory.note("asked_state", (term, 0))
            assert s.uv.io.set_term(s.uv.io, term) != 0
            assert s.has_failed()
            s.set_term(term)
            s.set_vote(2)
    s.restart()
    s.set_vote(3)


_HEALTHY = (terms_and_votes, appends_and_rolls, gathered_writes, restarts, truncates, snapshots, installs, recovers)
_SICK = (
    *(sick_writes, sick_segments, sick_truncates, sick_snapshots, sick_installs),
    *(sick_writes_under_snapshots, sick_metadata),
)
SCRIPTS: dict[str, Callable[[Script], None]] = {function.__name__: function for function in (*_HEALTHY, *_SICK)}


def record(name: str, seed: int = 0) -> MemoryFs:
    """Run a script; return the file system with its journal."""
    with installed(MemoryFs()) as memory:
        script = Script(memory, seed)
        SCRIPTS[name](script)
        script.close()
        assert not script.uv.reported, script.uv.reported
    return memory


def run(
    name: str, seed: int = 0, more: int = 2, nested: float = 0.1, live: float = 0.01, killed: float = 0.3
) -> Report:
    """Run a script, then let the power fail at every moment of it; see Checker."""
    return Checker(seed, more, nested, live, killed).check(record(name, seed))


def main() -> int:
    """Run all scripts for some rounds, each with other random choices, and print what was tried."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("scripts", nargs="*", default=list(SCRIPTS), help=" ".join(SCRIPTS))
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)  # Every start after a cut warns of what it finds, as it should.
    total = Report()
    print(f"seed {options.seed}")
    for seed in range(options.seed, options.seed + options.rounds):
        for name in options.scripts:
            began = time.monotonic()
            report = run(name, seed, more=8, nested=0.5, live=0.02, killed=1)
            print(f"{name} --seed {seed}: {report} in {time.monotonic() - began:.0f} s", flush=True)
            for problem in report.problems[:5]:
                print(f"    {problem}")
            total.add(report)
    print(total)
    return 1 if total.problems else 0


if __name__ == "__main__":
    sys.exit(main())
