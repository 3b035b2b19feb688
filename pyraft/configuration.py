"""Cluster configurations: look-ups, changes, and their encoding.

Duty: functions over `RaftConfiguration`, the list of servers that a CHANGE entry and a snapshot carry. The encoding
is the same on disk and on the wire: format byte 1, number of servers (u64), then per server its id (u64), its
address closed by a NUL, and a role byte; padded with zeros to a multiple of 8. Integers are little-endian.

Failure modes: `decode` answers RAFT_MALFORMED, with a text that names the offset, for whatever is not such a blob.
Bytes after the last server are ignored. Encoding an empty configuration is a bug of the caller.
"""

import hashlib
import struct
from typing import Final

from pyraft.errors import (
    RAFT_BADID,
    RAFT_BADROLE,
    RAFT_DUPLICATEADDRESS,
    RAFT_DUPLICATEID,
    RAFT_INVALID,
    RAFT_MALFORMED,
)
from pyraft.types import RAFT_SPARE, RAFT_STANDBY, RAFT_VOTER, RaftConfiguration, RaftServer, raft_id

FORMAT: Final = 1

_HEAD: Final = struct.Struct("<BQ")
_ID: Final = struct.Struct("<Q")
_ROLES: Final = (RAFT_STANDBY, RAFT_VOTER, RAFT_SPARE)


def raft_configuration_init(c: RaftConfiguration) -> None:
    """Make `c` an empty configuration (raft.h)."""
    c.servers = []


def raft_configuration_close(c: RaftConfiguration) -> None:
    """Release what `c` holds; it is empty afterwards (raft.h)."""
    c.servers = []


def raft_configuration_add(c: RaftConfiguration, id: raft_id, address: str, role: int) -> int:
    """Append a server; `role` True is RAFT_VOTER, False RAFT_STANDBY, the older spelling.

    Errors: RAFT_BADROLE (role not STANDBY, VOTER or SPARE), RAFT_BADID (no id of 64 bits, or 0),
    RAFT_DUPLICATEID, RAFT_DUPLICATEADDRESS; ours: RAFT_INVALID (an address that cannot be encoded: no string, or
    with a NUL or a lone surrogate in it). Source: raft.h.
    """
    # C: configuration.c:configurationAdd asserts on id 0; a library does not answer bad input with an assertion.
    if not is_role(role):
        return RAFT_BADROLE
    if not is_id(id):
        return RAFT_BADID
    if not is_address(address):
        return RAFT_INVALID
    for server in c.servers:
        if server.id == id:
            return RAFT_DUPLICATEID
        if server.address == address:
            return RAFT_DUPLICATEADDRESS
    c.servers.append(RaftServer(id, address, int(role)))
    return 0


def is_id(id: object) -> bool:
    """Return whether `id` can be a server's: a number of 64 bits, not 0."""
    return isinstance(id, int) and 0 < id < 1 << 64


def is_role(role: object) -> bool:
    """Return whether `role` is RAFT_STANDBY, RAFT_VOTER or RAFT_SPARE, or a bool, the older spelling."""
    return isinstance(role, int) and role in _ROLES


def is_address(address: object) -> bool:
    """Return whether `address` can be encoded: a string without a NUL or a lone surrogate."""
    if not isinstance(address, str) or "\0" in address:
        return False
    try:
        address.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def check(c: RaftConfiguration) -> int:
    """Look through `c`, whose servers anybody may have put there. Return RAFT_INVALID if it is empty or holds anything
    but servers, else the code with which raft_configuration_add would have refused one; 0 if it is in order.
    """
    fresh = RaftConfiguration()
    for server in c.servers:
        if not isinstance(server, RaftServer):
            return RAFT_INVALID
        rv = raft_configuration_add(fresh, server.id, server.address, server.role)
        if rv != 0:
            return rv
    return 0 if fresh.servers else RAFT_INVALID


def raft_configuration_encode(c: RaftConfiguration) -> tuple[int, bytes]:
    """Return (0, blob), the form that the module's head describes; (rv, b"") for a configuration that is not valid.

    Errors (ours; C asserts): RAFT_INVALID (empty, or an element is not a RaftServer with an address), RAFT_BADID,
    RAFT_BADROLE, RAFT_DUPLICATEID, RAFT_DUPLICATEADDRESS: what raft_configuration_add has for such a server.
    Source: raft.h.
    """
    # C: configuration.c:configurationEncode asserts that it is not empty.
    rv = check(c)
    return rv, b"" if rv != 0 else encode(c)


