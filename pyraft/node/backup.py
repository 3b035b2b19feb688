"""Backups: the state of a cluster in a file, taken while it runs, and a new cluster that begins with it.

Duty: `take` writes the file, by way of an `Operator`; `examine` compares its checksum and says what is in it; `restore`
makes a directory that of a new cluster's only member with that state. A new cluster of nodes has an id of its own, so
no member of the old one takes it for its own, or the other way round.

The file is a line of JSON (`Head`), the data of a snapshot of the machines, and a last line with the SHA-256 of all
before it, in hexadecimal digits.

Happy path: `await take(operator, "shop.backup")`; later `await restore("shop.backup", "data/1", "10.0.0.1:9001")`, and
a node is started on the directory; others join it.

Failure modes: a file that is there already is Refused, and so is one that is damaged, cut off or of a later format. One
that is being written has another name, and is removed if that fails. A restore that is interrupted leaves a directory
that nothing starts on: empty it, and begin again.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from io_uv import datadir
from io_uv.datadir import newfile
from io_uv.datadir.progress import Tally
from pyraft import RAFT_VOTER, RaftConfiguration, RaftSnapshot, aio, configuration, raft_configuration_add
from pyraft.node.errors import Malformed, Refused
from pyraft.node.founding import check_address, making, require_empty
from pyraft.node.ground import Ground
from pyraft.node.identity import MEMBER, Directory, Identity, new_cluster, new_id, read, write
from pyraft.node.operate import Operator, Survey
from pyraft.node.replica import Replica
from pyraft.types import BytesLike

FORMAT: Final = "pyraft backup 1"
_MAX_HEAD: Final = 1 << 20
_PIECE: Final = 1 << 20
_DIGEST: Final = 65


@dataclass(frozen=True)
class Head:
    """The first line of a backup."""

    cluster: str
    machine: str
    """The class of the program's machine."""
    version: str
    """The version of the library that has written it."""
    index: int
    """The last entry whose effect is in it, and the term of that."""
    term: int
    taken: int
    """When it was taken, in microseconds since 1970, by the clock of the member that it is from."""
    members: list[list[Any]]
    """The members at that time: [id, address, role]."""
    size: int
    """Bytes of data."""
    sha256: str
    """The checksum of the data, made by the member."""
    format: str = FORMAT


def source(survey: Survey) -> str:
    """Return the address of the member to take a backup of: rather not the leader, which has most to do."""
    able = [one for one in survey.members if one.status is not None and one.role in ("voter", "standby")]
    able = [one for one in able if one.status is not None and one.status.state in ("leader", "follower")]
    if not able:
        raise Refused("no member can give a backup: none of those that answer follows a leader")
    return min(able, key=lambda one: (one is survey.leader, one.behind or 0)).address


async def take(
    operator: Operator,
    path: str | os.PathLike[str],
    member: str = "",
    progress: datadir.Progress | None = None,
) -> Head:
    """Write a backup of the cluster to a new file; `member` is the address to take it from, else `source` says.

    All that was acknowledged before the call is in it. It is durable on return. `progress` is told of the bytes that
    have come.
    """
    try:
        with newfile.create(path) as file:
            where = member or source(await operator.survey())
            writer = _Writer(file, progress)
            found = _head(await operator.backup(where, writer.begin))
            file.write(writer.digest.hexdigest().encode() + b"\n")
    except FileExistsError:
        raise Refused(f"there is a file {os.fspath(path)} already") from None
    return found


class _Writer:
    """Writes to a file, and keeps its checksum."""

    def __init__(self, file: Any, progress: datadir.Progress | None) -> None:
        self.digest = hashlib.sha256()
        self._file = file
        self._progress = progress
        self._tally = Tally(None, "", 0)

    def begin(self, head: dict[str, Any]) -> "_Writer":
        """Write the first line."""
        found = _head(head)
        self._tally = Tally(self._progress, "fetching", found.size)
        self.write(json.dumps(dataclasses.asdict(found)).encode() + b"\n")
        return self

    def write(self, data: bytes, /) -> None:
        """Take more data."""
        self.digest.update(data)
        self._file.write(data)
        self._tally.add(len(data))


