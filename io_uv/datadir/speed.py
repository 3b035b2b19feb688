"""How long durable writes take on the disk of a directory, and the timeouts that follow from that.

Duty: `measure` writes to a file of its own in the directory as segments are written: blocks that are filled with zeros
before, O_DSYNC, past the page cache where the file system has that. `advise` returns an election timeout and a
heartbeat for the slowest of several such measurements.

Happy path: `measure("data/1")` on each machine, also beside a server that runs, at the time when the disk is busiest.

Failure modes: Failure where the disk refuses; the file is removed then, too. A kill leaves it as `tmp-…`, which the
next start of a server removes.
"""

import mmap
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from io_uv import directory, fs
from io_uv.failure import Failure, failure

_FILE: Final = 8 << 20
_LEAST_ELECTION: Final = 1000
_FACTOR: Final = 10
"""An election timeout is to be so many times a durable write: an order of magnitude (dissertation 3.9)."""
_STEPS: Final = (10, 15, 20, 30, 50, 75, 100)


@dataclass(frozen=True)
class Speed:
    """Times of durable writes of one size, in seconds."""

    size: int
    writes: int
    p50: float
    p99: float
    p999: float
    longest: float
    direct: bool
    """Whether they went past the page cache."""


def measure(path: str | os.PathLike[str], size: int = 4096, seconds: float = 2.0) -> Speed:
    """Return how long durable writes of `size` bytes, a multiple of 4096, take on the disk of a directory.

    Raises Failure: the code of what the disk refuses.
    """
    dir = os.fspath(path)
    directory.check_dir(dir)
    name = f"{fs.TMP_PREFIX}measure-{secrets.token_hex(4)}"
    try:
        fd = fs.open_file(dir, name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DSYNC)
        try:
            fs.write_all(fd, [bytes(_FILE)])
            fs.sync(fd)
            times, direct = _write(fd, size, seconds)
        finally:
            fs.close(fd)
            with suppress(Failure):
                fs.remove_file(dir, name)
    except Failure as exc:
        raise exc.wrap(f"a file of {_FILE >> 20} MiB in '{dir}'") from None
    times.sort()
    n = len(times)
    return Speed(size, n, times[n // 2], times[n * 99 // 100], times[n * 999 // 1000], times[-1], direct)


def _write(fd: int, size: int, seconds: float) -> tuple[list[float], bool]:
    """Return the times of writes from the beginning of the file to its end, again and again."""
    times: list[float] = []
    at = 0
    with mmap.mmap(-1, size) as page:
        page[:8] = b"measured"
        try:
            direct = True
            try:
                fs.set_direct(fd)
                fs.pwrite(fd, page, 0)
            except OSError:
                direct = False
                fs.leave_direct(fd)
            end = time.perf_counter() + seconds
            began = time.perf_counter()
            while began < end or not times:
                fs.pwrite(fd, page, at)
                now = time.perf_counter()
                times.append(now - began)
                at = (at + size) % (_FILE - size + 1) // size * size
                began = now
        except OSError as exc:
            raise failure("write", exc) from None
    return times, direct


def advise(speeds: Sequence[Speed]) -> tuple[int, int]:
    """Return an election timeout and a heartbeat, in ms, for the slowest of these disks.

    All but one write of a thousand are done within a tenth of the election timeout, which is a second at least. The
    heartbeat is a tenth of it, so that several have to be lost before anybody stands.
    """
    needed = max([_LEAST_ELECTION, *(one.p999 * 1000 * _FACTOR for one in speeds)])
    scale = 1
    while _STEPS[-1] * scale < needed:
        scale *= 10
    election = next(step * scale for step in _STEPS if step * scale >= needed)
    return election, election // 10
