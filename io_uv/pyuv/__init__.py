"""pyuv's API on uvloop: an event loop, its handles, a thread pool and name resolution.

Duty: the loop that raft_uv is written on, as C's is on libuv, with the names, arguments and callbacks of pyuv 1.x. Left
out: UDP, Process, TTY, StdIO, fs, thread, util. Added: `Loop(asyncio_loop)`, `Loop.close`, `Stream.start_read_into`.

    loop = Loop()
    timer = Timer(loop)
    timer.start(lambda timer: timer.close(), 0.1, 0)
    loop.run()
    loop.close()

A callback gets its handle first and its error last: None, or a negative code of `io_uv.pyuv.errno`. A call that cannot
be begun raises an exception of `io_uv.pyuv.error`. README.md beside this file says more, and where pyuv differs.
"""

from io_uv.pyuv import dns, errno, error
from io_uv.pyuv.async_ import Async
from io_uv.pyuv.handle import Handle
from io_uv.pyuv.loop import UV_RUN_DEFAULT, UV_RUN_NOWAIT, UV_RUN_ONCE, Loop
from io_uv.pyuv.phase import Check, Idle, Prepare
from io_uv.pyuv.pipe import UV_NAMED_PIPE, UV_TCP, UV_UNKNOWN_HANDLE, Pipe
from io_uv.pyuv.poll import UV_DISCONNECT, UV_READABLE, UV_WRITABLE, Poll
from io_uv.pyuv.signal import Signal
from io_uv.pyuv.stream import Stream
from io_uv.pyuv.tcp import TCP, UV_TCP_IPV6ONLY
from io_uv.pyuv.timer import Timer

__all__ = [
    "TCP",
    "UV_DISCONNECT",
    "UV_NAMED_PIPE",
    "UV_READABLE",
    "UV_RUN_DEFAULT",
    "UV_RUN_NOWAIT",
    "UV_RUN_ONCE",
    "UV_TCP",
    "UV_TCP_IPV6ONLY",
    "UV_UNKNOWN_HANDLE",
    "UV_WRITABLE",
    "Async",
    "Check",
    "Handle",
    "Idle",
    "Loop",
    "Pipe",
    "Poll",
    "Prepare",
    "Signal",
    "Stream",
    "Timer",
    "dns",
    "errno",
    "error",
]
