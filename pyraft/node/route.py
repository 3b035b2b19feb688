"""The way to the leader, from where none is: which member to connect to, and the connection.

Duty: `Route` keeps a connection to whoever leads. It goes by what raft knows here, else by what members have said, else
it tries one member after the other.

Happy path: `find()` returns the connection that there is, or begins to make one and calls `ready()` when it is there.

Failure modes: a member that cannot be reached, or does not know who leads, is left for the next one at the next `find`.
A refusal is logged, once for each reason.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pyraft.node.deadlines import within
from pyraft.node.errors import NodeError, Refused, Unavailable
from pyraft.node.link import Connect, Elsewhere, Link, Lost
from pyraft.node.outbox import FIRST_PAUSE, LONGEST_PAUSE

_logger = logging.getLogger("pyraft")

NO_ATTEMPT: Final = "there is no connection to a member yet"


class Route:
    """The way to the leader; see the head of this module."""

    def __init__(
        self,
        leader: Callable[[], str | None],
        members: Callable[[], list[str]],
        ready: Callable[[], object],
        cluster: str = "",
        id: int = 0,
        secure: ssl.SSLContext | None = None,
        connect: Connect | None = None,
    ) -> None:
        """`leader()` is the leader's address where raft knows it, `members()` those at which members may be.

        `cluster` and `id` are ours, as far as we have them; `connect` makes connections (`link.dial`).
        """
        self._make = connect
        self._leader = leader
        self._members = members
        self._ready = ready
        self.cluster = cluster
        self._id = id
        self._secure = secure
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._connecting: tuple[str, asyncio.Task[None]] | None = None
        self._hint: str | None = None
        self._turn = 0
        self._failure = ""
        self._leaderless = ""
        """The last attempt that failed, and a member that knew no leader, since there was a connection."""
        self._closed = False
        self.refusals: dict[str, Refused] = {}
        """The answers of members that would not have us, by their addresses, until one has."""

    def find(self) -> Link | None:
        """Return the connection to whoever leads, or may lead; None while there is none, and `ready` follows."""
        wanted = self._leader() or self._hint
        link = self._link
        if link is not None:
            if link.is_open and wanted in (None, link.address):
                return link
            self._drop()
        if self._closed:
            return None
        if self._connecting is not None:
            address, task = self._connecting
            if wanted in (None, address):
                return None
            task.cancel()
        if wanted is None:
            members = self._members()
            if not members:
                return None
            wanted = members[self._turn % len(members)]
        self._connecting = (wanted, self._loop.create_task(self._connect(wanted)))
        return None

    def ask(self, what: str, *arguments: Any) -> "asyncio.Future[Any]":
        """Ask whoever leads; the future raises as Link.ask's does, Lost if there is no connection."""
        link = self.find()
        if link is not None:
            return link.ask(what, *arguments)
        future = self._loop.create_future()
        future.set_exception(Lost(self.why()))
        return future

    def why(self) -> str:
        """Return why there is no connection to the leader."""
        if self._leaderless:  # those that cannot be reached are the lesser news: a majority may be down
            others = f", and the last attempt at another member: {self._failure}" if self._failure else ""
            return f"{self._leaderless} knows no leader{others}"
        return f"no connection to a member, the last attempt: {self._failure}" if self._failure else NO_ATTEMPT

    def refusal(self) -> Refused | None:
        """Return why no member will have us, if all have said so."""
        if self.refusals and self.refusals.keys() >= set(self._members()):
            return next(iter(self.refusals.values()))
        return None

    def renew(self, secure: ssl.SSLContext | None) -> None:
        """End the connection, and make the next ones with other certificates."""
        self._secure = secure
        self._drop()
        self._loop.call_soon(self._ready)

    async def close(self) -> None:
        """End the connection, and make no more."""
        self._closed = True
        self._drop()
        if self._connecting is not None:
            task = self._connecting[1]
            task.cancel()
            await asyncio.wait([task])

    async def _connect(self, address: str) -> None:
        try:
            link = await Link.open(address, self.cluster, self._id, self._secure, self._make)
        except (OSError, NodeError) as exc:
            self._failed(address, exc)
            return
        finally:
            if self._connecting is not None and self._connecting[1] is asyncio.current_task():
                self._connecting = None
        if self._closed or self._link is not None:
            link.close()
            return
        link.elsewhere = self._elsewhere
        link.ended = self._ended
        self.cluster = self.cluster or link.cluster
        self.refusals.clear()
        self._failure = self._leaderless = ""
        self._link = link
        self._ready()

    def _failed(self, address: str, exc: Exception) -> None:
        self._turn += 1
        self._failure = str(exc)
        if self._hint == address:
            self._hint = None
        if isinstance(exc, Refused):
            new = address not in self.refusals
            self.refusals[address] = exc
            if new:
                _logger.warning("no way to the leader by %s: %s", address, exc)

    def _elsewhere(self, link: Link, leader: str | None) -> None:
        """A member says that it does not lead."""
        if link is not self._link:
            return
        if leader is not None and leader != link.address:
            self._hint = leader
        elif self._leader() is None:
            self._hint = None
            self._leaderless = link.address
            self._turn += 1
            self._loop.call_soon(self._leave, link)  # for the next one

    def _leave(self, link: Link) -> None:
        if link is self._link and self._leader() is None:
            self._drop()

    def _ended(self, link: Link) -> None:
        if link is self._link:
            self._link = None
            self._hint = None

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()


async def persist(
    attempt: Callable[[], Awaitable[Any]], seconds: float, refusal: Callable[[], Refused | None] = lambda: None
) -> Any:
    """Return what `attempt()` does, once it succeeds: it is made again while there is no leader, or not the right one.

    Raises Unavailable when the time is over, `refusal()` unless that returns None, and whatever else `attempt` raises.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    pause = FIRST_PAUSE
    while True:
        try:
            return await within(attempt(), max(deadline - loop.time(), FIRST_PAUSE))
        except (Elsewhere, Lost) as exc:
            if (no := refusal()) is not None:
                raise no from None
            if loop.time() + pause >= deadline:
                raise Unavailable(f"not done in {seconds} s: {exc}") from None
        except TimeoutError:
            raise Unavailable(f"no answer in {seconds} s") from None
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
