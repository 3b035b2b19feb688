"""Snapshots that are too large for memory: data in files without a name, looked at through mappings.

Duty: a `Spool` takes data piece by piece, keeps it in memory as long as it is small and in a file of the data directory
beyond that, and gives it back as one read-only buffer. `mapped` does that for a file that is there. The pages of such a
buffer belong to the file, so the kernel may take them back at any time, and `forget` does so at once: whoever goes
through a large buffer calls it on the way, and the process never has more than a window of it.

Happy path: receiving, `begin(size)`, then what comes is put into `room` and `filled` told how much; reading,
`write(piece)`; then `take()`. The file has lost its name before anything is in it, so a kill leaves nothing behind.

Failure modes: Failure(RAFT_NOSPACE) or RAFT_IOERR if the disk refuses. Space is allocated before it is mapped, as a
write into a mapping without would end the process (SIGBUS). A disk that cannot read a page back ends it, too, which
does not happen with buffers in memory: so this is done only where it is asked for (`Limits.mapped`).
"""

import errno
import mmap
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from io_uv import fs, refusal
from io_uv.failure import Failure, failure
from io_uv.pyuv.alone import Alone
from pyraft.errors import RAFT_IOERR
from pyraft.types import BytesLike

WINDOW: Final = 16 << 20
"""Bytes of a mapped buffer that a process has at a time; a multiple of any page size."""


class FileMap(mmap.mmap):
    """A read-only mapping of a file that nobody changes; its pages can be dropped and read again."""


def mapped(fd: int, size: int) -> memoryview:
    """Return the first `size` bytes of a file as a buffer; the descriptor may be closed. Raises OSError."""
    if size == 0:
        return memoryview(b"")
    return memoryview(FileMap(fd, size, prot=mmap.PROT_READ))


def is_mapped(buf: bytes | memoryview) -> bool:
    """Return whether a buffer is one of `mapped`, or a part of it."""
    return isinstance(buf, memoryview) and isinstance(buf.obj, FileMap)


def forget(buf: BytesLike) -> None:
    """Give the pages of a mapped buffer back to the kernel, which reads them again if need be; else do nothing."""
    if isinstance(buf, memoryview) and isinstance(buf.obj, FileMap):
        buf.obj.madvise(mmap.MADV_DONTNEED)


def windows(buf: BytesLike, size: int = fs.CHUNK) -> Iterator[memoryview]:
    """Yield a buffer in pieces, forgetting those that are behind."""
    view = memoryview(buf).cast("B")
    for at in range(0, len(view), size):
        if at % WINDOW == 0:
            forget(view)
        yield view[at : at + size]
    forget(view)


def write_ahead(stream: Any, bufs: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Write the mapped buffers among large ones in windows, which are forgotten when the system has them.

    Return what is left for the caller to write, behind which everything has been written. Errors come there too.
    """
    rest: list[bytes | memoryview] = []
    for buf in bufs:
        if not is_mapped(buf) or len(buf) <= WINDOW:
            rest.append(buf)
            continue
        view = memoryview(buf)
        end = (len(view) - 1) // WINDOW * WINDOW
        for at in range(0, end, WINDOW):
            rest.append(view[at : at + WINDOW])
            stream.write(rest, _forgetting(view))
            rest = []
        rest.append(view[end:])
    return rest


def _forgetting(view: memoryview) -> Callable[[Any, int | None], None]:
    return lambda stream, error: forget(view)


class Spool(Alone):
    """Data on its way into a buffer, see above. `limit` is how much of it stays in memory."""

    __slots__ = ("_dir", "_fd", "_limit", "_pieces", "_size", "_window", "room", "written")

    def __init__(self, dir: str, limit: int) -> None:
        self._dir = dir
        self._limit = limit
        self._fd = -1
        self._pieces: list[bytes] = []
        self._size = 0
        self.written = 0
        """Bytes that are in it."""
        self.room: memoryview | None = None
        """Where the next bytes belong, while `begin` has announced more."""

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self._close()

    def write(self, piece: bytes | memoryview) -> None:
        """Add a piece. Raises Failure."""
        if self._fd < 0 and self.written + len(piece) <= self._limit:
            self._pieces.append(bytes(piece))
            self.written += len(piece)
            return
        try:
            if self._fd < 0:
                self._fd = _nameless(self._dir)
                at = 0
                for kept in self._pieces:
                    write_at(self._fd, kept, at)
                    at += len(kept)
                self._pieces.clear()
            write_at(self._fd, piece, self.written)
        except OSError as exc:
            raise failure(f"keep {self.written} bytes and more of a snapshot in a file", exc) from None
        self.written += len(piece)

    def begin(self, size: int) -> None:
        """Announce `size` bytes, which are put into `room`. Raises Failure."""
        self._size = size
        try:
            self._fd = _nameless(self._dir)
        except OSError as exc:
            raise failure(f"make room for a snapshot of {size} bytes", exc) from None
        self._next()

    def filled(self, n: int) -> None:
        """Take note that `n` bytes were put into `room`, which is the next one then, None at the end.

        Raises Failure.
        """
        assert self.room is not None
        self.written += n
        if n < len(self.room):
            self.room = self.room[n:]
        elif self.written < self._size:
            self._next()
        else:
            self.room = None

    def _next(self) -> None:
        """Map the next window, which has its place on the disk by then."""
        at = self.written
        size = min(WINDOW, self._size - at)
        self.room = None
        try:
            _allocate(self._fd, at, size)
            self.room = memoryview(mmap.mmap(self._fd, size, offset=at))
        except OSError as exc:
            raise failure(f"make room for {self._size} bytes of a snapshot, of which {at} are here", exc) from None

    def take(self) -> bytes | memoryview:
        """Return what has been put in. Raises Failure."""
        if self._fd < 0:
            data, self._pieces = b"".join(self._pieces), []
            return data
        try:
            return mapped(self._fd, self.written)
        except (OSError, ValueError) as exc:
            raise Failure(RAFT_IOERR, f"map a snapshot of {self.written} bytes: {exc}") from None
        finally:
            self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            fs.close(fd)


def write_at(fd: int, data: BytesLike, offset: int) -> None:
    """Write all of `data` at an offset of a file. Raises OSError."""
    view = memoryview(data)
    while view:
        done = fs.pwrite(fd, view, offset)
        view = view[done:]
        offset += done


def _nameless(dir: str) -> int:
    """Open a new file of a directory that has no name. Raises OSError."""
    try:
        return fs.open(dir, os.O_TMPFILE | os.O_RDWR)
    except OSError as exc:
        if not (refusal.refused(exc) or exc.errno == errno.EISDIR):  # the latter where the kernel does not know that
            raise
    # The next start removes one whose process was killed between these two.
    path = fs.join(dir, f"{fs.TMP_PREFIX}spool-{secrets.token_hex(8)}")
    fd = fs.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
    try:
        fs.unlink(path)
    except BaseException:
        fs.close(fd)
        raise
    return fd


def _allocate(fd: int, at: int, size: int) -> None:
    """Have `size` bytes of a file on the disk. Raises OSError."""
    try:
        fs.fallocate(fd, at, size)
    except OSError as exc:
        if not refusal.refused(exc):
            raise
        zeros = bytes(min(size, fs.CHUNK))
        for begin in range(at, at + size, len(zeros)):
            write_at(fd, zeros[: at + size - begin], begin)
