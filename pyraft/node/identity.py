"""The owner of a data directory: the file that makes it a member's.

Duty: `Identity` is the member's id, its address, the cluster's id and how far the directory has come. `read` and
`write` keep it in the file NODE_FILE of the data directory, which libraft does not look at. A directory without it is
nobody's: a node never starts there, so a member that lost its disk does not come back as if nothing had happened.

Happy path: `pyraft init` goes FOUNDING, MEMBER; `pyraft join` goes JOINING, JOINED, and the node makes that MEMBER once
its log has begun; `leave` makes it LEFT. Each step is durable before the next one begins, so that whatever a kill
interrupts is seen.

Failure modes: a file that is damaged, or of a later version, raises Refused, with its path. A write that fails raises
OSError, and the old file stands.
"""

import dataclasses
import json
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from io_uv import fs
from io_uv.failure import Failure
from pyraft.node.errors import Refused

NODE_FILE: Final = "node.json"
FORMAT: Final = 1
BOUND: Final = 2
"""The format of the file while a member runs, and after it was killed. Versions that do not keep the promises of leases
(`leases`) do not know it, and so do not start on a directory whose last member may have left some."""

FOUNDING, MEMBER, JOINING, JOINED, LEFT = "founding", "member", "joining", "joined", "left"
_PHASES: Final = (FOUNDING, MEMBER, JOINING, JOINED, LEFT)

Directory: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class Identity:
    """The content of NODE_FILE."""

    id: int
    """The server's id in the cluster's configuration: made once, never used again."""
    address: str
    cluster: str
    """The cluster's id, 32 hexadecimal digits; empty while joining."""
    phase: str
    members: tuple[str, ...] = ()
    """Addresses at which the cluster was to be found."""
    bound: bool = False
    """Whether its last member may have promised something that is not over (BOUND)."""

    def at(self, phase: str, **changes: Any) -> "Identity":
        """Return this identity in another phase."""
        return dataclasses.replace(self, phase=phase, **changes)


def new_id() -> int:
    """Return an id for a server that no other one has, or will have.

    It is below 2^53: JavaScript, and many that read JSON, have no larger number exactly.
    """
    return secrets.randbits(52) + 1


def new_cluster() -> str:
    """Return an id for a cluster."""
    return secrets.token_hex(16)


def read(directory: Directory) -> Identity | None:
    """Return the identity of a data directory, None if it has none. Raises Refused for a file that is of no use."""
    path = Path(directory, NODE_FILE)
    try:
        # A link may lead to another's file, and a FIFO would be waited at.
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise Refused(f"{path} is not a file, but a link or something else: it does not say who this server is")
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = json.loads(text)
        if type(found) is not dict:
            raise ValueError("no object")
        if found.get("format") not in (FORMAT, BOUND):
            raise ValueError(f"format {found.get('format')!r}, written by another version")
        return _checked(found)
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise Refused(f"{path} does not say who this server is: {type(exc).__name__}: {exc}") from None


def _checked(found: dict[str, Any]) -> Identity:
    identity = Identity(
        found["id"],
        found["address"],
        found["cluster"],
        found["phase"],
        tuple(str(a) for a in found["members"]),
        found["format"] == BOUND,
    )
    if type(identity.id) is not int or not 0 < identity.id < 1 << 64:
        raise ValueError(f"id {identity.id!r}")
    if type(identity.address) is not str or not identity.address:
        raise ValueError(f"address {identity.address!r}")
    if identity.phase not in _PHASES:
        raise ValueError(f"phase {identity.phase!r}")
    if type(identity.cluster) is not str or len(bytes.fromhex(identity.cluster)) not in (0, 16):
        raise ValueError(f"cluster {identity.cluster!r}")
    if not identity.cluster and identity.phase != JOINING:
        raise ValueError("no cluster")
    return identity


def write(directory: Directory, identity: Identity) -> None:
    """Make `identity` that of the directory: a power cut leaves the old one or the new one. Raises OSError."""
    try:
        fs.replace_file(os.fspath(directory), NODE_FILE, encode(identity))
    except Failure as failure:
        raise OSError(f"{Path(directory, NODE_FILE)}: {failure.message}") from None


def encode(identity: Identity) -> bytes:
    """Return the content of NODE_FILE."""
    found = {"format": BOUND if identity.bound else FORMAT, **dataclasses.asdict(identity)}
    del found["bound"]
    return (json.dumps(found, indent=1) + "\n").encode()


def holder(directory: Directory) -> int | None:
    """Return the process that has the lock of a data directory, None if that cannot be found out."""
    try:
        status = os.stat(directory)
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in lines:
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == wanted and words[4].isdigit():
            return int(words[4])
    return None
