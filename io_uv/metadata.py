"""The files metadata1 and metadata2: current term and vote.

Duty: `store` writes the state with odd version to metadata1, with even version to metadata2, in place and durable on
return; `load` reads both and returns the newer. Each file has 32 bytes: the words format (1), version, term, vote.
A write touches one sector of the older file, so a power cut leaves the newer one alone.

Format 1 has no checksum here. A sidecar (`sums`) written after each store tells damage from a legal state: a
version above the sidecar's means that a C process ran in between, and says nothing; the same version must have the
same content, and no crash takes a file below the version of its sidecar, which is written last.

Failure modes: RAFT_CORRUPT and RAFT_MALFORMED with the texts of the C library, or a text that names the file and its
sidecar; RAFT_IOERR "persist metadata1: …". A damaged file that was the older one is passed over: it is written next.
One of another format never is: `bar` writes such a one where a server must not start until the next state is stored.
"""

import struct
from collections.abc import Mapping
from typing import Final

from io_uv import fs, sums
from io_uv.failure import Failure, Unknown, unknown_format
from io_uv.state import Metadata
from pyraft.errors import RAFT_CORRUPT, RAFT_INVALID, RAFT_MALFORMED

FORMAT: Final = 1
BARRED: Final = 255
"""The format of a state that is to come, see `bar`. No version of this library or of C takes it."""
_LAYOUT: Final = struct.Struct("<QQQQ")
NAMES: Final = ("metadata1", "metadata2")


class Barred(Unknown):
    """A metadata file that `bar` has written, in the place of a state that is to come."""

    __slots__ = ()


class Copy:
    """One of the two files: its content, or its fault and the version that is known to be lost with it.

    `present` is False if there is no file; one that is there without metadata or a problem was never written whole.
    """

    __slots__ = ("known", "metadata", "name", "present", "problem")

    def __init__(self, name: str, metadata: Metadata | None, problem: Failure | None = None, known: int = 0) -> None:
        self.name = name
        self.metadata = metadata
        self.problem = problem
        self.known = known
        self.present = True


def encode(metadata: Metadata) -> bytes:
    """Return the 32 bytes of a metadata file."""
    return _LAYOUT.pack(FORMAT, metadata.version, metadata.term, metadata.voted_for)


def file_of(version: int) -> str:
    """Return the name of the file that holds a version."""
    return NAMES[0] if version % 2 == 1 else NAMES[1]


def store(dir: str, metadata: Metadata) -> None:
    """Make `metadata` durable in the file of its version. After a failure the same version may be stored again."""
    assert metadata.version > 0
    name = file_of(metadata.version)
    data = encode(metadata)
    try:
        fs.overwrite_file(dir, name, data)
    except Failure as exc:
        raise exc.wrap(f"persist {name}") from None
    sums.store(dir, name, metadata.version, sums.checksum(data), durable=False)


def bar(dir: str, metadata: Metadata) -> None:
    """Have every start refused, durably, here and in C, until `metadata`, whose version is the next one, is stored."""
    name = file_of(metadata.version)
    try:
        fs.replace_file(dir, name, _LAYOUT.pack(BARRED, metadata.version, metadata.term, metadata.voted_for))
    except Failure as exc:
        raise exc.wrap(f"persist {name}") from None


def barred(dir: str) -> Metadata | None:
    """Return the state that is to be stored, if starts are refused until then."""
    for name in NAMES:
        data = _read(dir, name)
        if data is not None and len(data) == _LAYOUT.size:
            format, version, term, voted_for = _LAYOUT.unpack(data)
            if format == BARRED:
                return Metadata(version, term, voted_for)
    return None


def _decode(name: str, data: bytes) -> Metadata:
    format, version, term, voted_for = _LAYOUT.unpack(data)
    if format == BARRED:
        raise Barred(
            RAFT_MALFORMED,
            f"{name}: new ids were being given to the servers, and that was interrupted: run the same "
            "`pyraft dir readdress --id …` once more, which completes it",
        )
    if format != FORMAT:
        raise unknown_format(format, RAFT_MALFORMED, f"decode content of {name}: bad format version {format}")
    if version == 0:
        raise Failure(RAFT_CORRUPT, f"decode content of {name}: version is set to zero")
    return Metadata(version, term, voted_for)


