"""A client of a cluster of dqlite, for asyncio: statements, transactions, rows, wherever the leader is.

Duty: `Client` has a pool of connections to the node that leads, finds it anew when that is another one, and tries again
what was certainly not done. A statement of its own is one transaction; `transaction` makes one of several.

    async with Client(["10.0.0.1:9001", "10.0.0.2:9001"], "shop.db") as client:
        await client.execute("insert into stock(item, n) values(?, ?)", "apple", 7)
        async with client.transaction() as transaction:
            [[n]] = await transaction.query("select n from stock where item = ?", "apple")
            await transaction.execute("update stock set n = ? where item = ?", n - 1, "apple")

Failure modes: DqliteError for what the node refuses; Unavailable if the time is over and nothing was done; Unknown if
the time is over, the connection has broken or the leadership was lost behind a statement that writes, so that nobody
here can say whether it was done; Aborted for a transaction of which nothing was done, through no fault of its
statements: `transact` runs those again. Statements that only read are asked again in all these cases.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from io_uv.dqlite.responses import Result, Rows
from io_uv.dqlite.tuples import Value
from pyraft.dqlite import codes, sql
from pyraft.dqlite.errors import Aborted, DqliteError, Unavailable, Unknown
from pyraft.dqlite.peer import Dial, dial_tcp, left
from pyraft.dqlite.pool import Pool, Store, store_of
from pyraft.dqlite.session import Parameter, Session, Sql, Statement, text_of

T = TypeVar("T")

TIMEOUT_SECONDS: Final = 15.0
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
_INTERRUPT_SECONDS: Final = 1.0
_ROLLBACK_SECONDS: Final = 5.0

Row = tuple[Value, ...]


class Table:
    """The rows of an answer, tuples of values, and the names of their columns."""

    def __init__(self, columns: tuple[str, ...], rows: list[Row]) -> None:
        self.columns = columns
        self.rows = rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Row:
        return self.rows[at]

    def __repr__(self) -> str:
        return f"Table({self.columns!r}, {len(self.rows)} rows)"

    def dicts(self) -> list[dict[str, Value]]:
        """Return each row as a dictionary; of columns with one name the last one counts."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Client:
    """A database of a cluster. Use it in `async with`, in one event loop."""

    def __init__(
        self,
        nodes: Iterable[str] | Store,
        database: str,
        *,
        dial: Dial = dial_tcp,
        size: int = 8,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Nothing is connected before the first call.

        `nodes` are addresses of some of the nodes, HOST:PORT, or a store of them; `size` is how many connections there
        are at most; `dial` opens one, see `peer`. `timeout_seconds` is for each call that is not given another time.
        """
        self._pool = Pool(store_of(nodes), database, dial, size)
        self.timeout_seconds = timeout_seconds

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. A transaction that is open is rolled back by the node."""
        await self._pool.close()

    async def execute(self, statement: Sql, *values: Parameter, timeout_seconds: float | None = None) -> Result:
        """Run one statement, as a transaction of its own; return the last rowid and how many rows it has changed.

        Raises DqliteError, Unavailable or Unknown, see above; ValueError for more than one statement, for one that
        begins or ends a transaction, and for values that a database does not have.
        """
        _check(statement, returning=False)
        reads = sql.reads(text_of(statement))
        return await self._call(lambda one, end: one.execute(statement, values, end), reads, timeout_seconds)

    async def execute_many(
        self, statement: Sql, rows: Iterable[Sequence[Parameter]], *, timeout_seconds: float | None = None
    ) -> int:
        """Run one statement once for each row of values, all in one transaction; return how many rows were changed.

        Raises as `transact`; nothing is done if any of them is refused.
        """
        given = [tuple(row) for row in rows]
        return await self.transact(lambda one: one.execute_many(statement, given), timeout_seconds=timeout_seconds)

    async def query(self, statement: Sql, *values: Parameter, timeout_seconds: float | None = None) -> Table:
        """Run one query and return all its rows. One that writes ("insert … returning") takes dqlite 1.18.2."""
        _check(statement)
        reads = sql.reads(text_of(statement))
        return await self._call(lambda one, end: _all(one, statement, values, end), reads, timeout_seconds)

    @contextlib.asynccontextmanager
    async def rows(
        self, statement: Sql, *values: Parameter, timeout_seconds: float | None = None
    ) -> AsyncIterator["Reading"]:
        """Run one query that only reads, and hand its rows out as they come: `async for row in rows`.

        The time is that up to the first rows, and again up to each further part. If the connection breaks in the
        middle that is Unavailable; the rest of the rows is given up where the block is left.
        """
        if not sql.reads(text_of(statement)):
            raise ValueError(f"a statement that may write: {text_of(statement)}")
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds

        async def begin(session: Session, deadline: float) -> tuple[Session, Rows]:
            return session, await session.query(statement, values, deadline)

        session, first = await self._call(begin, True, seconds, keep=True)
        reading = Reading(session, first, seconds)
        try:
            yield reading
        finally:
            try:
                await reading.close()
            finally:  # also where this is cancelled once more
                await self._pool.give(session)

    @contextlib.asynccontextmanager
    async def transaction(
        self, *, reads_only: bool = False, timeout_seconds: float | None = None
    ) -> AsyncIterator["Transaction"]:
        """Begin a transaction; commit it where the block ends, roll it back where an exception leaves it.

        From its beginning on (BEGIN IMMEDIATE) no other transaction writes; the beginning waits for that. With
        `reads_only` it is a view of the database that does not change. The time is for the beginning, and again for
        each statement.
        Raises Unavailable in the beginning, Aborted or DqliteError in the end if nothing of it was done, Unknown in the
        end if it may have been.
        """
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        text = "begin" if reads_only else "begin immediate"

        async def begin(session: Session, deadline: float) -> Session:
            await session.execute(text, (), deadline)
            return session

        session = await self._call(begin, True, seconds, keep=True)
        transaction = Transaction(session, seconds)
        try:
            try:
                yield transaction
            except BaseException:
                await transaction.roll_back()
                raise
            if not transaction.ended:
                await transaction.commit()
        finally:
            if transaction.lost:
                self._pool.doubt(session)
            await self._pool.give(session)

    async def transact(
        self, body: Callable[["Transaction"], Awaitable[T]], *, timeout_seconds: float | None = None
    ) -> T:
        """Run `await body(transaction)` in a transaction and return its result; again from the beginning if Aborted.

        The time is for all tries together, as far as beginning another one.
        """
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        deadline = time.monotonic() + seconds
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self.transaction(timeout_seconds=left(deadline)) as transaction:
                    return await body(transaction)
            except Aborted:
                if left(deadline) <= pause:
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _call(
        self,
        call: Callable[[Session, float], Awaitable[T]],
        reads: bool,
        seconds: float | None,
        keep: bool = False,
    ) -> T:
        """Return the result of a call on a connection, tried again as long as it was not done or only reads.

        With `keep` the connection stays the caller's afterwards, else it goes back to the pool.
        """
        deadline = time.monotonic() + (self.timeout_seconds if seconds is None else seconds)
        pause, before = _FIRST_PAUSE, ""
        while True:
            try:
                session = await self._pool.take(deadline)
            except Unavailable as exc:
                raise Unavailable(f"{exc}{before}") from None
            try:
                if left(deadline) == 0:
                    raise Unavailable(f"the time is over{before}")
                result = await call(session, deadline)
            except (DqliteError, OSError) as exc:
                await self._failed(session, exc, reads)
                if left(deadline) <= pause:
                    raise _at_the_end(exc, before) from exc
                before = f"; before that: {exc}"
            except BaseException:
                await self._pool.give(session)  # one that waits for an answer is closed
                raise
            else:
                if not keep:
                    await self._pool.give(session)
                return result
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _failed(self, session: Session, exc: DqliteError | OSError, reads: bool) -> None:
        """Return if the call may be made again; raise what is to be said of it if not."""
        if isinstance(exc, OSError):
            self._pool.doubt(session)
            await self._pool.drop(session)
            if session.sent and not reads:
                raise Unknown(f"it is not known whether it was done: {exc}") from exc
            return
        if codes.is_not_leader(exc) or codes.is_unknown(exc) or exc.code == codes.NOT_FOUND:
            self._pool.doubt(session)
            await self._pool.drop(session)
        else:
            await self._pool.give(session)
        if codes.is_unknown(exc) and session.sent and not reads:
            raise Unknown(f"it is not known whether it was done: {exc}") from exc
        if not (codes.is_refused(exc) or codes.is_unknown(exc)):
            raise exc


class Reading:
    """The rows of a query, as they come."""

    def __init__(self, session: Session, first: Rows, seconds: float) -> None:
        self.columns = first.columns
        self._session = session
        self._part = first
        self._seconds = seconds

    async def __aiter__(self) -> AsyncIterator[Row]:
        while True:
            for row in self._part.rows:
                yield row
            if not self._part.more:
                self._part = Rows(self.columns, ())
                return
            try:
                self._part = await self._session.next_rows(time.monotonic() + self._seconds)
            except DqliteError as exc:
                self._part = Rows(self.columns, ())
                if codes.is_refused(exc) or codes.is_unknown(exc):
                    raise Unavailable(f"the rows end in the middle: {exc}") from exc
                raise
            except OSError as exc:
                self._part = Rows(self.columns, ())
                raise Unavailable(f"the rows end in the middle: {exc}") from exc

    async def close(self) -> None:
        """Give the rest of the rows up."""
        if self._part.more:
            self._part = Rows(self.columns, ())
            try:
                await self._session.interrupt(time.monotonic() + _INTERRUPT_SECONDS)
            except (OSError, DqliteError):
                await self._session.close()


class Transaction:
    """Statements that are done all together, or not at all. One at a time: other calls meanwhile are a RuntimeError."""

    def __init__(self, session: Session, seconds: float) -> None:
        self.lost = False
        """Whether the node does not lead any more, or does not answer."""
        self.ended = False
        """Whether the program itself has committed it, or rolled it back."""
        self._session = session
        self._seconds = seconds
        self._over = ""
        self._busy = False

    async def execute(self, statement: Sql, *values: Parameter) -> Result:
        """Run one statement. Raises DqliteError, behind which the transaction goes on, or Aborted."""
        _check(statement, in_transaction=True, returning=False)
        return await self._do(lambda end: self._session.execute(statement, values, end))

    async def execute_many(self, statement: Sql, rows: Iterable[Sequence[Parameter]]) -> int:
        """Run one statement once for each row of values; return how many rows were changed."""
        prepared = Statement(statement) if isinstance(statement, str) else statement
        changed = 0
        for row in rows:
            changed += (await self.execute(prepared, *row)).rows_affected
        return changed

    async def query(self, statement: Sql, *values: Parameter) -> Table:
        """Run one query and return all its rows."""
        _check(statement, in_transaction=True)
        return await self._do(lambda end: _all(self._session, statement, values, end))

    @contextlib.asynccontextmanager
    async def rows(self, statement: Sql, *values: Parameter) -> AsyncIterator[Reading]:
        """Run one query and hand its rows out as they come; nothing else runs in the transaction meanwhile."""
        _check(statement, in_transaction=True)
        first = await self._do(lambda end: self._session.query(statement, values, end))
        reading = Reading(self._session, first, self._seconds)
        self._busy = True
        try:
            yield reading
        finally:
            try:
                await reading.close()
            finally:
                self._busy = False

    async def commit(self) -> None:
        """Commit. `Client.transaction` does that where its block ends, if it was not done before."""
        self._go_on()
        if self._over:
            raise Aborted(self._over)
        if not self._session.usable:
            await self._end("its connection was lost, or given up", lost=False)
            raise Aborted(f"nothing was committed: {self._over}")
        try:
            await self._session.execute("commit", (), time.monotonic() + self._seconds)
        except OSError as exc:
            await self._end(str(exc), lost=True)
            raise Unknown(f"it is not known whether the transaction was committed: {exc}") from exc
        except DqliteError as exc:
            if codes.is_unknown(exc):
                await self._end(str(exc), lost=True)
                raise Unknown(f"it is not known whether the transaction was committed: {exc}") from exc
            await self._end(str(exc), lost=codes.is_not_leader(exc))
            if codes.is_refused(exc):
                raise Aborted(f"nothing was committed: {exc}") from exc
            raise
        except BaseException:
            await self._end("it was cancelled", lost=False)
            raise
        self._over, self.ended = "it was committed", True

    async def roll_back(self) -> None:
        """Roll back. `Client.transaction` does that where an exception leaves its block."""
        if self._over:
            return
        self._over, self.ended = "it was rolled back", True
        if not self._session.usable:
            await self._session.close()
            return
        try:
            await self._session.execute("rollback", (), time.monotonic() + _ROLLBACK_SECONDS)
        except (OSError, DqliteError):
            await self._session.close()

    def _go_on(self) -> None:
        """Raise RuntimeError where the program has ended the transaction: behind Aborted it would be run again."""
        if self.ended:
            raise RuntimeError(f"the transaction is over: {self._over}")

    async def _do(self, call: Callable[[float], Awaitable[T]]) -> T:
        self._go_on()
        if self._over:
            raise Aborted(self._over)
        if self._busy:
            raise RuntimeError("another statement of this transaction is under way")
        self._busy = True
        try:
            return await call(time.monotonic() + self._seconds)
        except OSError as exc:
            await self._end(str(exc), lost=True)
            raise Aborted(f"nothing of the transaction was done: {exc}") from exc
        except DqliteError as exc:
            if codes.is_refused(exc) or codes.is_unknown(exc):
                await self._end(str(exc), lost=not codes.is_busy(exc))
                raise Aborted(f"nothing of the transaction was done: {exc}") from exc
            await self._look_whether_open(exc)
            raise
        finally:
            self._busy = False

    async def _look_whether_open(self, exc: DqliteError) -> None:
        """See to it that no further statement is one of its own, as SQLite may have rolled back behind an error.

        BEGIN is refused within a transaction.
        """
        try:
            await self._session.execute("begin", (), time.monotonic() + self._seconds)
        except DqliteError as refusal:
            if refusal.code == 1:
                return
        except OSError:
            await self._end("the connection has broken", lost=True)
            return
        await self._end(f"it was rolled back by the node: {exc}", lost=False)

    async def _end(self, reason: str, *, lost: bool) -> None:
        self._over = reason
        self.lost = self.lost or lost
        await self._session.close()


async def _all(session: Session, statement: Sql, values: tuple[Parameter, ...], deadline: float) -> Table:
    part = await session.query(statement, values, deadline)
    columns, rows = part.columns, list(part.rows)
    while part.more:
        part = await session.next_rows(deadline)
        rows += part.rows
    return Table(columns, rows)


def _check(statement: Sql, *, in_transaction: bool = False, returning: bool = True) -> None:
    """Raise ValueError for a text that is not one statement which may run here."""
    text = text_of(statement)
    if not sql.verb(text):
        raise ValueError(f"no statement: {text!r}")
    if not sql.is_single(text):
        raise ValueError(f"more than one statement: {text}")
    if sql.ends_transaction(text) or (sql.is_savepoint(text) and not in_transaction):
        raise ValueError(f"transactions are begun and ended by Client.transaction: {text}")
    if not returning and (sql.returns(text) or (sql.reads(text) and sql.verb(text) != "pragma")):
        raise ValueError(f"a statement that returns rows is one for query: {text}")


def _at_the_end(exc: DqliteError | OSError, before: str) -> Unavailable:
    """Return what is raised when the time is over, and nothing was done."""
    return Unavailable(f"nothing was done in time: {exc}{before if isinstance(exc, TimeoutError) else ''}")