def _head(found: Any) -> Head:
    """Return the head of a backup by the dict that it travels as. Raises Malformed."""
    if type(found) is not dict:
        raise Malformed("a backup without a head")
    if found.get("format", FORMAT) != FORMAT:
        raise Refused(f"a backup of format {found['format']!r:.40}, written by a later version")
    kinds = {"index": int, "term": int, "taken": int, "size": int, "members": list}
    values = {field.name: found.get(field.name) for field in dataclasses.fields(Head) if field.name != "format"}
    if not all(type(value) is kinds.get(name, str) for name, value in values.items()):
        raise Malformed("a backup whose head lacks something, or has a value of a wrong type")
    if not all(type(row) is list and len(row) >= 3 for row in values["members"] or ()):
        raise Malformed("a backup with members of a wrong form")
    head = Head(**values)  # type: ignore[arg-type]
    if not (0 < head.index < 1 << 63 and 0 < head.term < 1 << 63 and head.size >= 0):
        raise Malformed("a backup with an index, a term or a size out of range")
    return head


def examine(path: str | os.PathLike[str], progress: datadir.Progress | None = None) -> Head:
    """Return the head of a backup whose checksum is right; `progress` is told of the bytes that were read.

    Raises Refused, OSError.
    """
    with Path(path).open("rb") as file:
        return _examine(file, path, progress)[0]


def _examine(file: Any, path: str | os.PathLike[str], progress: datadir.Progress | None) -> tuple[Head, int]:
    """Return the head, and where the data begins."""
    line = file.readline(_MAX_HEAD)
    try:
        head = _head(json.loads(line))
    except (ValueError, RecursionError, Malformed):
        raise Refused(f"{path} is not a backup, or its beginning is damaged") from None
    digest = hashlib.sha256(line)
    data = hashlib.sha256()
    tally = Tally(progress, "comparing", head.size)
    for piece in _pieces(file, head.size, tally):
        digest.update(piece)
        data.update(piece)
    last = file.read(_DIGEST + 1)
    if last != digest.hexdigest().encode() + b"\n" or data.hexdigest() != head.sha256:
        raise Refused(f"{path} is damaged: its checksum is not that of its content")
    return head, len(line)


async def restore(
    path: str | os.PathLike[str],
    directory: Directory,
    address: str,
    progress: datadir.Progress | None = None,
    *,
    id: int = 0,
) -> Identity:
    """Make `directory` that of a new cluster's only member, which others reach at `address`, with a backup's state.

    Nothing of the old cluster is touched; where that still runs there are two from now on. `progress` is told of the
    bytes that were read, and written. Returns who the member is.

    Where the backup is one of servers that only use the C-style API, `id` is the one that the program gives to
    raft_init. They have no cluster's id: take an id and an address that no server of the old cluster has.
    """
    with Path(path).open("rb") as file:
        head, offset = _examine(file, path, progress)
        if head.cluster and id:
            raise Refused("a node gets an id of its own: give none")
        if not head.cluster and not configuration.is_id(id):
            raise Refused("it is of servers that use the C-style API: give the id of the first one of the new cluster")
        with making(directory):
            if read(directory) is not None:
                raise Refused(f"'{os.fspath(directory)}' belongs to a member already: take an empty directory")
            require_empty(directory)
            identity = Identity(id or new_id(), address, new_cluster() if head.cluster else "", MEMBER, (address,))
            ground = Ground(directory)
            try:
                check_address(ground, address)
                ground.server(Replica({}), identity)
                file.seek(offset)
                _plant(directory, head, identity, _pieces(file, head.size, Tally(progress, "writing", head.size)))
                if head.cluster:
                    write(directory, identity)
            except datadir.Failure as failure:
                raise OSError(f"{os.fspath(directory)}: {failure.message}") from None
            finally:
                await ground.close()
    return identity


def _plant(directory: Directory, head: Head, identity: Identity, pieces: Iterator[bytes]) -> None:
    """Make the data of a backup the beginning of a log."""
    snapshot = RaftSnapshot()
    snapshot.index = snapshot.configuration_index = head.index
    snapshot.term = head.term
    snapshot.configuration = RaftConfiguration()
    rv = raft_configuration_add(snapshot.configuration, identity.id, identity.address, RAFT_VOTER)
    if rv != 0:
        raise aio.RaftError(rv)
    snapshot.bufs = cast("Sequence[BytesLike]", pieces)  # It is read once.
    datadir.plant(directory, snapshot)


def _pieces(file: BinaryIO, size: int, tally: Tally) -> Iterator[bytes]:
    """Yield so many bytes of a file, in pieces. Raises Refused where it ends before."""
    left = size
    while left > 0:
        piece = file.read(min(left, _PIECE))
        if not piece:
            raise Refused(f"{file.name} is cut off: {left} bytes of its data are missing")
        left -= len(piece)
        yield piece
        tally.add(len(piece))