def _verify(name: str, data: bytes, version: int, known: sums.Sum) -> None:
    """Raise Failure if a file is neither what its sidecar says nor what another process has written since."""
    if version == known.of:
        intact = sums.checksum(data) == known.crc
    else:
        # Terms and votes move on with every store, so an old content under another version is a damaged version word.
        old = data[:8] + struct.pack("<Q", known.of) + data[16:]
        intact = sums.checksum(old) != known.crc
    if not intact:
        raise Failure(
            RAFT_CORRUPT, f"{name} differs in bytes 0 to {len(data)} from its checksum in {name}{sums.SUFFIX}"
        )
    if version < known.of:
        raise Failure(RAFT_CORRUPT, f"{name} is at version {version}, behind version {known.of} in {name}{sums.SUFFIX}")


def _read(dir: str, name: str) -> bytes | None:
    """Return the content of a file, None if there is none."""
    try:
        size = fs.size_of(dir, name)
    except Failure as exc:
        raise exc.wrap(f"check if {name} exists") from None
    if size is None:
        return None
    if size != _LAYOUT.size and fs.is_dir(dir, name):
        raise Failure(RAFT_CORRUPT, f"{name} is a directory")
    if size > _LAYOUT.size:
        raise Failure(RAFT_CORRUPT, f"{name} has size {size} instead of {_LAYOUT.size}")
    try:
        return fs.read_file(dir, name)
    except Failure as exc:
        raise exc.wrap(f"read content of {name}") from None


def _read_copy(dir: str, name: str) -> Copy:
    known = sums.load(dir, name)
    version = 0 if known is None else known.of
    data = _read(dir, name)
    if data is None:
        copy = Copy(name, None)
        copy.present = False
        if known is not None:
            text = f"{name} is missing, it was at version {version} by {name}{sums.SUFFIX}"
            copy.problem, copy.known = Failure(RAFT_CORRUPT, text), version
        return copy
    if len(data) < _LAYOUT.size or not any(data):
        # A crash during the first write of a file: nothing was stored in it yet.
        if known is None:
            return Copy(name, None)
        what = f"only {len(data)} bytes" if len(data) < _LAYOUT.size else "only zeros"
        text = f"{name} has {what}, it was at version {version} by {name}{sums.SUFFIX}"
        return Copy(name, None, Failure(RAFT_CORRUPT, text), version)
    try:
        metadata = _decode(name, data)
        if known is not None:
            _verify(name, data, metadata.version, known)
    except Failure as exc:
        if known is not None and sums.checksum(struct.pack("<Q", FORMAT) + data[8:]) == known.crc:
            # It is of this version but for that word, which is therefore damaged.
            exc = Failure(exc.code, exc.message)
        return Copy(name, None, exc, version)
    return Copy(name, metadata, known=version)


def read_copies(dir: str, strange: Mapping[str, str]) -> list[Copy]:
    """Return both files as they are; nothing is changed. A file that cannot be read has that as its problem.

    `strange` are names that must not be opened, with what they are.
    """
    copies = []
    for name in NAMES:
        if name in strange:
            copies.append(Copy(name, None, Failure(RAFT_INVALID, f"{name} is a {strange[name]}")))
            continue
        try:
            copies.append(_read_copy(dir, name))
        except Failure as exc:
            copies.append(Copy(name, None, exc))
    return copies


def _load_one(dir: str, name: str) -> Copy:
    copy = _read_copy(dir, name)
    if copy.present and copy.metadata is None and copy.problem is None:
        fs.remove_file(dir, name)
    return copy


def load(dir: str) -> Metadata:
    """Return the newer of the two states, version 0 if there is none.

    Errors: RAFT_CORRUPT if a file is longer than 32 bytes, has version 0, differs from its sidecar or is behind it, or
    if both have the same version; RAFT_MALFORMED for another format; RAFT_IOERR. Removing the .sum files makes it
    accept what is there.
    """
    copies = [_load_one(dir, name) for name in NAMES]
    good = [copy.metadata for copy in copies if copy.metadata is not None]
    newest = max(good, key=lambda m: m.version, default=Metadata())
    for copy in copies:
        # If one is of a later version, nobody here can tell which of the two states is the newer one.
        later = isinstance(copy.problem, Unknown)
        if copy.problem is not None and (later or not 0 < copy.known < newest.version):
            raise copy.problem
    if len(good) == 2 and good[0].version == good[1].version:
        raise Failure(RAFT_CORRUPT, f"metadata1 and metadata2 are both at version {newest.version}")
    for copy in copies:
        if copy.metadata is newest:
            _make_durable(dir, copy.name, newest)
    return newest


def _make_durable(dir: str, name: str, metadata: Metadata) -> None:
    """See to it that the state on which the server is going to act is on the disk.

    A process that died, or whose sync failed, leaves a content in the page cache that nobody has promised to keep.
    """
    try:
        fs.rewrite_file(dir, name, encode(metadata))
        fs.sync_dir(dir)
    except Failure as exc:
        raise exc.wrap(f"persist {name}") from None
