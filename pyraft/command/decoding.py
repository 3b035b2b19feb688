"""The meaning of the data of a log entry, in a line: for `pyraft dir log`.

Duty: `describe` tries the layers that put commands into the log: a configuration, a command of pyraft.node, one of
dqlite, and falls back on the bytes themselves.

Happy path: "take('apple', 1) for the program's machine". Failure modes: none; bytes of no known form are shown as
text if they are printable, else in hexadecimal digits, cut to a line.
"""

import struct
from typing import Final

from pyraft import configuration
from pyraft.errors import printable
from pyraft.node import codec
from pyraft.node.errors import Malformed
from pyraft.types import RAFT_BARRIER, RAFT_CHANGE, RAFT_SPARE, RAFT_STANDBY, RAFT_VOTER, RaftConfiguration

TYPES: Final = {1: "command", 2: "barrier", 3: "change"}
ROLES: Final = {RAFT_STANDBY: "standby", RAFT_VOTER: "voter", RAFT_SPARE: "spare"}

_DQLITE: Final = {1: "OPEN", 2: "FRAMES", 3: "UNDO", 4: "CHECKPOINT"}
_FRAMES: Final = struct.Struct("<QIBBHIHH")
_SHOWN: Final = 48


def servers(conf: RaftConfiguration) -> str:
    """Return the members of a configuration in a line."""
    return ", ".join(f"{one.id} {ROLES.get(one.role, one.role)} {printable(one.address)}" for one in conf.servers)


def describe(type: int, data: bytes) -> str:
    """Return what an entry says."""
    if type == RAFT_BARRIER:
        return ""
    if type == RAFT_CHANGE:
        rv, conf, problem = configuration.decode(data)
        return servers(conf) if rv == 0 else f"no configuration: {problem}"
    return _node(data) or _dqlite(data) or _plain(data)


def _node(data: bytes) -> str:
    """Return the calls of an entry of pyraft.node, "" for another entry."""
    try:
        _, calls = codec.Codec().unpack(codec.unframe(data))
        said = [_call(*call) for call in calls]
    except (Malformed, ValueError, TypeError):
        return ""
    return "; ".join(said)


def _call(session: bytes, number: int, acknowledged: int, machine: str, command: str, version: int, args: bytes) -> str:
    name = f"{machine}.{command}" if machine else command
    if version != 1:
        name += f"@{version}"
    try:
        positional, named = codec.Codec().unpack(args)
    except (Malformed, ValueError, TypeError):
        return f"{name}({len(args)} bytes)"  # with classes that only the program knows
    words = [_value(one) for one in positional] + [f"{key}={_value(value)}" for key, value in dict(named).items()]
    return f"{name}({', '.join(words)})"


def _value(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)


def _dqlite(data: bytes) -> str:
    """Return a command of dqlite, "" for other entries (command.c: format 1, a type, six bytes that mean nothing)."""
    if len(data) < 16 or data[0] != 1 or data[1] not in _DQLITE:
        return ""
    kind, body = data[1], data[8:]
    if kind == 3:
        return f"dqlite UNDO {int.from_bytes(body[:8], 'little')}" if len(body) == 8 else ""
    name, zero, _ = body.partition(b"\0")
    at = len(name) + 8 - len(name) % 8
    if not zero or not name.isascii() or not name.decode("ascii").isprintable() or any(body[len(name) : at]):
        return ""
    if kind != 2:
        return f"dqlite {_DQLITE[kind]} {name.decode('ascii')}" if at == len(body) else ""
    if len(body) < at + _FRAMES.size:
        return ""
    _, _, commit, _, _, pages, page_size, _ = _FRAMES.unpack_from(body, at)
    if len(body) != at + _FRAMES.size + pages * (8 + page_size):
        return ""
    numbers = struct.unpack_from(f"<{pages}Q", body, at + _FRAMES.size)
    shown = ", ".join(map(str, numbers[:8])) + (", …" if pages > 8 else "")
    return f"dqlite FRAMES {name.decode('ascii')}: pages {shown}" + (
        "" if commit else ", not the last of its transaction"
    )


def _plain(data: bytes) -> str:
    text = data.rstrip(b"\0").decode("utf-8", "replace")
    if text and text.isprintable() and "\ufffd" not in text:
        return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
    shown = data[: _SHOWN // 2].hex()
    return shown + ("…" if len(data) > _SHOWN // 2 else "")
