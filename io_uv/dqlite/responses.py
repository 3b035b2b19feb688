"""The answers of dqlite's client protocol, each a class with its fields.

Duty: `decode` makes one of type, schema and body; `encode` of each gives the message back. `parts` cuts the rows of a
long answer into messages as dqlite does. Source: response.h, query.c of canonical/dqlite.

Happy path: `Server(1, "127.0.0.1:9001").encode()`; `responses.decode(8, 0, bytes(8))` is `Empty()`.

Failure modes: ParseError for types nobody knows, bodies that end too early, and numbers of columns, servers or files
that the body has no room for, before anything of that size is made.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

from io_uv.dqlite import tuples, words
from io_uv.dqlite.messages import HEADER, TEXT, U32, U64, UNUSED, Layout, header
from io_uv.dqlite.tuples import Value
from io_uv.dqlite.words import ParseError, Reader

ERROR: Final = 1
"""SQLite's code for what has no code of its own."""
BUSY: Final = 5
NO_MEMORY: Final = 7
IOERR: Final = 10
PROTOCOL: Final = 15
NOT_LEADER: Final = 10 | 40 << 8
LEADERSHIP_LOST: Final = 10 | 41 << 8
"""The outcome is not known."""
NOT_FOUND: Final = 1002
PARSE: Final = 1005

VOTER: Final = 0
STANDBY: Final = 1
SPARE: Final = 2
"""Roles on the wire. Those of raft's configurations are others: 0 stand-by, 1 voter, 2 spare."""

HEARTBEAT_MSECS: Final = 15000

MORE: Final = 0xEEEEEEEEEEEEEEEE
DONE: Final = 0xFFFFFFFFFFFFFFFF
BATCH: Final = 4096
"""Bytes of a ROWS message, header included, from which on the rest goes into another one."""


class Response(Layout):
    """An answer of a node."""


@dataclass(frozen=True)
class Failed(Response):
    """It was not done. `code` is one of SQLite's, or one of those above."""

    code: int
    message: str
    TYPE = 0
    FIELDS = (("code", U64), ("message", TEXT))


@dataclass(frozen=True)
class Server(Response):
    """A member, or 0 and "" for nobody. Named for DQLITE_RESPONSE_SERVER, as all responses are for dqlite's."""

    id: int
    address: str
    TYPE = 1
    FIELDS = (("id", U64), ("address", TEXT))


@dataclass(frozen=True)
class Welcome(Response):
    """A client was registered."""

    heartbeat_msecs: int = HEARTBEAT_MSECS
    TYPE = 2
    FIELDS = (("heartbeat_msecs", U64),)


@dataclass(frozen=True)
class Member:
    """A member as Servers tells it; `role` is None where roles were not asked for."""

    id: int
    address: str
    role: int | None = None


@dataclass(frozen=True)
class Servers(Response):
    """The members. All of them have a role, or none has."""

    members: tuple[Member, ...]
    TYPE = 3

    def body(self) -> bytes:
        """Return the encoded members."""
        pieces = [words.u64(len(self.members))]
        for one in self.members:
            pieces += (words.u64(one.id), words.text(one.address))
            if one.role is not None:
                pieces.append(words.u64(one.role))
        return b"".join(pieces)

    @classmethod
    def read(cls, reader: Reader, schema: int) -> "Servers":
        """Return the members: with roles where the body ends behind these."""
        begin = reader.at
        for with_roles in (True, False):
            reader.at = begin
            try:
                members = _read_members(reader, with_roles)
            except ParseError:
                if not with_roles:
                    raise
                continue
            if reader.left == 0 or not with_roles:
                break
        return cls(members)


def _read_members(reader: Reader, with_roles: bool) -> tuple[Member, ...]:
    n = _count(reader, 24 if with_roles else 16, "servers")
    members = []
    for _ in range(n):
        id, address = reader.u64(), reader.text()
        members.append(Member(id, address, reader.u64() if with_roles else None))
    return tuple(members)


@dataclass(frozen=True)
class Db(Response):
    """A database is open."""

    id: int = 0
    pad: int = 0
    TYPE = 4
    FIELDS = (("id", U32), ("pad", U32))


@dataclass(frozen=True)
class Stmt(Response):
    """A statement is prepared; `offset`, in schema 1 only, is that of what follows it in the SQL text."""

    db_id: int
    stmt_id: int
    n_parameters: int
    offset: int = 0
    schema: int = 0
    TYPE = 5
    SCHEMAS = 1

    def body(self) -> bytes:
        """Return the encoded fields."""
        data = words.u32(self.db_id) + words.u32(self.stmt_id) + words.u64(self.n_parameters)
        return data + words.u64(self.offset) if self.schema else data

    @classmethod
    def read(cls, reader: Reader, schema: int) -> "Stmt":
        """Return the statement."""
        db_id, stmt_id, n = reader.u32(), reader.u32(), reader.u64()
        return cls(db_id, stmt_id, n, reader.u64() if schema else 0, schema)


