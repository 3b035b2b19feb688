"""One connection of a client with a database open on it.

Duty: `Session` runs statements on a connection to the leader, one at a time: prepared ones are prepared once and kept,
rows come in parts.

Happy path: `session = await Session.open(peer, "x.db", deadline)`, then `await session.execute("…", (1,), deadline)`.
Deadlines are moments of time.monotonic().

Failure modes: DqliteError for what the node refuses, OSError for a connection that breaks and for an answer that does
not come in time: it is of no use afterwards, and `usable` says so. The caller judges what became of a statement
(`codes`). ValueError for parameters that cannot be sent, before anything is. More than 255 parameters, and
statements that write and return rows, take dqlite 1.15: an older one would misunderstand the first, and not replicate
what the second has written. Of an older one these are Refused.
"""

import datetime
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeAlias, TypeVar

from io_uv.dqlite import requests, responses, tuples, words
from io_uv.dqlite.requests import Request
from io_uv.dqlite.responses import Response, Result, Rows, Stmt
from io_uv.dqlite.tuples import IsoTime
from pyraft.dqlite import sql
from pyraft.dqlite.errors import DqliteError, Refused
from pyraft.dqlite.peer import Peer, expect, left

T = TypeVar("T", bound=Response)

MAX_PREPARED: Final = 100
"""Statements that are kept prepared on a connection; the one that was used longest ago goes."""

BARRIER: Final = "select 0"
"""A query that is run on each new connection: the node answers it when it has applied its log."""
MAX_NAME: Final = 504
"""Bytes of a database's name: dqlite has SQLite take paths of 512, a suffix included."""
MAX_ANSWER: Final = 1 << 32
"""Bytes of a part of an answer, at least one row of it; dqlite has no lower limit."""

Parameter: TypeAlias = bool | int | float | str | bytes | bytearray | memoryview | datetime.date | None
"""The values that a parameter may have. A datetime is stored as text, as go-dqlite and SQLite have it."""


class Statement:
    """A statement that is prepared once on each connection, instead of each time that it is run."""

    def __init__(self, sql: str) -> None:
        self.sql = sql

    def __repr__(self) -> str:
        return f"Statement({self.sql!r})"


Sql: TypeAlias = str | Statement


