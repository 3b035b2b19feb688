"""A backup that a member gives out piece by piece while it goes on; only a piece of it is in memory at a time.

Duty: `Handout` reads the data of a stored snapshot twice, once for its size and checksum, which go in front, and once
for the pieces, in order. Both happen in threads. The file is open meanwhile, so a newer snapshot may take its place.

Happy path: `found = Handout(stored)`, `measure()` in a thread, then `piece(offset)` in threads until `size`, `close`.

Failure modes: Failure for a file that cannot be read, or whose checksum is wrong; Refused for a part out of order, or
after `close`. The last part can be asked for again, as its answer may have been lost.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from typing import Protocol

from pyraft.node.errors import Refused
from pyraft.types import BytesLike, RaftSnapshot


class Source(Protocol):
    """The data of a snapshot."""

    snapshot: RaftSnapshot
    """Index, term and configuration."""

    def pieces(self) -> Iterable[BytesLike]:
        """Return the data from its beginning, in pieces of some size."""
        ...

    def close(self) -> None:
        """Let go of the data."""
        ...


class InMemory:
    """The data of a snapshot that an I/O without files has given."""

    def __init__(self, snapshot: RaftSnapshot) -> None:
        self.snapshot = snapshot

    def pieces(self) -> Iterable[BytesLike]:
        """Return its buffers."""
        return list(self.snapshot.bufs)

    def close(self) -> None:
        """Do nothing: no file is open."""


class Handout:
    """See the head of this module."""

    def __init__(self, number: int, source: Source, most: int) -> None:
        """`most` is how many bytes a piece has, but for the last one."""
        self.number = number
        self.source = source
        self.size = 0
        self.sha256 = ""
        self._most = most
        self._lock = threading.Lock()
        self._ended = False
        self._at = 0
        self._last = b""
        self._pieces: Iterator[bytes] = iter(())

    def measure(self) -> None:
        """Find out size and checksum, and begin anew; for a thread, as it may be large."""
        digest = hashlib.sha256()
        for piece in self.source.pieces():
            digest.update(piece)
            self.size += memoryview(piece).nbytes
        self.sha256 = digest.hexdigest()
        self._pieces = cut(self.source.pieces(), self._most)

    def piece(self, offset: int) -> bytes:
        """Return the part that begins at `offset`, b"" at the end; for a thread, as the disk may be slow."""
        try:
            with self._lock:
                return self._piece(offset)
        finally:
            if self._ended:
                self.close()  # it was told to while this went on

    def _piece(self, offset: int) -> bytes:
        if self._ended:
            raise Refused("that backup is not kept any more: begin again")
        if self._last and offset == self._at - len(self._last):
            return self._last
        if offset == self.size:
            return b""
        if offset != self._at:
            raise Refused(f"a backup of {self.size} bytes has no part at {offset!r:.40}, or not at this point")
        self._last = next(self._pieces, b"")
        self._at += len(self._last)
        return self._last

    def close(self) -> None:
        """Give out nothing more, and let go of the file, once it is not being read."""
        self._ended = True
        if self._lock.acquire(blocking=False):
            try:
                self.source.close()
            finally:
                self._lock.release()


def cut(pieces: Iterable[BytesLike], size: int) -> Iterator[bytes]:
    """Yield the same bytes in pieces of `size`, the last one shorter."""
    rest = bytearray()
    for piece in pieces:
        view = memoryview(piece).cast("B") if memoryview(piece).nbytes else memoryview(b"")
        for at in range(0, len(view), size):
            rest += view[at : at + size]
            while len(rest) >= size:
                yield bytes(rest[:size])
                del rest[:size]
    if rest:
        yield bytes(rest)
