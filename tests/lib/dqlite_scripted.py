"""A node of dqlite that answers clients as a test has it: what real nodes do seldom, or never."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from io_uv.dqlite import requests, responses
from io_uv.dqlite.messages import Splitter
from io_uv.dqlite.requests import Request
from io_uv.dqlite.responses import Response
from pyraft.dqlite.peer import Peer
from pyraft.dqlite.session import BARRIER

END: list[Response] = []
"""In place of an answer: the connection ends."""
HANG: list[Response] = []
"""The answer that never comes."""

Answer = Callable[[Request], Sequence[Response] | None]

SOON = 0.3
"""Seconds for calls whose time has to be over."""


async def overdue(call: Callable[[float], Awaitable[object]], kind: type[Exception], text: str) -> None:
    """See that a call that is given a number of seconds raises an exception of this kind and text after them.

    A call that raises another one had not come so far, as a busy machine may stand still: it is made anew, with more.
    """
    seconds = SOON
    while True:
        try:
            await call(seconds)
        except Exception as exc:
            if isinstance(exc, kind) and text in str(exc):
                return
            if seconds > 60:
                raise
        else:
            raise AssertionError("its time was not over")
        seconds *= 2


class Scripted:
    """A node on a port of its own. `answer(request)` returns what to send, or None for what a node says usually.

    `asked` has the requests but for the query on each new connection (`session.BARRIER`), which `barrier` answers;
    `connections` and `barriers` say how many there were.
    """

    def __init__(self, answer: Answer = lambda request: None) -> None:
        self.answer = answer
        self.address = ""
        self.leader: str | None = None
        """The address of the leader, if that is another node."""
        self.old = True
        """Whether this is a node of dqlite before 1.15, else it is one of 1.18.2 or newer."""
        self.asked: list[Request] = []
        self.barrier: Sequence[Response] = [responses.Rows(("0",), ((0,),))]
        self.connections = self.barriers = 0
        self.open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Scripted":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def count(self, kind: type[Request]) -> int:
        """Return how many requests of a kind have come."""
        return sum(type(one) is kind for one in self.asked)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            await self._talk(reader, writer)
        finally:
            self.open -= 1
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == bytes((1, 0, 0, 0, 0, 0, 0, 0))
        splitter = Splitter()
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                splitter.feed(data)
                for message in splitter:
                    request = requests.decode(*message)
                    answers = self._answers(request)
                    if answers is END:
                        return
                    writer.write(b"".join([one.encode() for one in answers]))

    def _answers(self, request: Request) -> Sequence[Response]:
        if isinstance(request, requests.QuerySql) and request.sql == BARRIER:
            self.barriers += 1
            return self.barrier
        self.asked.append(request)
        answers = self.answer(request)
        return self._usual(request) if answers is None else answers

    def _usual(self, request: Request) -> Sequence[Response]:
        if isinstance(request, requests.Leader):
            return [responses.Server(1, self.address if self.leader is None else self.leader)]
        if isinstance(request, requests.Client):
            return [responses.Welcome()]
        if isinstance(request, requests.Open):
            return [responses.Db()]
        if isinstance(request, requests.Cluster):
            return [responses.Servers((responses.Member(1, self.address, 0),))]
        if isinstance(request, requests.Prepare):
            return [responses.Stmt(0, 0, request.sql.count("?"), 0, 0 if self.old else request.schema)]
        if isinstance(request, (requests.Query, requests.QuerySql)):
            return [responses.Rows(("a",), ((1,),))]
        if isinstance(request, requests.ExecSql) and request.sql == "select 1":
            return [responses.Failed(responses.ERROR, "rows yielded when none expected for EXEC request")]
        if isinstance(request, (requests.Exec, requests.ExecSql)):
            return [responses.Result(1, 1)]
        return [responses.Empty()]


class Endless(Peer):
    """A connection on which rows come faster than they are read."""

    n = 0

    async def _exchange(self, request: Request | None, seconds: float) -> Response:
        self.n += 1
        assert self.n < 10
        return responses.Rows(("a",), ((self.n,),), True)
