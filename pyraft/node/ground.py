"""The ground under a server of this layer: loop, transport, I/O and core, and the order in which they begin and end.

Duty: `Ground` makes them for a data directory on the running asyncio loop, asyncio's own or uvloop's.

Happy path: `ground = Ground(directory)`, `server = ground.server(fsm, identity)`, at the end `await ground.close()`.

Failure modes: a directory that another server uses is Refused, with the process that has it. Other errors are those of
`pyraft.aio`. All that was made is closed.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any, Protocol

import io_uv
from io_uv import pyuv
from pyraft import (
    RAFT_BUSY,
    Raft,
    RaftFsm,
    RaftIo,
    aio,
    raft_set_election_timeout,
    raft_set_heartbeat_timeout,
    raft_set_pre_vote,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
)
from pyraft.node.errors import Refused
from pyraft.node.greeting import Greeting
from pyraft.node.identity import Directory, Identity, holder
from pyraft.node.settings import Settings
from pyraft.node.tls import Tls


class Base(Protocol):
    """The ground that a node stands on."""

    io: RaftIo

    def server(self, fsm: RaftFsm, identity: Identity) -> aio.Server:
        """Return the server, not started yet; it has the directory for itself."""
        ...

    def retry(self, msecs: int) -> None:
        """Look again, after so long, for members that cannot be reached."""
        ...

    def serve(self, word: int, accept: "Callable[[Any, io_uv.RaftUvGuest], None] | None") -> None:
        """Have `accept(…, guest)` take connections that begin with `word`; None for nobody any more."""
        ...

    def reload_certificates(self) -> None:
        """Make all connections anew under the certificates that there are now. Raises Refused."""
        ...

    async def close(self) -> None:
        """Close the server, then what it stands on."""
        ...


class Ground:
    """Loop, transport and I/O for one data directory, and the server on them."""

    def __init__(self, directory: Directory, tls: Tls | None = None) -> None:
        self.directory = os.fspath(directory)
        self.loop = pyuv.Loop(asyncio.get_running_loop())
        self.transport = io_uv.RaftUvTransport()
        self.io = RaftIo()
        self._server: aio.Server | None = None
        try:
            fill = io_uv.raft_uv_tcp_init if tls is None else tls.fill
            if fill(self.transport, self.loop) != 0:
                raise Refused(self.transport.errmsg)
            _check(io_uv.raft_uv_init(self.io, self.loop, self.directory, self.transport), self.io.errmsg)
        except BaseException:
            self.loop.close()
            raise

    def server(self, fsm: RaftFsm, identity: Identity) -> aio.Server:
        """Return the server, not started yet; it has the directory for itself."""
        try:
            self._server = aio.Server(self.io, fsm, identity.id, identity.address)
        except aio.RaftError as exc:
            if exc.code != RAFT_BUSY:
                raise
            pid = holder(self.directory)
            who = "another server" if pid is None else "this process" if pid == os.getpid() else f"process {pid}"
            raise Refused(f"directory '{self.directory}' is in use by {who}") from None
        raft_set_pre_vote(self._server.raft, True)
        if identity.cluster:
            greeting = Greeting(identity.cluster, identity.id)
            _check(io_uv.raft_uv_set_handshake(self.transport, greeting), self.transport.errmsg)
        return self._server

    def retry(self, msecs: int) -> None:
        """Look again, after so long, for members that cannot be reached."""
        io_uv.raft_uv_set_connect_retry_delay(self.io, msecs)

    def serve(self, word: int, accept: Callable[[Any, io_uv.RaftUvGuest], None] | None) -> None:
        """Have `accept(…, guest)` take connections that begin with `word`; None for nobody any more."""
        _check(io_uv.raft_uv_serve(self.transport, word, accept), self.transport.errmsg)

    def reload_certificates(self) -> None:
        """Make all connections anew under the certificates that there are now. Raises Refused."""
        if io_uv.raft_uv_tls_reload(self.transport) != 0:
            raise Refused(self.transport.errmsg)

    async def close(self) -> None:
        """Close the server, then what it stands on."""
        try:
            if self._server is not None:
                await self._server.close()
        finally:
            io_uv.raft_uv_close(self.io)
            io_uv.raft_uv_tcp_close(self.transport)
            self.loop.close()


def _check(rv: int, text: str) -> None:
    if rv != 0:
        raise aio.RaftError(rv, text)


def settle(r: Raft, settings: Settings) -> None:
    """Give a server the settings of its node."""
    raft_set_heartbeat_timeout(r, settings.heartbeat_msecs)
    raft_set_election_timeout(r, settings.election_timeout_msecs)
    raft_set_snapshot_threshold(r, settings.snapshot_entries)
    raft_set_snapshot_trailing(r, settings.trailing_entries)
