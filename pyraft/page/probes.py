"""The answers to probes: whether a node's process is worth keeping, and whether the member can serve.

Duty: `Probes.cause` is for liveness: why the server has stopped by itself, which only a restart of the process mends.
`Probes.unready` is for readiness: why this member lacks something of what it takes to serve, "" if it does not.

Happy path: both are empty. Pyraft's OPERATING.md says what they say when.

Failure modes: neither raises. Many that ask share one check, as it costs the leader a round; it ends after
READY_SECONDS. The reasons name no member and no address: anybody may ask.
"""

import asyncio
from typing import Any, Final

from io_uv import health
from pyraft import snapshot
from pyraft.node import status
from pyraft.node.errors import NodeError, Stopped
from pyraft.node.node import Node

READY_SECONDS: Final = 2.0


class Probes:
    """The probes of one node that is started."""

    def __init__(self, node: Node[Any]) -> None:
        self._node = node
        self._checking: asyncio.Task[str] | None = None

    def cause(self) -> str:
        """Return why the server has stopped by itself, "" if it has not."""
        return self._node.server.raft.cause

    async def unready(self) -> str:
        """Return why this member is not ready, "" if it is."""
        if self._checking is None:
            self._checking = asyncio.get_running_loop().create_task(self._check())
            self._checking.add_done_callback(self._checked)
        return await asyncio.shield(self._checking)

    async def close(self) -> None:
        """End the check that is under way."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait([self._checking])

    def _checked(self, task: "asyncio.Task[str]") -> None:
        self._checking = None

    async def _check(self) -> str:
        node = self._node
        if self.cause():
            return "it has stopped"
        if node._closing.locked() or node._cause is not None:
            return "it is shutting down"
        raft = node.server.raft
        if snapshot.is_installing(raft):
            return "it installs a snapshot of the leader's"
        if health.ailment(node.server.io):
            return "its disk does not take entries"
        if status.recovering(raft):
            return "it takes no part in elections, until a leader has filled its log up"
        try:
            with node.timeout(READY_SECONDS):
                await node.ready()
        except Stopped:
            return "it is shutting down"
        except NodeError:
            return "no answer in time: nobody leads, or it is behind"
        return ""
