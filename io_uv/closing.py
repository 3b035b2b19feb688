"""The end of an instance: the one close callback that waits for everything else.

Duty: `maybe_fire` runs the callback of io.close once nothing of the instance is left; `refuse` is the answer of a table
that was closed. `require_dir` asks whether the directory that the instance has taken is still where it was.

Code that removes something that a close waits for (a segment, a barrier's request, what is in `aborting`) calls
`maybe_fire` right after. It is free to call it at any time: it does nothing unless io.close was called.

Failure modes: none of its own.
"""

import contextlib

from io_uv import callbacks, fs, refusal, state


def refuse(uv: state.Uv) -> int:
    """Set errmsg and return the answer to any call after io.close, RAFT_CANCELED; in a forked child RAFT_SHUTDOWN."""
    uv.io.errmsg = uv.refusal.message
    return uv.refusal.code


def close_file(fd: int) -> None:
    """Close a segment's descriptor. It was opened for synchronous writes: an error tells nothing new."""
    with contextlib.suppress(OSError):
        fs.close(fd)


def unlock(uv: state.Uv) -> None:
    """Give the directory back."""
    refusal.end(uv.refusals)
    if uv.lock is not None:
        uv.lock.release()
        uv.lock = None


def require_dir(uv: state.Uv) -> None:
    """Raise Failure if the path of the directory does not lead any more to the one that was locked. Any thread."""
    lock = uv.lock
    if lock is not None:
        lock.require(uv.dir)


def maybe_fire(uv: state.Uv) -> None:
    """Call back io.close if it was called and all that it waits for is gone (uv.c: uvMaybeFireCloseCb)."""
    if not uv.closing or uv.closed:
        return
    # Segments that are made, written or closed; requests at barriers, among them a put or truncate under way; the rest.
    if uv.prepare_inflight is not None or uv.append_segments or uv.finalize_reqs or uv.barriers or uv.aborting:
        return
    end(uv)


def gone(uv: state.Uv, thing: object) -> None:
    """Say that something that a close waits for, in `aborting`, is gone."""
    if uv.closed:
        return  # a copy in a forked child has forgotten it, or the loop ended before it
    uv.aborting.remove(thing)
    maybe_fire(uv)


def end(uv: state.Uv) -> None:
    """Give the directory back and call back io.close: nothing is left, or can come any more."""
    uv.closed = True
    unlock(uv)
    cb, uv.close_cb = uv.close_cb, None
    callbacks.fire(uv, cb, uv.io)
