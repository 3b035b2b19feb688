"""The service of a node for others on its port: it takes calls while the node leads, and answers questions.

Duty: `Service` accepts connections that begin with the protocol's word, greets them, and serves them until they end.

Happy path: a HELLO of the same cluster, or of nobody's, is answered with WELCOME; CALLS go to the proposer and their
outcomes come back; ASK is answered by one of `answers`, the coroutine functions that the node offers.

Failure modes: nonsense ends its connection, and so does a peer that does not greet in time, or does not read what it is
sent. A node that does not lead says who does. A peer that sends calls faster than they are executed is not read from
until there is room: the memory that others can fill is bounded, by connection and altogether. A call of a command that
this program does not have is refused, and does not get into the log.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeAlias

import io_uv
from pyraft import aio
from pyraft.errors import printable
from pyraft.node import wire
from pyraft.node.admission import Admission
from pyraft.node.errors import Malformed, NodeError, Refused, Stopped, Unavailable
from pyraft.node.ground import Base
from pyraft.node.link import Elsewhere
from pyraft.node.proposer import Wire

_logger = logging.getLogger("pyraft")

GREETING_SECONDS: Final = 5.0
MOST_BYTES: Final = 4 << 20
MOST_CALLS: Final = 8192
"""The calls that one connection may have under way before it is not read from for a while."""
MOST_ALTOGETHER: Final = 128 << 20
MOST_UNSENT: Final = 32 << 20
"""Bytes of answers that a peer may leave unread."""
MOST_QUESTIONS: Final = 256

NOBODY_KNOWS: Final = "nobody here knows what"
"""The refusal of a question begins with it that this version does not have."""

Answers: TypeAlias = "Mapping[str, Callable[..., Coroutine[Any, Any, Any]]]"


class Service:
    """The connections that others have opened."""

    def __init__(self, server: aio.Server, ground: Base, admission: Admission, cluster: str) -> None:
        self.server = server
        self.admission = admission
        self.replica = admission.replica
        self.cluster = cluster
        self.answers: Answers = {}
        self.bytes = 0
        """Arguments of calls that are under way, of all connections."""
        self.visitors: dict[Visitor, None] = {}
        self.waiting: dict[Visitor, None] = {}
        """Those that are not read from at the moment."""
        self._ground = ground
        self._quiet = 0.0
        ground.serve(wire.WORD, self.accept)

    async def close(self) -> None:
        """End all connections."""
        self._ground.serve(wire.WORD, None)
        tasks = [task for visitor in self.visitors for task in visitor.tasks]
        for visitor in list(self.visitors):
            visitor.close()
        if tasks:
            await asyncio.wait(tasks)

    def leader(self) -> tuple[int, str]:
        """Return id and address of the leader that this node knows, (0, "") for none, or if that is itself."""
        id, address = self.server.leader
        return (0, "") if id == self.server.raft.id or address is None else (id, address)

    def look(self) -> None:
        """Read again from those for whom there is room by now."""
        if self.bytes < MOST_ALTOGETHER:
            for visitor in list(self.waiting):
                visitor.go_on()

    def tell(self, host: str, reason: str) -> None:
        """Log why a connection is ended; once a second at most, as strangers decide how often that is."""
        now = asyncio.get_running_loop().time()
        if now >= self._quiet:
            self._quiet = now + 1
            _logger.warning("a connection from %s is ended: %s", host or "a peer that is gone", reason)

    def accept(self, transport: Any, guest: io_uv.RaftUvGuest) -> None:
        """Take a connection that begins with the word of this protocol."""
        self.visitors[Visitor(self, guest)] = None


class Visitor:
    """One connection that another node, or a client, has opened."""

    def __init__(self, service: Service, guest: io_uv.RaftUvGuest) -> None:
        self.tasks: dict[asyncio.Task[None], None] = {}
        self._service = service
        self._stream = guest.stream
        self.host = guest.host
        self.id = 0
        """The id that it has told; 0 for a client."""
        self._frames = wire.Frames()
        self._frames.feed(guest.received[8:])
        self._greeted = False
        self._calls = 0
        self._bytes = 0
        self._unsent = 0
        self._deaf = False
        self._closed = False
        guest.closed_cb = lambda guest: self._gone()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(GREETING_SECONDS, self._fail, "no greeting in time")
        self._stream.start_read(self._read_cb)
        self._work()

    def close(self) -> None:
        """End the connection."""
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        for task in self.tasks:
            task.cancel()
        self._service.waiting.pop(self, None)
        if not self._stream.closed:
            self._stream.close()

    def go_on(self) -> None:
        """Read again, if there is room."""
        if self._closed or self._is_full():
            return
        if self in self._service.waiting:
            del self._service.waiting[self]
            self._stream.start_read(self._read_cb)
        self._work()

    # Messages come in.

    def _read_cb(self, stream: Any, data: bytes | None, error: int | None) -> None:
        if error is not None or data is None:
            self.close()
            return
        if not self._deaf:
            self._frames.feed(data)
            self._work()

    def _work(self) -> None:
        """Take the messages that are complete, as long as there is room for what they ask."""
        try:
            while not self._closed and not self._deaf:
                if self._is_full():
                    self._pause()
                    return
                message = self._frames.next()
                if message is None:
                    return
                self._take(message)
        except Malformed as exc:
            self._fail(str(exc))

    def _is_full(self) -> bool:
        too_much = self._calls >= MOST_CALLS or self._bytes >= MOST_BYTES or len(self.tasks) >= MOST_QUESTIONS
        return too_much or self._service.bytes >= MOST_ALTOGETHER

    def _pause(self) -> None:
        if self not in self._service.waiting:
            self._service.waiting[self] = None
            self._stream.stop_read()

    def _take(self, message: list[Any]) -> None:
        kind = message[0]
        if not self._greeted:
            self._greet(message)
        elif kind == wire.CALLS:
            self._propose(*wire.check_calls(message))
        elif kind == wire.ASK:
            task = asyncio.get_running_loop().create_task(self._answer(*wire.check_ask(message)))
            self.tasks[task] = None
            task.add_done_callback(self._answered)
        elif kind == wire.PING:
            self._write(wire.pack(wire.PONG))
        else:
            raise Malformed(f"message {kind}")

    def _greet(self, message: list[Any]) -> None:
        if message[0] != wire.HELLO:
            raise Malformed("no greeting")
        cluster, id = wire.check_hello(message)
        service = self._service
        if cluster not in ("", service.cluster):
            other = printable(cluster[:40])
            self._write(wire.pack(wire.REFUSED, f"this is cluster {service.cluster}, and you are of {other}"))
            service.tell(self.host, f"it is of cluster {other}")
            self._deaf = True  # it hangs up when it has read that, or is closed when its time is over
            return
        self.id = id
        self._greeted = True
        self._timer.cancel()
        self._frames.accept(wire.MAX_FRAME)
        self._write(wire.pack(wire.WELCOME, wire.VERSION, service.cluster, service.server.raft.id))

    # Calls.

    def _propose(self, group: int, calls: list[Wire]) -> None:
        service = self._service
        if not service.server.is_leader:
            self._write(wire.pack(wire.ELSEWHERE, group, *service.leader()))
            return
        size = sum([len(call[6]) for call in calls])
        self._calls += len(calls)
        self._bytes += size
        service.bytes += size

        def done(outcomes: list[bytes] | None) -> None:
            self._calls -= len(calls)
            self._bytes -= size
            service.bytes -= size
            if not self._closed:
                self._tell(group, outcomes)
            if service.waiting:
                service.look()

        service.admission.send(calls, done)

    def _tell(self, group: int, outcomes: list[bytes] | None) -> None:
        if outcomes is None:
            self._write(wire.pack(wire.ELSEWHERE, group, *self._service.leader()))
            return
        for frame in wire.outcomes(group, outcomes):
            self._write(frame)

    # Questions.

    async def _answer(self, number: int, what: str, arguments: list[Any]) -> None:
        try:
            function = self._service.answers.get(what)
            if function is None:
                raise Refused(f"{NOBODY_KNOWS} '{what[:40]}' is")
            status, value = wire.DONE, await function(*arguments)
        except Elsewhere as exc:
            status, value = wire.NOT_HERE, exc.leader
        except (Unavailable, Stopped):  # another member may answer
            status, value = wire.NOT_HERE, None
        except (NodeError, aio.RaftError, TypeError, ValueError) as exc:
            status, value = wire.FAILED, str(exc)[:500]
        if not self._closed:
            self._write(wire.pack(wire.ANSWER, number, status, value))

    def _answered(self, task: "asyncio.Task[None]") -> None:
        self.tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            _logger.error("a question of %s was not answered", self.host, exc_info=task.exception())
            self.close()
        elif self in self._service.waiting:
            self.go_on()

    # The connection.

    def _write(self, data: bytes) -> None:
        if self._closed or self._stream.closed:
            return
        self._unsent += len(data)
        self._stream.write(data, lambda stream, error: self._written(len(data)))
        if self._unsent > MOST_UNSENT:
            self._fail(f"it does not read: {self._unsent} bytes of answers wait")

    def _written(self, size: int) -> None:
        self._unsent -= size

    def _fail(self, reason: str) -> None:
        if not self._closed:
            self._service.tell(self.host, reason)
        self.close()

    def _gone(self) -> None:
        self.close()
        self._service.visitors.pop(self, None)
