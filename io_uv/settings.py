"""The settings of a raft_uv: the setters of raft/uv.h, and the limits, which are ours.

Duty: each setter stores one value in the table's `Uv`, before raft_start or while the server runs.

Happy path: raft_uv_init, then setters, then raft_init.

Failure modes: a table that raft_uv_init has not filled in raises ValueError, a value of another type TypeError. A call
from another thread than the one that runs the loop stores nothing: the log says so where the setter returns nothing.
"""

import operator
from typing import Final

from io_uv.state import Limits, of_table
from io_uv.tcp_common import ignored, misplaced
from pyraft.errors import RAFT_INVALID
from pyraft.tracing import NoopTracer, RaftTracer
from pyraft.types import RaftIo

_LEAST_RETRY_MSECS: Final = 10
_MOST_MSECS: Final = (1 << 32) - 1


def raft_uv_set_block_size(io: RaftIo, size: int) -> None:
    """Set the block size in bytes of disk writes. raft_init replaces it by what probing finds. Source: raft/uv.h.

    Raises TypeError for anything but an integer, as C's compiler does, and ValueError for a table that raft_uv_init has
    not filled in, or that is released.
    """
    uv, size = of_table(io), operator.index(size)
    if not ignored(uv.loop, "raft_uv_set_block_size"):
        uv.block_size = size


def raft_uv_set_segment_size(io: RaftIo, size: int) -> None:
    """Set the size in bytes of new segments, 8 MiB by default; cut to whole blocks, one at least. Source: raft/uv.h.

    Raises as raft_uv_set_block_size does.
    """
    uv, size = of_table(io), operator.index(size)
    if not ignored(uv.loop, "raft_uv_set_segment_size"):
        uv.segment_size = size


def raft_uv_set_snapshot_compression(io: RaftIo, compressed: bool) -> int:
    """Turn the compression of snapshots on (the default) or off. Source: raft/uv.h.

    Returns 0, ours: or RAFT_INVALID if another thread runs the loop. Raises ValueError as raft_uv_set_block_size does.
    """
    uv = of_table(io)
    if misplaced(uv.loop, io):
        return RAFT_INVALID
    uv.snapshot_compression = compressed
    return 0


def raft_uv_set_connect_retry_delay(io: RaftIo, msecs: int) -> None:
    """Set the pause in ms between attempts to connect to a peer, 1000 by default. Source: raft/uv.h.

    0, with which the loop would do nothing else while a peer is away, and less count as 10; the most is what C's
    unsigned holds. Raises as raft_uv_set_block_size does.
    """
    # C: uv_send.c tries in every turn of the loop then.
    uv, msecs = of_table(io), operator.index(msecs)
    if not ignored(uv.loop, "raft_uv_set_connect_retry_delay"):
        uv.connect_retry_delay = min(msecs, _MOST_MSECS) if msecs > 0 else _LEAST_RETRY_MSECS


def raft_uv_set_tracer(io: RaftIo, tracer: RaftTracer | None) -> None:
    """Set where the implementation tells what it does; None, C's null pointer, for nowhere. Source: raft/uv.h.

    Raises ValueError as raft_uv_set_block_size does.
    """
    uv = of_table(io)
    if not ignored(uv.loop, "raft_uv_set_tracer"):
        uv.tracer = NoopTracer if tracer is None else tracer


def raft_uv_set_auto_recovery(io: RaftIo, flag: bool) -> None:
    """Set whether damaged segments are set aside at the start, true by default. Source: raft/uv.h.

    Raises ValueError as raft_uv_set_block_size does.
    """
    uv = of_table(io)
    if not ignored(uv.loop, "raft_uv_set_auto_recovery"):
        uv.auto_recovery = flag


def raft_uv_limits(io: RaftIo) -> Limits:
    """Return the limits on what peers may send and what is queued for them; change them before raft_start. Ours.

    Raises ValueError as raft_uv_set_block_size does.
    """
    return of_table(io).limits