def check_database(name: str) -> str:
    """Return the name of a database. ValueError for one with which nodes of dqlite 1.11 end, or end the connection."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a database is a text, not {name!r}")
    size = len(words.text(name).rstrip(b"\0"))
    if size == 0 or size > MAX_NAME:
        raise ValueError(f"a database's name of {size} bytes, where 1 to {MAX_NAME} may be")
    if name == ":memory:" or name.startswith("file:") or name.endswith("-wal"):
        raise ValueError(f"{name!r} is not the name of a database: SQLite has another meaning for it")
    return name


def text_of(statement: Sql) -> str:
    """Return the text of a statement."""
    return statement if isinstance(statement, str) else statement.sql


class Session:
    """A database on a connection."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.sent = False
        """Whether the statement that was run last has been sent: it may wait for other answers first."""
        self._prepared: OrderedDict[str, Stmt] = OrderedDict()
        self._modern: bool | None = None
        self._replicates_rows: bool | None = None

    @classmethod
    async def open(cls, peer: Peer, database: str, deadline: float) -> "Session":
        """Open a database on a connection to the leader.

        dqlite 1.11 prepares a statement before the barrier that it makes for it. A leader that has just been elected
        may so not know a table that its log has, and answers "no such table". A query waits for the barrier.
        """
        peer.limit = MAX_ANSWER
        await expect(Response, peer, requests.Client(), deadline)
        await expect(responses.Db, peer, requests.Open(database), deadline)
        await expect(Rows, peer, requests.QuerySql(0, BARRIER, ()), deadline)
        return cls(peer)

    @property
    def usable(self) -> bool:
        """Whether statements may be sent, as far as is known here."""
        return self.peer.usable

    async def close(self) -> None:
        """Close the connection; a transaction that is open is rolled back by the node."""
        await self.peer.close()

    async def execute(self, statement: Sql, values: Sequence[Parameter], deadline: float) -> Result:
        """Run a statement that returns no rows."""
        return await self._run(Result, statement, values, deadline)

    async def query(self, statement: Sql, values: Sequence[Parameter], deadline: float) -> Rows:
        """Run a query; return the first part of its rows. With `more` of that, `next_rows` has the next one."""
        self.sent = False
        if not sql.reads(text_of(statement)) and not await self._has_rows_of_writes(deadline):
            raise Refused(f"{self.peer.address} is of a dqlite before 1.18.2, where rows of a write are not replicated")
        return await self._checked(await self._run(Rows, statement, values, deadline))

    async def next_rows(self, deadline: float) -> Rows:
        """Return the next part of the rows."""
        if left(deadline) == 0.0:  # an answer that is here already takes no time
            await self.peer.close()
            raise TimeoutError(f"the rows of {self.peer.address} have no end in the time")
        answer = await self.peer.more(left(deadline))
        if not isinstance(answer, Rows):
            await self.peer.close()
            raise ConnectionError(f"{self.peer.address} has sent {type(answer).__name__} among rows")
        return await self._checked(answer)

    async def _checked(self, part: Rows) -> Rows:
        """Return a part of an answer, unless it is one of those of which dqlite sends more for ever."""
        if part.more and not part.rows:
            await self.peer.close()
            raise Refused(
                f"the names of {len(part.columns)} columns are longer than a message of {self.peer.address}, "
                "which sends them again and again, and no row: name fewer columns"
            )
        return part

    async def interrupt(self, deadline: float) -> None:
        """End a query whose rows have not all come."""
        await self.peer.interrupt(left(deadline))

    async def _run(self, kind: type[T], statement: Sql, values: Sequence[Parameter], deadline: float) -> T:
        self.sent = False
        request = await self._request(statement, values, kind is Rows, deadline)
        self.sent = True
        return await expect(kind, self.peer, request, deadline)

    async def _request(self, statement: Sql, values: Sequence[Parameter], query: bool, deadline: float) -> Request:
        given = tuple([encoded(value) for value in values])
        schema = 1 if len(given) > tuples.MAX_SCHEMA_0 else 0
        if schema and not await self._is_modern(deadline):
            raise Refused(f"{self.peer.address} is of a dqlite before 1.15 and takes 255 parameters, not {len(given)}")
        tuples.parameters(given, schema)  # ValueError before anything is sent
        if isinstance(statement, str):
            # For those that are missing the node would take NULL.
            n = sql.n_parameters(statement)
            if n is not None and n != len(given):
                raise ValueError(f"{len(given)} parameters for a statement with {n}: {statement}")
            return (requests.QuerySql if query else requests.ExecSql)(0, statement, given, schema)
        stmt = await self._prepare(statement.sql, deadline)
        if stmt.n_parameters != len(given):
            raise ValueError(f"{len(given)} parameters for a statement with {stmt.n_parameters}: {statement.sql}")
        return (requests.Query if query else requests.Exec)(stmt.db_id, stmt.stmt_id, given, schema)

    async def _prepare(self, text: str, deadline: float) -> Stmt:
        stmt = self._prepared.get(text)
        if stmt is None:
            stmt = await expect(Stmt, self.peer, requests.Prepare(0, text), deadline)
            self._prepared[text] = stmt
        self._prepared.move_to_end(text)
        if len(self._prepared) > MAX_PREPARED:
            _, oldest = self._prepared.popitem(last=False)
            await expect(Response, self.peer, requests.Finalize(oldest.db_id, oldest.stmt_id), deadline)
        return stmt

    async def _is_modern(self, deadline: float) -> bool:
        """Return whether the node is of dqlite 1.15 or newer: others refuse PREPARE in schema 1, or ignore that."""
        if self._modern is None:
            try:
                stmt = await expect(Stmt, self.peer, requests.Prepare(0, "select 1", 1), deadline)
            except DqliteError as exc:
                if exc.code not in (responses.PARSE, responses.ERROR):
                    raise
                self._modern = False
                return False
            self._modern = stmt.schema == 1
            await expect(Response, self.peer, requests.Finalize(stmt.db_id, stmt.stmt_id), deadline)
        return self._modern

    async def _has_rows_of_writes(self, deadline: float) -> bool:
        """Return whether the node is of dqlite 1.18.2 or newer.

        From 1.15 on others answer a write that returns rows with 100, SQLite's number for a row, and end by an
        assertion behind it. Which they are is seen by EXEC of a harmless query, which has this answer too.
        """
        if self._replicates_rows is None and await self._is_modern(deadline):
            try:
                await expect(Response, self.peer, requests.ExecSql(0, "select 1"), deadline)
                self._replicates_rows = False
            except DqliteError as exc:
                if not exc.message.startswith("rows yielded"):
                    raise
                self._replicates_rows = exc.code == responses.ERROR
        return bool(self._replicates_rows)


def encoded(value: Parameter) -> tuples.Value:
    """Return a parameter as it goes over the wire."""
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, datetime.datetime):
        return IsoTime(value.isoformat(" "))
    if isinstance(value, datetime.date):
        return IsoTime(value.isoformat())
    return value
