"""The requests of dqlite's client protocol, each a class with its fields.

Duty: `decode` makes one of type, schema and body; `encode` of each gives the message back. CONNECT, by which a
server introduces itself, is one of them. Source: gateway.c, lib/serialize.h, request.h of canonical/dqlite.

Happy path: `requests.decode(0, 0, bytes(8))` is `Leader()`; `Open("test.db").encode()` is what a client sends.

Failure modes: ParseError with dqlite's own texts for an unknown type or schema, and with the offset for a body that
ends too early. Whether ids, names and statements make sense is for the node to say.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, cast

from io_uv.dqlite.messages import OPTIONAL, PARAMETERS, TEXT, U32, U64, UNUSED, Layout
from io_uv.dqlite.tuples import Value
from io_uv.dqlite.words import ParseError, Reader


class Request(Layout):
    """A request of a client."""


@dataclass(frozen=True)
class Leader(Request):
    """Who leads? Answer: Server."""

    TYPE = 0
    FIELDS = (("", UNUSED),)


@dataclass(frozen=True)
class Client(Request):
    """A client registers itself with any number. Answer: Welcome."""

    client_id: int = 0
    TYPE = 1
    FIELDS = (("client_id", U64),)


@dataclass(frozen=True)
class Open(Request):
    """Open a database. Answer: Db."""

    file: str
    flags: int = 0
    vfs: str = "volatile"
    TYPE = 3
    FIELDS = (("file", TEXT), ("flags", U64), ("vfs", TEXT))


@dataclass(frozen=True)
class Prepare(Request):
    """Prepare a statement. Answer: Stmt; in schema 1 only the first statement is, and the offset of the rest told."""

    db_id: int
    sql: str
    schema: int = 0
    TYPE = 4
    SCHEMAS = 1
    FIELDS = (("db_id", U64), ("sql", TEXT))


@dataclass(frozen=True)
class Exec(Request):
    """Run a prepared statement. Answer: Result."""

    db_id: int
    stmt_id: int
    parameters: tuple[Value, ...] = ()
    schema: int = 0
    TYPE = 5
    SCHEMAS = 1
    FIELDS: ClassVar[tuple[tuple[str, int], ...]] = (("db_id", U32), ("stmt_id", U32), ("parameters", PARAMETERS))


@dataclass(frozen=True)
class Query(Exec):
    """Run a prepared query. Answer: Rows, one or more."""

    TYPE = 6


@dataclass(frozen=True)
class Finalize(Request):
    """Give a prepared statement up. Answer: Empty."""

    db_id: int
    stmt_id: int
    TYPE = 7
    FIELDS = (("db_id", U32), ("stmt_id", U32))


@dataclass(frozen=True)
class ExecSql(Request):
    """Run statements one after the other. Answer: Result of the last one."""

    db_id: int
    sql: str
    parameters: tuple[Value, ...] = ()
    schema: int = 0
    TYPE = 8
    SCHEMAS = 1
    FIELDS: ClassVar[tuple[tuple[str, int], ...]] = (("db_id", U64), ("sql", TEXT), ("parameters", PARAMETERS))


@dataclass(frozen=True)
class QuerySql(ExecSql):
    """Run one query. Answer: Rows, one or more."""

    TYPE = 9


@dataclass(frozen=True)
class Interrupt(Request):
    """End the query that is running. Answer: Empty."""

    db_id: int = 0
    TYPE = 10
    FIELDS = (("db_id", U64),)


@dataclass(frozen=True)
class Connect(Request):
    """A server introduces itself; from the next byte on the stream is raft's. No answer."""

    id: int
    address: str
    TYPE = 11
    FIELDS = (("id", U64), ("address", TEXT))


@dataclass(frozen=True)
class Add(Request):
    """Add a server as a spare. Answer: Empty."""

    id: int
    address: str
    TYPE = 12
    FIELDS = (("id", U64), ("address", TEXT))


@dataclass(frozen=True)
class Assign(Request):
    """Give a server a role: 0 voter, 1 stand-by, 2 spare. Answer: Empty."""

    id: int
    role: int = 0
    TYPE = 13
    FIELDS = (("id", U64), ("role", OPTIONAL))


@dataclass(frozen=True)
class Remove(Request):
    """Remove a server. Answer: Empty."""

    id: int
    TYPE = 14
    FIELDS = (("id", U64),)


@dataclass(frozen=True)
class Dump(Request):
    """Give the files of a database. Answer: Files."""

    file: str
    TYPE = 15
    FIELDS = (("file", TEXT),)


@dataclass(frozen=True)
class Cluster(Request):
    """Who are the members? With format 1 their roles are told too. Answer: Servers."""

    format: int = 1
    TYPE = 16
    FIELDS = (("format", U64),)


@dataclass(frozen=True)
class Transfer(Request):
    """Hand leadership to a server. Answer: Empty."""

    id: int
    TYPE = 17
    FIELDS = (("id", U64),)


@dataclass(frozen=True)
class Describe(Request):
    """Tell failure domain and weight. Answer: Metadata."""

    format: int = 0
    TYPE = 18
    FIELDS = (("format", U64),)


@dataclass(frozen=True)
class Weight(Request):
    """Set the weight. Answer: Empty."""

    weight: int
    TYPE = 19
    FIELDS = (("weight", U64),)


_KINDS: Final[tuple[type[Request], ...]] = (
    *(Leader, Client, Open, Prepare, Exec, Query, Finalize, ExecSql, QuerySql, Interrupt),
    *(Connect, Add, Assign, Remove, Dump, Cluster, Transfer, Describe, Weight),
)
REQUESTS: Final = {kind.TYPE: kind for kind in _KINDS}
"""The classes by type. 2, HEARTBEAT, is answered by nobody."""


def decode(type: int, schema: int, body: bytes) -> Request:
    """Return the request; ParseError for an unknown type or version, and for a body that is not one of that type."""
    kind = REQUESTS.get(type)
    if kind is None:
        raise ParseError("unrecognized request type")
    if schema > kind.SCHEMAS:
        raise ParseError("unrecognized schema version")
    return cast(Request, kind.read(Reader(body), schema))
