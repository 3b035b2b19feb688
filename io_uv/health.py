"""The state of an instance as operators ask for it: what ails its disk, and how much is in its directory.

Duty: `ailment` says in a sentence why entries cannot be stored at the moment, from what the parts that meet the disk
have noted. `measure` counts the files of a data directory by kind, with their sizes, and the room on the disk.

Happy path: `ailment(io)` is "", and `measure(io.impl.dir)` runs in a thread, as a disk that hangs would hold the loop.

Failure modes: an I/O that is not one of io_uv has no ailment here. A directory that cannot be read raises OSError; a
file that goes meanwhile does not count.
"""

import contextlib
import os
import time
from dataclasses import dataclass

from io_uv import fs, retry, segment, snapshot_file
from io_uv.figures import Figures
from io_uv.histogram import Histogram
from io_uv.state import Uv
from io_uv.tcp_common import UvTcp
from pyraft.types import RaftIo


@dataclass(frozen=True)
class Sizes:
    """The files of a data directory, and its disk; sizes in bytes."""

    segments: int
    """How many files the log is in, those that are prepared for entries to come included."""
    segment_bytes: int
    snapshots: int
    snapshot_bytes: int
    """All snapshots that are kept, not the newest only."""
    snapshot_taken: int
    """When the newest was taken, in ms since the epoch; 0 without one."""
    free: int
    """The room that is left for this process."""
    total: int
    newest_bytes: int = 0
    """The newest snapshot alone."""


def directory(io: RaftIo) -> str:
    """Return the data directory of an I/O, "" if it is not one of io_uv."""
    uv = io.impl
    return uv.dir if isinstance(uv, Uv) else ""


def ailment(io: RaftIo) -> str:
    """Return why the disk does not take entries, or did not a few seconds ago; "" if all is well."""
    uv = io.impl
    if not isinstance(uv, Uv):
        return ""
    failure = retry.failing(uv) or uv.prepare_failure
    if failure is not None:
        return failure.message
    if uv.append_told:
        return "the last write has failed"
    return "it failed some seconds ago" if uv.retries else ""


def segment_size(io: RaftIo) -> int:
    """Return how large new files of the log are, 0 for an I/O of others."""
    uv = io.impl
    return uv.segment_size if isinstance(uv, Uv) else 0


def links(io: RaftIo) -> list[tuple[int, str, bool]]:
    """Return the other members that messages go to: id, address, and whether there is a connection at the moment."""
    uv = io.impl
    if not isinstance(uv, Uv):
        return []
    return [(one.id, one.address, one.stream is not None) for one in uv.clients if not one.answering]


def silence(io: RaftIo, id: int) -> float | None:
    """Return for how many seconds no message has come from a member, to a heartbeat interval; None for not yet."""
    uv = io.impl
    if not isinstance(uv, Uv):
        return None
    if any(one.id == id and one.heard_at != one.noted for one in uv.servers):
        return 0.0
    at = uv.figures.contacts.get(id)
    return None if at is None else max(0.0, time.monotonic() - at)


def writes(io: RaftIo) -> Histogram:
    """Return how long the durable writes of entries have taken."""
    uv = io.impl
    return uv.writes if isinstance(uv, Uv) else Histogram()


def figures(io: RaftIo) -> Figures:
    """Return what else was measured: how late the loop is, and how long snapshots take."""
    uv = io.impl
    return uv.figures if isinstance(uv, Uv) else Figures()


def queues(io: RaftIo) -> list[tuple[int, str, int]]:
    """Return how many bytes wait to be sent to each other member: id, address, bytes."""
    uv = io.impl
    if not isinstance(uv, Uv):
        return []
    return [(one.id, one.address, one.size) for one in uv.clients if not one.answering]


def turned_away(io: RaftIo) -> int:
    """Return how many connections of others were closed before they had got anywhere; 0 for a transport of others."""
    uv = io.impl
    found = uv.transport.impl if isinstance(uv, Uv) else None
    return found.turned_away if isinstance(found, UvTcp) else 0


def measure(dir: str) -> Sizes:
    """Return what is in a data directory. Raises OSError."""
    segments = segment_bytes = snapshots = taken = 0
    of_snapshots: dict[tuple[int, int, int], int] = {}
    for name in fs.listdir(dir):
        with contextlib.suppress(FileNotFoundError):
            parsed = snapshot_file.parse_name(name)
            if parsed is not None:
                info = parsed[0]
                key = info.index, info.term, info.timestamp
                of_snapshots[key] = of_snapshots.get(key, 0) + fs.lstat(os.path.join(dir, name)).st_size
                if parsed[1] == snapshot_file.META_SUFFIX:
                    snapshots += 1
                    taken = max(taken, parsed[0].timestamp)
            elif segment.parse_name(name) is not None:
                segment_bytes += fs.lstat(os.path.join(dir, name)).st_size
                segments += 1
    disk = fs.statvfs(dir)
    return Sizes(
        segments,
        segment_bytes,
        snapshots,
        sum(of_snapshots.values()),
        taken,
        disk.f_bavail * disk.f_frsize,
        disk.f_blocks * disk.f_frsize,
        of_snapshots[max(of_snapshots)] if of_snapshots else 0,
    )
