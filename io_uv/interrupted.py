"""A server that an exception has left in the middle of something: it stops at once, as if its process had been killed.

KeyboardInterrupt, and whatever a signal handler raises, may come between any two lines. Nobody knows what is half done
then: a batch may be in a segment's buffer and not be counted, a request be registered and not be under way. To go on,
to the close callback even, could write entries under other indexes than they had, or wait for ever. A kill at the same
moment would do no harm, as every file is good at any moment; so the server ends as by a kill.

Duty: `watch(uv)` has the loop tell when it was left in its middle, `check` is RaftIo.check. Then `_stop`: nothing is
written any more, the table answers RAFT_SHUTDOWN, every handle of the package on this loop is closed and calls nobody
back, and all its servers are told. When no thread is at work for them the writer ends, files are closed, the directory
is given back; io.close calls back after that. How such exceptions are kept rare is in `io_uv.pyuv.interrupt`.

Failure modes: interrupted itself, it is done again: by the loop, or by io.close. A descriptor that was in a local
variable only is closed when the process ends.
"""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any, Final

import pyraft
from io_uv import closing, state
from io_uv.failure import Failure
from io_uv.pyuv import Loop, interrupt
from pyraft import errors
from pyraft.types import RaftIo

TEXT: Final = "it was interrupted in the middle of something"

_CALLBACKS: Final = ("_callback", "_close_cb", "_connect_cb", "_listen_cb", "_read_cb", "_alloc_cb", "_shutdown_cb")

interrupt.protect(os.path.dirname(pyraft.__file__))


class Watcher:
    """The object that the loop tells of an instance's interruption: a compiled instance cannot be referred to weakly
    itself."""

    __slots__ = ("__weakref__", "uv")

    def __init__(self, uv: state.Uv) -> None:
        self.uv = uv

    def _torn(self) -> None:
        _stop(self.uv)


def watch(uv: state.Uv) -> None:
    """Have an instance stop when its loop was left in the middle of something."""
    watcher = Watcher(uv)
    uv.copy = (uv.copy, watcher)  # kept by nothing else
    uv.loop.watch(watcher)


def check(io: RaftIo, torn: bool) -> None:
    """RaftIo.check: stop if the core was left in the middle of something, or the loop was."""
    uv: state.Uv | None = io.impl
    if uv is None or uv.closed or uv.loop.inherited:
        return
    if torn:
        # With all others of the loop: the owner of a handle or a request can no longer be told.
        for watcher in list(uv.loop._watchers):
            watcher._torn()
    else:
        uv.loop.check()


def report(loop: Loop, exc: BaseException) -> None:
    """Have KeyboardInterrupt or SystemExit, which a callback of the program raised, come out of the loop's `run`."""
    if interrupt.passed_below(exc):
        loop.torn()  # it came through a call of ours that the callback made
    if not loop._closed:
        loop._defer(loop.deliver, exc)


def _stop(uv: state.Uv) -> None:
    if uv.closed or uv.loop.inherited:
        return
    uv.closing = uv.torn = True
    uv.refusal = Failure(errors.RAFT_SHUTDOWN, f"the server has stopped: {TEXT}")
    uv.io.errmsg = uv.refusal.message
    uv.append_start = uv.send_start = _nothing
    uv.after_finalize = _nothing
    if uv.timer is not None:  # else io.init has not come to its end
        uv.end_of_turn.forget()
    _mute(uv)
    if uv.io.impl is uv and uv.io.interrupted is not None:
        uv.io.interrupted(uv.io, TEXT)
    bury(uv)


def _nothing(*_: object) -> None:
    """Called in the place of something that is not to happen any more."""


def _of_package(callback: Any) -> bool:
    """Return whether a callback is a function of this package, above the loop."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    module = getattr(callback, "__module__", None)
    if not isinstance(module, str):
        module = type(getattr(callback, "__self__", callback)).__module__
    return module.startswith("io_uv.") and not module.startswith("io_uv.pyuv")


def _mute(uv: state.Uv) -> None:
    """Close the package's handles on the loop, and have nobody called back by any of them, nor by its requests."""
    loop = uv.loop
    loop.forget_pending(_of_package)
    for handle in loop.handles:
        callbacks = [getattr(handle, name, None) for name in _CALLBACKS]
        if not any(_of_package(callback) for callback in callbacks if callback is not None):
            continue
        with contextlib.suppress(Exception):
            handle.mute()
            if not handle.closed:
                handle.close()
    for request in list(loop._requests):
        name = "_done_callback" if hasattr(request, "_done_callback") else "_callback"
        done = getattr(request, name, None)
        if done is not None and _of_package(done) and getattr(done, "func", None) is not _ended:
            setattr(request, name, functools.partial(_ended, uv))


def _ended(uv: state.Uv, *_: object) -> None:
    """A request has ended that was under way."""
    for watcher in list(uv.loop._watchers):
        bury(watcher.uv)


def bury(uv: state.Uv) -> None:
    """End the writer and close the files, if no thread is at work for this package on the loop any more."""
    if uv.buried:
        _gone(uv)
        return
    if any(_is_ours(request) for request in uv.loop._requests):
        return
    dig: Callable[[], None] = uv.writer.abandon() if uv.timer is not None else _nothing
    try:
        uv.loop.queue_work(dig, functools.partial(_buried, uv, dig))
    except RuntimeError:  # the loop is being closed
        _buried(uv, dig, 0)


def _is_ours(request: Any) -> bool:
    callback = getattr(request, "_done_callback", None) or getattr(request, "_callback", None)
    return callback is not None and _of_package(callback)


def _buried(uv: state.Uv, dig: Callable[[], None], code: int | None) -> None:
    if code is not None:  # no thread took it
        dig()
    if not uv.buried:
        uv.buried = True
        for segment in (*uv.append_segments, *uv.prepare_pool, uv.prepare_inflight):
            if segment is not None and segment.fd >= 0:
                closing.close_file(segment.fd)
        closing.unlock(uv)
    _gone(uv)


def _gone(uv: state.Uv) -> None:
    """Call io.close back, if it was called."""
    if uv.close_cb is not None and not uv.closed:
        closing.end(uv)
