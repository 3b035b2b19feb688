"""Load from this project's client on a cluster of dqlite, and what has to be true of it afterwards.

`Load` inserts rows and works on registers from several tasks, and notes of each call whether it was done, was not, or
may have been. Reads of registers are made in transactions that write: a leader of dqlite that was deposed and does not
know it yet answers a plain SELECT from what it has.
"""

import asyncio
import itertools
import random
import sqlite3
import time
from collections import Counter
from pathlib import Path

from io_uv.dqlite.tuples import Value
from pyraft.dqlite import Aborted, Client, DqliteError, Unavailable, Unknown
from pyraft.dqlite.client import Transaction
from tests.interop.dqlite.driver import Cluster
from tests.lib import linearizability
from tests.lib.linearizability import CAS, GET, PUT, Operation

KEYS = 3
"""Registers in use at a time."""
CALL_SECONDS = 20.0
PROGRESS_SECONDS = 120.0

TABLES = ("create table t(a integer primary key, b text)", "create table r(k integer primary key, v integer)")


class Load:
    """Clients, as tasks, from `async with` on."""

    def __init__(self, nodes: Cluster, tasks: int, seed: int = 1) -> None:
        self.dice = random.Random(seed)
        self.client = Client([one.address for one in nodes.nodes], "test.db", timeout_seconds=CALL_SECONDS)
        self.counts: Counter[str] = Counter()
        self.done: set[str] = set()
        self.refused: set[str] = set()
        self.operations: list[Operation] = []
        self.epoch = 0
        self._clock = itertools.count(1)
        self._values = itertools.count(1)
        self._over = False
        self._number = tasks
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        for table in TABLES:
            await self.client.execute(table.replace("table", "table if not exists"), timeout_seconds=PROGRESS_SECONDS)
        self._tasks = [asyncio.ensure_future(self._work(number)) for number in range(self._number)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._over = True
        await asyncio.wait(self._tasks, timeout=4 * CALL_SECONDS)
        await self.client.close()
        if exc[0] is None:
            for task in self._tasks:
                task.result()

    async def until(self, calls: int) -> None:
        """Wait until so many further calls were answered; the registers are others from then on."""
        wanted = self.counts["done"] + calls
        deadline = time.monotonic() + PROGRESS_SECONDS
        while self.counts["done"] < wanted:
            for task in self._tasks:
                if task.done():
                    task.result()
            assert time.monotonic() < deadline, f"no progress: {dict(self.counts)}, {self.why}"
            await asyncio.sleep(0.005)
        self.epoch += 1

    why: str = ""
    """The text of the latest failure."""

    async def _work(self, number: int) -> None:
        while not self._over:
            try:
                if self.dice.random() < 0.5:
                    await self._insert(number)
                else:
                    await self._register(number)
            except (Unavailable, Aborted) as exc:
                self.why = str(exc)
                self.counts[type(exc).__name__] += 1
            except Unknown as exc:
                self.why = str(exc)
                self.counts["Unknown"] += 1
            else:
                self.counts["done"] += 1

    async def _insert(self, number: int) -> None:
        text = f"{number}-{next(self._values)}"
        try:
            if self.dice.random() < 0.5:
                await self.client.execute("insert into t(b) values(?)", text)
            else:
                await self.client.transact(lambda one: one.execute("insert into t(b) values(?)", text))
        except (Unavailable, Aborted, DqliteError):
            self.refused.add(text)
            raise
        self.done.add(text)

    async def _register(self, number: int) -> None:
        key = self.epoch * KEYS + self.dice.randrange(KEYS)
        kind = self.dice.choice((PUT, GET, CAS))
        op = Operation(kind, key, next(self._clock), client=number, value=next(self._values))
        op.expected = self.dice.choice([one.value for one in self.operations[-5:]] or [0])
        try:
            await self.client.transact(lambda one: _run(one, op))
        except Unknown:  # after another failure it has not happened
            op.result = None
            self.operations.append(op)
            raise
        op.end = next(self._clock)
        self.operations.append(op)

    def judge(self, content: bytes, folder: Path) -> None:
        """See that a database is sound, has what was acknowledged, once, and nothing that was refused."""
        path = folder / "judged.db"
        path.write_bytes(content)
        connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        rows = Counter(text for (text,) in connection.execute("select b from t"))
        connection.close()
        own = {text: n for text, n in rows.items() if not str(text).startswith("load")}
        assert self.done <= set(own), f"acknowledged and lost: {sorted(self.done - set(own))[:10]}"
        assert not self.refused & set(own), f"refused and there: {sorted(self.refused & set(own))[:10]}"
        assert set(own.values()) <= {1}, f"twice: {[text for text, n in own.items() if n > 1][:10]}"
        failure = linearizability.check(self.operations)
        assert failure is None, repr(failure)


async def _run(transaction: Transaction, op: Operation) -> None:
    """Carry an operation out; its result is what it will be once the transaction is committed."""
    found = (await transaction.query("select v from r where k = ?", op.key)).rows
    now: Value = found[0][0] if found else 0
    op.result = now if op.kind == GET else op.kind == PUT or now == op.expected
    value = op.value if op.kind == PUT or (op.kind == CAS and now == op.expected) else now
    # Also where nothing changes: an answer of this transaction then comes from a majority.
    await transaction.execute("insert or replace into r values(?, ?)", op.key, value)
