"""The port of a node's HTTP: it lets connections in, and sees to it that they cost no more than their share.

Duty: `Door` listens, and hands each connection to a protocol of its own, aiohttp's. A node keeps its descriptors and
its loop for its cluster, so there are MOST connections at a time, and idle ones are not kept.

Happy path: `await door.open(host, port)`, connections, `await door.close()`. `busy(transport)` marks the time in which
a request is being answered.

Failure modes: a connection whose handshake, or request, is not there within HEAD_SECONDS is closed, and so is one that
has asked nothing for IDLE_SECONDS, does not read its answer, or is of before `renew`. Where all places are taken, a new
connection replaces the one that has waited longest; connections that have never asked anything go first. Without a
descriptor the port stays as it is for a second. OSError where the port cannot be listened on.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

_logger = logging.getLogger("pyraft")

MOST: Final = 128
"""Connections at a time, those in a TLS handshake included."""

HEAD_SECONDS: Final = 10.0
"""How long a handshake, or the first request, may take to come."""

IDLE_SECONDS: Final = 30.0
"""How long a connection is kept on which nothing is asked."""

LOOK_SECONDS: Final = 1.0
_BACKLOG: Final = 128


class Guest(asyncio.Protocol):
    """One connection: passes all on to the protocol that serves it, and knows since when it waits."""

    def __init__(self, door: "Door", inner: asyncio.Protocol, sock: socket.socket) -> None:
        self.transport: asyncio.Transport | None = None
        self.task: asyncio.Task[None] | None = None
        """The handshake."""
        self.has_asked = False
        self.has_expired = False
        """Whether it was let in by certificates that have been renewed since."""
        self.is_busy = False
        self.since = door.now()
        self._door = door
        self._inner = inner
        self._sock = sock

    def end(self) -> None:
        """Close the connection, at whatever point it is."""
        if self.transport is not None:
            self.transport.abort()
        elif self.task is not None:
            self.task.cancel()

    def close(self) -> None:
        """Close the socket of a connection that has not come about."""
        self._sock.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over."""
        self.transport = cast(asyncio.Transport, transport)
        self._door.by_transport[transport] = self
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._door.forget(self)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        if self.has_expired and not self.is_busy:
            self.end()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Nothing more comes."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """The peer does not read."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        self._inner.resume_writing()


class Door:
    """A port, and its connections; see the head of this module."""

    def __init__(self, make: Callable[[], asyncio.Protocol], secure: ssl.SSLContext | None = None) -> None:
        """`make()` returns the protocol of a new connection; with `secure` they begin with a TLS handshake."""
        self.guests: dict[Guest, None] = {}
        self.by_transport: dict[asyncio.BaseTransport, Guest] = {}
        self._make = make
        self._secure = secure
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, host: str, port: int) -> int:
        """Listen at all addresses of a host; return the port, which for 0 is any that is free. Raises OSError."""
        kind = socket.SOCK_STREAM
        found = await self._loop.getaddrinfo(host or None, port, type=kind, flags=socket.AI_PASSIVE)
        try:
            for family, _, _, _, where in dict.fromkeys(found):
                self._listen(family, (where[0], port, *where[2:]))
                port = self._sockets[0].getsockname()[1] if self._sockets else port
            if not self._sockets:
                raise OSError(errno.EADDRNOTAVAIL, f"this machine does not have the address '{host}'")
        except BaseException:
            await self.close()
            raise
        self._tasks = [self._loop.create_task(self._accept(sock)) for sock in self._sockets]
        self._tasks.append(self._loop.create_task(self._look()))
        return port

    def _listen(self, family: int, where: Any) -> None:
        sock = socket.socket(family, socket.SOCK_STREAM)
        self._sockets.append(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(where)
        except OSError as exc:
            if exc.errno != errno.EADDRNOTAVAIL:
                raise
            self._sockets.remove(sock)  # a machine without IPv6 knows localhost as ::1 all the same
            sock.close()
            return
        sock.listen(_BACKLOG)

    async def shut(self) -> None:
        """Let nobody in any more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for sock in self._sockets:
            sock.close()
        self._sockets = []

    async def close(self) -> None:
        """Let nobody in any more, and end all connections."""
        await self.shut()
        handshakes = [guest.task for guest in self.guests if guest.task is not None]
        for guest in list(self.guests):
            guest.end()
        if handshakes:
            await asyncio.wait(handshakes)
        while self.guests:  # until the loop has told of their end
            await asyncio.sleep(0)

    def renew(self, secure: ssl.SSLContext) -> None:
        """Have connections begin with a handshake of another context; end those of before, once they are answered."""
        self._secure = secure
        for guest in list(self.guests):
            guest.has_expired = True
            if not guest.is_busy:
                guest.end()

    @contextlib.contextmanager
    def busy(self, transport: asyncio.BaseTransport | None) -> Iterator[None]:
        """Note that a connection's request is being answered in this block."""
        guest = None if transport is None else self.by_transport.get(transport)
        if guest is None:
            yield
            return
        guest.has_asked = guest.is_busy = True
        try:
            yield
        finally:
            guest.is_busy = False
            guest.since = self.now()

    def forget(self, guest: Guest) -> None:
        """Take note that a connection has ended."""
        self.guests.pop(guest, None)
        if guest.transport is not None:
            self.by_transport.pop(guest.transport, None)

    async def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(sock)
            except OSError as exc:
                _logger.warning("the page's port lets nobody in for a moment: %s", exc)
                await asyncio.sleep(LOOK_SECONDS)
                continue
            if len(self.guests) >= MOST and not self._make_room():
                accepted.close()
                continue
            guest = Guest(self, self._make(), accepted)
            self.guests[guest] = None
            guest.task = self._loop.create_task(self._welcome(guest, accepted))
            guest.task.add_done_callback(functools.partial(self._welcomed, guest))

    def _welcomed(self, guest: Guest, task: "asyncio.Task[None]") -> None:
        """Let go of a connection that came to nothing, also where the welcome was cancelled before it began."""
        guest.task = None
        if guest.transport is None:
            guest.close()
            self.forget(guest)

    def _make_room(self) -> bool:
        """End the connection that has waited longest; return False if all are at work."""
        waiting = [guest for guest in self.guests if not guest.is_busy]
        if not waiting:
            return False
        guest = min(waiting, key=lambda guest: (guest.has_asked, guest.since))
        self.guests.pop(guest)
        guest.end()
        return True

    async def _welcome(self, guest: Guest, accepted: socket.socket) -> None:
        """Make a connection of a socket, with its handshake."""
        accepted.setblocking(False)
        limit = None if self._secure is None else HEAD_SECONDS
        try:
            await self._loop.connect_accepted_socket(
                lambda: guest, accepted, ssl=self._secure, ssl_handshake_timeout=limit
            )
        except (OSError, asyncio.TimeoutError):
            return  # a peer that hangs up, or speaks otherwise: its own affair

    async def _look(self) -> None:
        """Again and again, end the connections on which nothing is asked."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self.now()
            for guest in list(self.guests):
                limit = IDLE_SECONDS if guest.has_asked else HEAD_SECONDS
                if not guest.is_busy and (guest.has_expired or now - guest.since > limit):
                    guest.end()