def raft_digest(text: str, n: int) -> int:
    """Return 64 bits made of `text` and the 64-bit number `n`: the end of their SHA1, little-endian (raft.h)."""
    data = text.encode("utf-8", "surrogateescape") + _ID.pack(n & 0xFFFF_FFFF_FFFF_FFFF)
    return int(_ID.unpack(hashlib.sha1(data, usedforsecurity=False).digest()[-8:])[0])


def index_of(c: RaftConfiguration, id: int) -> int:
    """Return the position of server `id`, or n if it is not listed."""
    for i, server in enumerate(c.servers):
        if server.id == id:
            return i
    return len(c.servers)


def index_of_voter(c: RaftConfiguration, id: int) -> int:
    """Return the position of server `id` among the voters only, or n if it is not a voter."""
    position = 0
    for server in c.servers:
        if server.id == id:
            return position if server.role == RAFT_VOTER else len(c.servers)
        if server.role == RAFT_VOTER:
            position += 1
    return len(c.servers)


def get(c: RaftConfiguration, id: int) -> RaftServer | None:
    """Return server `id`, or None."""
    for server in c.servers:
        if server.id == id:
            return server
    return None


def voter_count(c: RaftConfiguration) -> int:
    """Return the number of voters."""
    count = 0
    for server in c.servers:
        if server.role == RAFT_VOTER:
            count += 1
    return count


def copy(c: RaftConfiguration) -> RaftConfiguration:
    """Return a copy that shares nothing with `c`."""
    fresh = RaftConfiguration()
    fresh.servers = [RaftServer(s.id, s.address, s.role) for s in c.servers]
    return fresh


def remove(c: RaftConfiguration, id: int) -> int:
    """Remove server `id`; RAFT_BADID if it is not listed."""
    i = index_of(c, id)
    if i == len(c.servers):
        return RAFT_BADID
    del c.servers[i]
    return 0


def encode(c: RaftConfiguration) -> bytes:
    """Return the encoded form of `c`, a multiple of 8 bytes long, padding zero (see the module's head)."""
    assert c.servers, "an empty configuration has no encoding"
    parts = [_HEAD.pack(FORMAT, len(c.servers))]
    for server in c.servers:
        parts.append(_ID.pack(server.id))
        parts.append(server.address.encode("utf-8", "surrogateescape") + b"\0")
        parts.append(bytes((server.role,)))
    blob = b"".join(parts)
    return blob + bytes(-len(blob) % 8)


def decode(buf: bytes) -> tuple[int, RaftConfiguration, str]:
    """Return (0, configuration, "") or (RAFT_MALFORMED, empty configuration, what is wrong and at which offset)."""
    c = RaftConfiguration()
    problem = _decode_into(c, buf)
    if problem:
        return RAFT_MALFORMED, RaftConfiguration(), problem
    return 0, c, ""


def _decode_into(c: RaftConfiguration, buf: bytes) -> str:
    if len(buf) < _HEAD.size:
        return f"configuration has only {len(buf)} bytes"
    format, n = _HEAD.unpack_from(buf)
    if format != FORMAT:
        return f"configuration has format {format} instead of {FORMAT}"
    ids: set[int] = set()
    addresses: set[str] = set()
    offset = _HEAD.size
    for _ in range(n):
        end = buf.find(b"\0", offset + _ID.size)
        if end < 0 or end + 1 >= len(buf):
            return f"configuration is cut short in the server at offset {offset}"
        (id,) = _ID.unpack_from(buf, offset)
        address = buf[offset + _ID.size : end].decode("utf-8", "surrogateescape")
        role = buf[end + 1]
        # Sets, as looking through all servers for each one would stall a server on a long blob from a stranger.
        if role not in _ROLES or id == 0 or id in ids or address in addresses:
            return f"configuration has a bad server at offset {offset}"
        ids.add(id)
        addresses.add(address)
        c.servers.append(RaftServer(id, address, role))
        offset = end + 2
    return ""
