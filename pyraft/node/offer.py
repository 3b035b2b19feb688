"""The status of a server that only uses the C-style API, for the command `pyraft`: one call offers it on raft's port.

Duty: `offer_status` has connections that begin with this layer's word answered: with the status that a node tells
(`status.Status`), and with the members where the server leads. `pyraft status`, `members`, `ping`, `check` and `watch`
work on clusters of such servers, and on mixed ones. Changes stay the program's own business.

Happy path, behind raft_uv_tcp_init and raft_init, before or behind raft_start:

    offer_status(transport, io, raft)

Failure modes: the code of raft_uv_serve. Calls and queries, which a node would take, are answered as by a member that
does not lead. The connections end with the transport.
"""

from typing import Any

import io_uv
from pyraft import RAFT_LEADER, Raft, RaftIo, raft_leader, raft_state
from pyraft.node import status, wire
from pyraft.node.admission import Admission
from pyraft.node.council import rows
from pyraft.node.desk import Ruler
from pyraft.node.link import Elsewhere
from pyraft.node.proposer import Proposer
from pyraft.node.registry import Registry
from pyraft.node.replica import Replica
from pyraft.node.service import Service


class _Core:
    """The part of an aio.Server that a service asks, of a server whose calls nobody takes here."""

    is_leader = False

    def __init__(self, raft: Raft, io: RaftIo) -> None:
        self.raft = raft
        self.io = io

    @property
    def leader(self) -> tuple[int, str | None]:
        """The leader as this server knows it."""
        return raft_leader(self.raft)


class _Ground:
    """The ground of a service whose connections are handed to it."""

    def serve(self, word: int, accept: Any) -> None:
        """Nothing: `offer_status` has registered itself."""


class _Offer:
    """The answers of one server."""

    def __init__(self, raft: Raft, io: RaftIo) -> None:
        self._raft = raft
        self._io = io
        self._ruler = Ruler()
        self.service: Service | None = None
        self.answers = {"ping": self.ping, "status": self.status, "members": self.members}

    async def ping(self) -> int:
        """Return the id of the server."""
        return self._raft.id

    async def status(self) -> dict[str, Any]:
        """Return its status."""
        assert self.service is not None
        visitors = [[visitor.host, visitor.id] for visitor in self.service.visitors]
        found = status.gather(self._raft, self._io, visitors=visitors)
        return status.packed(await self._ruler.measured(found, self._io))

    async def members(self) -> list[list[Any]]:
        """Return the members, if it leads."""
        if raft_state(self._raft) != RAFT_LEADER:
            raise Elsewhere(raft_leader(self._raft)[1])
        return [[*row, row[0] == self._raft.id] for row in rows(self._raft.configuration)]


def offer_status(transport: io_uv.RaftUvTransport, io: RaftIo, raft: Raft) -> int:
    """Answer `pyraft status` and its kin on the port of `transport`; return 0, or raft_uv_serve's code."""
    offer = _Offer(raft, io)

    def accept(transport: io_uv.RaftUvTransport, guest: io_uv.RaftUvGuest) -> None:
        if offer.service is None:
            core: Any = _Core(raft, io)
            ground: Any = _Ground()
            table = Replica({})
            admission = Admission(core, table, Registry(), Proposer(core, table, lambda: 0))
            service = Service(core, ground, admission, "")
            service.answers = offer.answers
            offer.service = service
        offer.service.accept(transport, guest)

    return io_uv.raft_uv_serve(transport, wire.WORD, accept)
