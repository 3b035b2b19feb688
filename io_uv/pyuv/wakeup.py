"""Wake-ups: a descriptor that one thread writes to and a loop watches.

Duty: `open_pair` returns an eventfd, or a pipe where none is to be had; `uvloop_refusal` tells whether a uvloop can be
made here, and `new_loop` makes one, or the next best. The asker closes what it got.

Failure modes: OSError where there is no pipe either (no descriptors are left, say).
"""

import asyncio
import errno
import os
import select
import selectors
from typing import Final

import uvloop

TOKEN: Final = b"\1\0\0\0\0\0\0\0"
"""The bytes that wake: any number but 0 does for an eventfd, any 8 bytes for a pipe. 8 bytes are read."""

_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that pass, as opposed to a refusal."""


def open_pair() -> tuple[int, int, OSError | None]:
    """Return the descriptor to watch and read, the one to write, and why they are not one eventfd."""
    refusal: OSError | None = None
    if hasattr(os, "eventfd"):
        try:
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError as exc:
            refusal = exc.with_traceback(None)  # which has the frames of whoever keeps it
        else:
            return fd, fd, None
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer, refusal


def uvloop_refusal() -> tuple[str, OSError] | None:
    """Return the call that a sandbox refuses to libuv, which cannot do without, and the error; None if it has all."""
    try:
        select.epoll().close()
    except OSError as exc:
        return None if exc.errno in _SHORTAGE else ("epoll_create1", exc.with_traceback(None))
    try:
        reader, writer, refusal = open_pair()
    except OSError:
        return None
    os.close(reader)
    if writer != reader:
        os.close(writer)
    return None if refusal is None else ("eventfd", refusal)


def new_loop() -> tuple[asyncio.AbstractEventLoop, tuple[str, OSError] | None]:
    """Return a new uvloop loop and None, or one of asyncio's own and what `uvloop_refusal` says."""
    refusal = uvloop_refusal()
    if refusal is None:
        return uvloop.new_event_loop(), None
    polled = refusal[0].startswith("epoll") and hasattr(selectors, "PollSelector")
    return asyncio.SelectorEventLoop(selectors.PollSelector() if polled else None), refusal
