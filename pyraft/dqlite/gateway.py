"""The answers of a member to clients: dqlite's client protocol without SQL.

Duty: `Gateway.request` answers the requests that `io_uv.dqlite.port` brings. Questions for the leader and the members,
role management, and the files of a database are answered as dqlite does; statements with NOT_LEADER, which has a driver
look for the leader again. Source: gateway.c, translate.c of canonical/dqlite.

Happy path: LEADER names the leader; ADD, ASSIGN, REMOVE and TRANSFER go to raft on the leader and are answered when
that has called back.

Failure modes: FAILURE with 10250 where this member does not lead, 10506 where the leadership ended meanwhile, 5 while
another change is under way, 1 for everything else, with raft's text. A member that leads and is about to hand that on
names nobody as the leader, so that clients go on looking instead of coming here.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from io_uv.dqlite import requests, responses
from io_uv.dqlite.machine import DqliteFsm
from io_uv.dqlite.port import Channel
from io_uv.dqlite.requests import Request
from io_uv.dqlite.responses import Response
from io_uv.failure import Failure, message_of
from pyraft import (
    RAFT_CANTCHANGE,
    RAFT_LEADERSHIPLOST,
    RAFT_NOTLEADER,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_VOTER,
    aio,
    raft_role,
    raft_strerror,
)

ROLES: Final = {RAFT_VOTER: responses.VOTER, RAFT_STANDBY: responses.STANDBY, RAFT_SPARE: responses.SPARE}
"""Roles on the wire by those of raft's configuration."""
RAFT_ROLES: Final = {wire: raft for raft, wire in ROLES.items()}

_CODES: Final = {
    RAFT_NOTLEADER: responses.NOT_LEADER,
    RAFT_LEADERSHIPLOST: responses.LEADERSHIP_LOST,
    RAFT_CANTCHANGE: responses.BUSY,
}
_NOT_LEADER: Final = responses.Failed(responses.NOT_LEADER, "not leader")
_STATEMENTS: Final = (
    *(requests.Open, requests.Prepare, requests.Exec, requests.Query, requests.Finalize),
    *(requests.ExecSql, requests.QuerySql),
)


class Gateway:
    """Answers the clients of one member."""

    def __init__(self, server: aio.Server, fsm: DqliteFsm, failure_domain: int, weight: int) -> None:
        self.server = server
        self.fsm = fsm
        self.failure_domain = failure_domain
        self.weight = weight
        self.reluctant = False
        """Whether this member, if it leads, is about to hand that on."""
        self._tasks: set[asyncio.Task[None]] = set()

    def request(self, channel: Channel, request: Request) -> None:
        """Answer a request, now or later."""
        if isinstance(request, (requests.Add, requests.Assign, requests.Remove, requests.Transfer)):
            if not self.server.is_leader:
                channel.answer(_NOT_LEADER)
                return
            task = asyncio.get_running_loop().create_task(self._change(channel, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        channel.answer(self._now(request))

    async def close(self) -> None:
        """Wait for the answers that are under way, after the server's close."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # Answers at once.

    def _now(self, request: Request) -> Response:
        if isinstance(request, requests.Leader):
            return self._leader()
        if isinstance(request, requests.Client):
            return responses.Welcome()
        if isinstance(request, _STATEMENTS):
            return _NOT_LEADER
        if isinstance(request, requests.Cluster):
            return self._cluster(request.format)
        if isinstance(request, requests.Dump):
            return self._dump(request.file)
        if isinstance(request, requests.Describe):
            if request.format != 0:
                return responses.Failed(responses.PROTOCOL, "bad format version")
            return responses.Metadata(self.failure_domain, self.weight)
        if isinstance(request, requests.Weight):
            self.weight = request.weight
        return responses.Empty()  # and to INTERRUPT, where nothing runs

    def _leader(self) -> Response:
        raft = self.server.raft
        if raft_role(raft) != RAFT_VOTER:
            return responses.Server(0, "")  # only voters might know
        id, address = self.server.leader
        if id == 0 or (id == raft.id and self.reluctant):
            return responses.Server(0, "")
        return responses.Server(id, address or "")

    def _cluster(self, format: int) -> Response:
        if format > 1:
            return responses.Failed(responses.PARSE, "unrecognized cluster format")
        return responses.Servers(
            tuple(
                responses.Member(one.id, one.address, ROLES[one.role] if format else None)
                for one in self.server.raft.configuration.servers
            )
        )

    def _dump(self, file: str) -> Response:
        one = self.fsm.databases.get(file)
        if one is None:
            return responses.Failed(responses.NOT_FOUND, "database does not exists")  # their spelling
        try:
            return responses.Files(((file, one.image()), (file + "-wal", b"")))
        except (OSError, Failure) as exc:
            return responses.Failed(responses.IOERR, message_of(exc))
        except MemoryError:
            return responses.Failed(responses.NO_MEMORY, "no memory for a copy of the database")

    # Answers when raft has called back.

    async def _change(self, channel: Channel, request: Request) -> None:
        channel.answer(await self._answer(self._do(request)))

    async def _answer(self, doing: Coroutine[Any, Any, Response]) -> Response:
        try:
            return await doing
        except aio.RaftError as exc:
            return responses.Failed(_CODES.get(exc.code, responses.ERROR), raft_strerror(exc.code))

    async def _do(self, request: Request) -> Response:
        server = self.server
        if isinstance(request, requests.Add):
            await server.add(request.id, request.address)
        elif isinstance(request, requests.Assign):
            role = RAFT_ROLES.get(request.role)
            if role is None:
                return responses.Failed(responses.ERROR, "invalid role")
            await server.assign(request.id, role)
        elif isinstance(request, requests.Remove):
            await server.remove(request.id)
        elif isinstance(request, requests.Transfer):
            return await self._transfer(request.id)
        return responses.Empty()

    async def _transfer(self, id: int) -> Response:
        try:
            await self.server.transfer(id)
        except aio.RaftError:
            if self.server.is_leader:
                return responses.Failed(responses.ERROR, "leadership transfer failed")
        return responses.Empty()
