"""Reads by raft_read_index among writes, elections, partitions and a bad network: the history is linearizable.

Duty: `Run` is one random history by seed: clients write one register and read it on whatever server believes that it
leads, while servers are cut off in two camps, killed, restarted, slow, hand over and change their roles, and messages
get lost, come twice and come late. In some runs some servers, or all, are over an I/O that takes no questions.

Each of the faults in `FAULTS` is put into a copy of the core's functions and has to be found within so many runs.
"""

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pyraft import (
    RAFT_LEADER,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftApply,
    RaftChange,
    RaftIo,
    RaftMessage,
    RaftReadIndex,
    RaftTransfer,
    raft_apply,
    raft_assign,
    raft_read_index,
    raft_set_election_timeout,
    raft_state,
    raft_transfer,
    reads,
)
from tests.lib import fsm as fsms
from tests.lib import linearizability
from tests.lib.cluster import Cluster
from tests.lib.compiled import COMPILED
from tests.lib.linearizability import GET, PUT, Operation

SEED = int(os.environ.get("READS_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
RUNS = int(os.environ.get("READS_RUNS", "0")) or 60


class Run:
    """One history; `asking` is how likely each server takes questions."""

    def __init__(self, seed: int, asking: float | None = None) -> None:
        self.rng = rng = random.Random(seed)
        self.clock = 0
        self.history: list[Operation] = []
        self.value = 0
        self.late: list[tuple[int, RaftMessage]] = []
        self.under_way: Counter[tuple[int, int]] = Counter()
        n = rng.choice([3, 3, 4, 5, 5])
        self.c = Cluster(n, pre_vote=rng.random() < 0.5)
        self.c.bootstrap(rng.randint(max(2, n - 2), n))
        if asking is None:
            asking = rng.choice([1.0, 1.0, 0.6, 0.0])
        for i in range(n):
            self.c.raft(i).io.features = 0xFFFF if rng.random() < asking else 0
        self.c.start()
        for i in range(n):
            self.spoil(i)

    def spoil(self, i: int) -> None:
        """Let some of the messages to a server get lost, come twice, or come again much later."""
        impl: Any = self.c.raft(i).io.impl
        recv = self.c.recv_cbs[i]

        def spoilt(io: RaftIo, message: RaftMessage) -> None:
            luck = self.rng.random()
            if luck < 0.02:
                return
            recv(io, message)
            if luck > 0.98:
                self.late.append((i, message))

        impl.recv_cb = spoilt

    def now(self) -> int:
        """Return a point in time that no other event has."""
        self.clock += 1
        return self.clock

    def put(self, i: int) -> None:
        """Have a client write a new value."""
        self.value += 1
        key = self.rng.randrange(2)
        op = Operation(PUT, key, start=self.now(), value=self.value)

        def done(req: RaftApply, status: int, result: Any) -> None:
            self.under_way[PUT, i] -= 1
            if status == 0:
                op.end, op.result = self.now(), True

        command = (fsms.set_x, fsms.set_y)[key](self.value)
        if raft_apply(self.c.raft(i), RaftApply(), [command], 1, done) == 0:
            self.history.append(op)
            self.under_way[PUT, i] += 1

    def get(self, i: int) -> None:
        """Have a client read."""
        op = Operation(GET, self.rng.randrange(2), start=self.now())

        def done(req: RaftReadIndex, status: int, index: int) -> None:
            self.under_way[GET, i] -= 1
            if status == 0:
                fsm = self.c.fsms[i]
                op.end, op.result = self.now(), fsm.y if op.key else fsm.x
                self.history.append(op)

        self.under_way[GET, i] += 1
        if raft_read_index(self.c.raft(i), RaftReadIndex(), done) != 0:
            self.under_way[GET, i] -= 1

    def camps(self) -> None:
        """Cut the servers in two camps that do not hear of each other."""
        side = [self.rng.random() < 0.5 for _ in range(self.c.n)]
        for i in range(self.c.n):
            # A leader that is patient leads on for longer when it is cut off, while others elect.
            leads = raft_state(self.c.raft(i)) == RAFT_LEADER
            raft_set_election_timeout(self.c.raft(i), 5000 if leads else 1000)
        for i in range(self.c.n):
            for j in range(i):
                (self.c.heal if side[i] == side[j] else self.c.cut)(i, j)

    def heal(self) -> None:
        """Let all hear of each other, all alive."""
        for i in range(self.c.n):
            for j in range(i):
                self.c.heal(i, j)

    def restart(self, i: int) -> None:
        """Kill a server and start it again."""
        self.c.kill(i)
        while self.c.raft(i).writes:
            self.c.elapse(10)
        self.c.restart(i)
        self.spoil(i)

    def nemesis(self) -> None:
        """Do some harm, or good."""
        rng, c = self.rng, self.c
        i = rng.randrange(c.n)
        kind = rng.randrange(12)
        if kind < 4:
            self.camps()
        elif kind < 6:
            self.heal()
        elif kind == 6:
            c.set_disk_latency(i, rng.choice([1, 10, 80]))
        elif kind == 7:
            c.set_network_latency(i, rng.choice([1, 15, 60]))
        elif kind == 8:
            raft_transfer(c.raft(i), RaftTransfer(), 0, None)
        elif kind == 9:
            j = rng.randrange(c.n)
            raft_assign(c.raft(i), RaftChange(), j + 1, rng.choice([RAFT_VOTER, RAFT_STANDBY]), None)
        elif kind == 10:
            self.restart(i)
        elif self.late:
            for to, message in self.rng.sample(self.late, min(len(self.late), 4)):
                c.deliver(to, message)

    def go(self, steps: int = 400) -> linearizability.Failure | None:
        """Make the history; return what is wrong with it, if anything."""
        rng, c = self.rng, self.c
        zeal = 1.0
        try:
            for _ in range(steps):
                c.elapse(rng.randint(1, 60))
                if rng.random() < 0.05:
                    self.nemesis()
                    zeal = rng.choice([0.02, 0.02, 0.5, 1.0])
                leaders = [i for i in range(c.n) if raft_state(c.raft(i)) == RAFT_LEADER]
                for i in leaders:
                    kind = PUT if rng.random() < 0.3 else GET
                    if self.under_way[kind, i] < 3 and (kind == PUT or rng.random() < zeal):
                        (self.put if kind == PUT else self.get)(i)
            return linearizability.check(self.history)
        finally:
            c.close()


def answered_reads(run: Run) -> int:
    """Return how many reads of a history were answered."""
    return sum(op.kind == GET for op in run.history)


def test_reads_are_linearizable() -> None:
    """They are in random histories, whatever servers and networks do; and most reads get an answer."""
    print(f"seed {SEED}: READS_SEED={SEED} READS_RUNS={RUNS} repeats this")
    answered = 0
    for n in range(RUNS):
        run = Run(SEED + n)
        failure = run.go()
        assert failure is None, f"run {SEED + n}: {failure!r}"
        answered += answered_reads(run)
    assert answered > 20 * RUNS


Edits = tuple[tuple[Any, str, str], ...]

FAULTS: dict[str, Edits] = {
    "no round at all": ((reads, "    return _is_enough(r, leader, _has_answered)\n", "    return True\n"),),
    "answers to the questions of the round before count": (
        (reads, "answered == leader.reads.number", "answered >= leader.reads.number - 1"),
    ),
    "a leader without a committed entry of its term answers": (
        (reads, "    if log.term_of(r.log, r.commit_index) != r.current_term:\n        return False\n", ""),
    ),
    "answers of those who do not vote count": (
        (reads, "        if server.role == RAFT_VOTER and (server.id == r.id or", "        if (server.id == r.id or"),
        (reads, "server.id == r.id or server.role != RAFT_VOTER or not _takes", "server.id == r.id or not _takes"),
    ),
    "the leader counts twice": ((reads, "return quorum.is_majority(count,", "return quorum.is_majority(count + 1,"),),
}


def put_in(edits: Edits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a module the functions of a copy of its source with these edits."""
    sources: dict[Any, str] = {}
    for module, old, new in edits:
        source = sources.get(module) or Path(module.__file__).read_text()
        assert source.count(old) == 1, f"this text has changed: {old!r}"
        sources[module] = source.replace(old, new)
    for module, source in sources.items():
        copy: dict[str, Any] = {"__name__": module.__name__}
        exec(compile(source, module.__file__, "exec"), copy)
        for name, value in copy.items():
            if callable(value) and getattr(value, "__module__", None) == module.__name__:
                monkeypatch.setattr(module, name, value)


@pytest.mark.skipif(COMPILED, reason="compiled functions cannot be replaced")
@pytest.mark.parametrize("fault", FAULTS)
def test_stale_reads_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each of these faults some history is not linearizable."""
    put_in(FAULTS[fault], monkeypatch)

    for n in range(400):
        if Run(n, asking=1.0).go() is not None:
            print(f"found in run {n}")
            return
    pytest.fail("not found")


def test_texts_of_faults_are_there() -> None:
    """Looked at apart from the runs, which take longer."""
    for edits in FAULTS.values():
        for module, old, _ in edits:
            if str(module.__file__).endswith(".py"):
                assert Path(module.__file__).read_text().count(old) == 1, old
