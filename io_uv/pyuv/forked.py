"""Forked: the copies that a child process has of its parent's loops, none of which works.

A fork copies the memory of one thread and shares every descriptor. The copy of a loop could do harm: anything that it
takes out of the epoll set, or reads from a socket or an eventfd, its parent misses. So each copy is put to death at
once, in the child, before `os.fork` returns there (os.register_at_fork; nothing is asked on any hot path): the child's
number of the epoll set is turned into a set of its own, a program's loop gets wake-ups of its own, descriptors are
closed, handles count as closed, threads were left behind. Closing a descriptor changes nothing for others that have it.
The parent does not notice. On a dead loop timers can be made, as programs do before they look at what a call has
answered; nothing else can, and running it raises.

`watch(thing)` has `thing._forking()` called right before a fork, and `thing._forked()` in the child, in the order of
watching; things are held weakly.

Failure modes: none; all that these raise is dropped, as a child that is about to execute another program must not be
disturbed. A fork that is made by C code without a word to Python (PyOS_AfterFork_Child) is not noticed.
"""

import contextlib
import ctypes
import os
import select
import socket
import time
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

TEXT = "this process was forked from the one that it belongs to"


class Copied(Protocol):
    """Something that must not go on in a forked child."""

    def _forking(self) -> None:
        """Take note of what the child has to know; called in the parent, which goes on as if nothing had been."""

    def _forked(self) -> None:
        """Close what is open and refuse everything from now on; called in the child."""


_things: dict[int, "weakref.ref[Copied]"] = {}


def watch(thing: Copied) -> None:
    """Have a thing hear of forks while it exists."""
    key = id(thing)
    _things[key] = weakref.ref(thing, lambda _: _things.pop(key, None))


def _before() -> None:
    for ref in list(_things.values()):
        thing = ref()
        if thing is not None:
            with contextlib.suppress(Exception):
                thing._forking()


def _after_in_child() -> None:
    things = [ref() for ref in list(_things.values())]
    _things.clear()
    for thing in things:
        if thing is not None:
            with contextlib.suppress(Exception):
                thing._forked()


os.register_at_fork(before=_before, after_in_child=_after_in_child)


def backend(loop: Any) -> int | None:
    """Return the descriptor of a uvloop or asyncio loop's poll backend; None if it has none that can be told."""
    for part, name in ((loop, "_get_backend_id"), (getattr(loop, "_selector", None), "fileno")):
        ask = getattr(part, name, None)
        if ask is not None:
            with contextlib.suppress(ValueError):  # closed
                return int(ask())
    return None


def watched(epoll_fd: int) -> dict[int, int]:
    """Return {descriptor: events} of an epoll set, {} where there is no /proc to tell."""
    found = {}
    try:
        with open(f"/proc/self/fdinfo/{epoll_fd}") as info:
            for line in info:
                if line.startswith("tfd:"):
                    words = line.split()
                    found[int(words[1])] = int(words[3], 16)
    except OSError:
        return {}
    return found


def _replace_epoll(epoll_fd: int, watching: Mapping[int, int]) -> None:
    """Put an epoll set of this process's own, which watches {descriptor: events}, in the place of a shared one.

    All that the loop adds, changes and removes from now on is this process's business alone. The loop need not know.
    """
    own = select.epoll(flags=select.EPOLL_CLOEXEC)
    try:
        for fd, events in watching.items():
            with contextlib.suppress(OSError):  # closed here, while another process has it open
                own.register(fd, events)
        os.dup2(own.fileno(), epoll_fd, inheritable=False)
    finally:
        own.close()


def _separate_wakeups(loop: Any, watching: Iterable[int]) -> None:
    """Give a copied loop that goes on its own wake-ups, under the numbers of those that it shares with its parent's.

    Threads of the parent write to the shared ones when they have something for its loop. If the copy read that, the
    parent would sleep on: libuv does not write again before it has seen the first. The copy gets a first wake-up, as
    one may be due. A uvloop in its very first turn watches nothing yet, so its wake-up is not found.
    """
    for fd in watching:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]":
                own = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                os.dup2(own, fd, inheritable=False)
                os.close(own)
    ends = [getattr(loop, name, None) for name in ("_ssock", "_csock")]  # asyncio's
    if all(isinstance(end, socket.socket) and end.fileno() >= 0 for end in ends):
        for end, own_end in zip(ends, socket.socketpair(), strict=True):
            with own_end:
                own_end.setblocking(False)
                os.dup2(own_end.fileno(), end.fileno(), inheritable=False)  # type: ignore[union-attr]


def detach(loop: Any, epoll_fd: int, watching: Mapping[int, int]) -> None:
    """Have a copied loop share nothing with its parent's; it goes on with {descriptor: events}, its program's own."""
    _separate_wakeups(loop, watching)
    _replace_epoll(epoll_fd, watching)


class Nowhere:
    """The stand-in below a dead loop: a uvloop that never comes to anything. A timer can be set, and is never due."""

    def time(self) -> float:
        """The time in seconds."""
        return time.monotonic()

    def call_soon(self, *_: object) -> "Nowhere":
        """Never call."""
        return self

    call_later = call_soon

    def cancel(self) -> None:
        """Do nothing, for what call_soon and call_later return."""

    def is_closed(self) -> bool:
        """Return False, although nothing can be asked of it."""
        return False


def descriptors() -> list[int]:
    """Return the numbers of all open descriptors; without /proc those that are likely."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return list(range(1024))


def keep_for_ever(thing: object) -> None:
    """Never let an object be destroyed: a copied uvloop in the middle of a run would complain, or touch something."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