@dataclass(frozen=True)
class Result(Response):
    """A statement has run; both numbers are the connection's, whatever the statement was."""

    last_insert_id: int
    rows_affected: int
    TYPE = 6
    FIELDS = (("last_insert_id", U64), ("rows_affected", U64))


@dataclass(frozen=True)
class Rows(Response):
    """Rows of a query; with `more` another message follows without being asked for."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    more: bool = False
    TYPE = 7

    def body(self) -> bytes:
        """Return the encoded names and rows."""
        pieces = [_names(self.columns), *map(tuples.row, self.rows), words.u64(MORE if self.more else DONE)]
        return b"".join(pieces)

    @classmethod
    def read(cls, reader: Reader, schema: int) -> "Rows":
        """Return names and rows."""
        n = _count(reader, words.WORD, "columns")
        columns = tuple([reader.text() for _ in range(n)])
        rows: list[tuple[Value, ...]] = []
        while True:
            begin = reader.at
            word = reader.u64()
            if word in (MORE, DONE):
                return cls(columns, tuple(rows), word == MORE)
            if n == 0:
                raise ParseError(f"a row without columns at offset {begin}")
            reader.at = begin
            rows.append(tuples.read_row(reader, n))


def _names(columns: Sequence[str]) -> bytes:
    return words.u64(len(columns)) + b"".join(map(words.text, columns))


def parts(columns: tuple[str, ...], rows: Iterable[tuple[Value, ...]]) -> Iterator[Rows]:
    """Yield the messages of an answer: each ends when it has reached 4096 bytes, its header among them."""
    head = HEADER.size + len(_names(columns))
    size, batch = head, list[tuple[Value, ...]]()
    for one in rows:
        if size >= BATCH:
            yield Rows(columns, tuple(batch), True)
            size, batch = head, []
        batch.append(one)
        size += len(tuples.row(one))
    yield Rows(columns, tuple(batch))


@dataclass(frozen=True)
class Empty(Response):
    """It was done."""

    TYPE = 8
    FIELDS = (("", UNUSED),)


@dataclass(frozen=True)
class Files(Response):
    """The files of a database: the main one, and one of frames that may be empty."""

    files: tuple[tuple[str, bytes | memoryview], ...]
    TYPE = 9

    def pieces(self) -> list[bytes | memoryview]:
        """Return the message in pieces; the files' content is not copied."""
        body: list[bytes | memoryview] = [words.u64(len(self.files))]
        for name, data in self.files:
            body += (words.text(name) + words.u64(len(data)), data, bytes(-len(data) % words.WORD))
        return [header(self.TYPE, sum(map(len, body))), *body]

    def body(self) -> bytes:
        """Return the encoded files."""
        return b"".join(self.pieces()[1:])

    @classmethod
    def read(cls, reader: Reader, schema: int) -> "Files":
        """Return the files."""
        n = _count(reader, 16, "files")
        return cls(tuple([(reader.text(), reader.blob()) for _ in range(n)]))


@dataclass(frozen=True)
class Metadata(Response):
    """The numbers that role management goes by."""

    failure_domain: int
    weight: int
    TYPE = 10
    FIELDS = (("failure_domain", U64), ("weight", U64))


_KINDS: Final[tuple[type[Response], ...]] = (
    *(Failed, Server, Welcome, Servers, Db, Stmt, Result, Rows, Empty, Files, Metadata),
)
RESPONSES: Final = {kind.TYPE: kind for kind in _KINDS}


def decode(type: int, schema: int, body: bytes) -> Response:
    """Return the answer; ParseError for an unknown type or version, and for a body that is not one of that type."""
    kind = RESPONSES.get(type)
    if kind is None:
        raise ParseError(f"an answer of type {type}")
    if schema > kind.SCHEMAS:
        raise ParseError(f"an answer of type {type} in schema {schema}")
    return cast(Response, kind.read(Reader(body), schema))


def _count(reader: Reader, least: int, what: str) -> int:
    """Return a number of things of `least` bytes each; ParseError if there is no room for so many."""
    n = reader.u64()
    if n > reader.left // least:
        raise ParseError(f"{n} {what} in {reader.left} bytes")
    return n
