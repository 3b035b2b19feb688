"""The protocol between nodes, and of clients, on the port that raft listens on: frames and what is in them.

FORMATS.md beside this file has it as tables, with the files and entries of a node.

Duty: a connection begins with WORD, which raft peers never send. Then frames go both ways: a length (u32,
little-endian) and a msgpack list whose first member says what it is. `Frames` cuts what comes into such lists;
`check_hello` and its kin look at what others sent before anything is done with it.

Happy path: the one who connects says [HELLO, version, cluster, id], the other answers [WELCOME, version, cluster, id].
[CALLS, group, calls] is answered by [OUTCOMES, group, first, outcomes], in one piece or several, or by [ELSEWHERE,
group, leader's id, its address] from a member that does not lead; [ASK, number, what, arguments] by [ANSWER, number,
status, value]; [PING] by [PONG].

An ASK is for whoever leads: "members", "join" [id, address], "promote", "demote", "remove", "transfer" [id]
(`council`), "index", "query" [machine, query, packed arguments] (`node`); or for this member (`desk`, `giving`):
"ping" gives its id, "status" a dict (`status.Status`), "snapshot" an index, "backup" [number, head], then "piece"
[number, offset] bytes, and "close" [number]. Servers may have others; one that is not known is FAILED.

Failure modes: bytes that are not a frame, too long, too deep, or of other types than these raises Malformed. It costs
the connection, and nothing else.
"""

import struct
from typing import Any, Final

import msgpack

from pyraft.node.errors import Malformed
from pyraft.node.proposer import Wire

WORD: Final = int.from_bytes(b"raftnode", "little")
VERSION: Final = 1

QUESTIONS: Final = {
    "members": "lists of id, address, role, leads; all that older versions answer",
    "roster": "maps with what council.Member has; there may be more keys",
    "join": "id, address: the cluster's id and its addresses",
    "promote": "id: the role",
    "demote": "id: the role",
    "remove": "id",
    "replace": "id, by (0: any): who votes in its place, 0 for nobody",
    "transfer": "id (0: any): who leads",
    "index": "the index up to which a query, or the backup of a server of the C-style API, has to wait elsewhere",
    "await": "machine, query, arguments: whether the query said yes within some seconds",
    "query": "machine, name, arguments: an outcome",
}
"""The questions of an ASK: arguments and answers; those of operators are in `desk`. A version answers one that it does
not know with FAILED and a text that begins with service.NOBODY_KNOWS, by which newer versions tell that."""

HELLO, WELCOME, REFUSED, CALLS, OUTCOMES, ELSEWHERE, ASK, ANSWER, PING, PONG = range(10)

DONE, NOT_HERE, FAILED = range(3)
"""The status of an ANSWER. Its value is the result, the leader's address or None, and a text, in this order."""

MAX_FRAME: Final = 8 << 20
MAX_HELLO: Final = 1024
MAX_GROUP: Final = 4096
"""Calls in one group."""
MAX_ARGUMENTS: Final = 4 << 20
MAX_NAME: Final = 256
MAX_SESSION: Final = 64
PIECE: Final = 1 << 20
"""Outcomes are sent in pieces of about this many bytes."""

_LENGTH: Final = struct.Struct("<I")
_NUMBERS: Final = 1 << 63


def pack(*message: Any) -> bytes:
    """Return a message as a frame."""
    packed: bytes = msgpack.packb(message)
    return _LENGTH.pack(len(packed)) + packed


class Frames:
    """Cuts what comes on a connection into messages."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = MAX_HELLO) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def accept(self, limit: int) -> None:
        """Take frames of so many bytes from now on."""
        self._limit = limit

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self._buffer += data

    def next(self) -> list[Any] | None:
        """Return the next message, None until it is complete. Raises Malformed."""
        buffer = self._buffer
        if len(buffer) < 4:
            return None
        (length,) = _LENGTH.unpack_from(buffer)
        if length > self._limit:
            raise Malformed(f"a frame of {length} bytes, more than {self._limit}")
        if len(buffer) < 4 + length:
            return None
        payload = bytes(memoryview(buffer)[4 : 4 + length])
        del buffer[: 4 + length]
        return unpack(payload)


def unpack(payload: bytes) -> list[Any]:
    """Return the message in a frame. Raises Malformed."""
    try:
        message = msgpack.unpackb(payload)
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException) as exc:
        raise Malformed(f"a frame without a message: {str(exc) or type(exc).__name__}") from None
    if type(message) is not list or not message or type(message[0]) is not int:
        raise Malformed(f"a frame with a {type(message).__name__} in it")
    return message


def fits(message: list[Any], *types: type) -> bool:
    """Return whether the members of a message behind its first are of just these types."""
    return len(message) == len(types) + 1 and all(map(_is, message[1:], types))


def _is(value: Any, kind: type) -> bool:
    return type(value) is kind


def check_hello(message: list[Any]) -> tuple[str, int]:
    """Return cluster and id from a HELLO or WELCOME. Raises Malformed."""
    if not fits(message, int, str, int):
        raise Malformed("a greeting without version, cluster and id")
    if message[1] != VERSION:
        raise Malformed(f"version {message[1]} of the protocol, here it is {VERSION}")
    return message[2], message[3]


def check_calls(message: list[Any]) -> tuple[int, list[Wire]]:
    """Return group and calls from a CALLS. Raises Malformed."""
    if not fits(message, int, list):
        raise Malformed("a group of calls of a wrong form")
    _, group, calls = message
    if not 0 <= group < _NUMBERS or not 0 < len(calls) <= MAX_GROUP:
        raise Malformed(f"group {group} of {len(calls)} calls")
    for call in calls:
        if type(call) is not list or len(call) != 7 or not all(map(_is, call, _CALL)):
            raise Malformed("a call of a wrong form")
        session, number, acknowledged, machine, command, version, arguments = call
        if not (0 <= number < _NUMBERS and 0 <= acknowledged < _NUMBERS and 0 <= version < _NUMBERS):
            raise Malformed("a call with a number that is too large")
        if len(session) > MAX_SESSION or len(machine) > MAX_NAME or len(command) > MAX_NAME:
            raise Malformed("a call with a name that is too long")
        if len(arguments) > MAX_ARGUMENTS:
            raise Malformed(f"a call with {len(arguments)} bytes of arguments")
    return group, calls


_CALL: Final = (bytes, int, int, str, str, int, bytes)


def check_ask(message: list[Any]) -> tuple[int, str, list[Any]]:
    """Return number, what is asked for, and its arguments from an ASK. Raises Malformed."""
    if not fits(message, int, str, list) or not 0 <= message[1] < _NUMBERS or len(message[3]) > 8:
        raise Malformed("a question of a wrong form")
    return message[1], message[2], message[3]


def outcomes(group: int, values: list[bytes]) -> list[bytes]:
    """Return the frames that answer a group."""
    frames: list[bytes] = []
    first = size = 0
    for end, value in enumerate(values, 1):
        size += len(value)
        if size >= PIECE or end == len(values):
            frames.append(pack(OUTCOMES, group, first, values[first:end]))
            first, size = end, 0
    return frames
