"""A client: calls and queries from a program that is not a member.

Duty: `connect` makes a `Client`, which finds the leader by any member's address, and again when it is lost.

    async with connect(["10.0.0.1:9001", "10.0.0.2:9001"], Shop()) as client:
        await client.machine.take("apple")

Happy path: as above. The machine is of the same class as the members'; its state stays empty, as the members have it.
Calls count once and queries are linearizable, as on a node.

Failure modes: those of a node's calls and queries. A cluster that will not have this client, or where nobody is, shows
in the first call: Unknown, not sent, or Unavailable. `async with` itself connects to nothing.
"""

from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Generic, TypeVar

from pyraft.node.asking import Asking
from pyraft.node.caller import Calls, Named, pack_question
from pyraft.node.endings import to_the_end
from pyraft.node.errors import Malformed, Refused, Stopped, Unavailable, Unknown
from pyraft.node.given import check_options
from pyraft.node.link import require_form
from pyraft.node.machine import Machine
from pyraft.node.outside import Outside
from pyraft.node.route import Route, persist
from pyraft.node.settings import Settings
from pyraft.node.things import Things
from pyraft.node.tls import Tls

M = TypeVar("M", bound=Machine)


class Client(Asking, Things, Generic[M]):
    """A program's way to a cluster, open inside `async with`; made by `connect`."""

    def __init__(
        self, addresses: Sequence[str], machine: M, settings: Settings | None, name: str, tls: Tls | None
    ) -> None:
        check_options(settings, tls)
        if not isinstance(name, str):
            raise TypeError(f"the name of a client must be a text, not {name!r:.60}")
        self.machine = machine
        self._addresses = list(addresses)
        self._settings = settings or Settings()
        self._name = name
        self._tls = tls
        self.outside = Outside()
        self._furnish(machine)
        self._open = self._was_open = False

    async def __aenter__(self) -> "Client[M]":
        if self._open:
            raise RuntimeError("this client is open already")
        outside = self.outside
        context = None if self._tls is None else self._tls.context()
        self._route = Route(lambda: None, lambda: self._addresses, self._ready, secure=context, connect=outside.connect)
        self._calls = Calls(self._replica, self._route.find, self._settings, self._name, outside.token)
        self._calls.outbox.reason = self._route.why
        self._open = self._was_open = True
        for machine in self._replica.machines.values():
            assert machine._node is not None
            machine._node.caller = self
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._open = False
        self._calls.close(lambda: Stopped("the client is closed"))
        await to_the_end(self._route.close())

    def reload_certificates(self) -> None:
        """Take the files of Tls as they are now: the connection ends, and is made anew. Raises Refused."""
        if self._tls is None or not self._open:
            raise Refused("this client uses no certificates")
        self._route.renew(self._tls.context())

    def call(self, machine: Machine, name: str, version: int, args: Any, kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Have a command executed, as `await client.machine.command(…)` does."""
        return self._calls.call(machine, name, version, args, kwargs)

    async def ask(self, machine: Machine, name: str, args: Any, kwargs: Any) -> Any:
        """Have a query answered, linearizably, as `await client.machine.query(…)` does."""
        assert machine._node is not None
        arguments = pack_question(self._replica.codec, name, args, kwargs)
        outcome = await self._errand("query", machine._node.name, name, arguments)
        if type(outcome) is not bytes:
            raise Malformed("an answer to a query that is not bytes")
        return self._replica.result(machine._node.name, outcome)

    async def outcome(self, unknown: Unknown) -> Any:
        """Make certain what has become of a call, as `Node.outcome` does."""
        self._require_open()
        return await self._calls.outcome(unknown)

    def session(self, name: str, acknowledged: int = 0) -> Named:
        """Return a session whose calls have numbers of the caller's own, as `Node.session` does."""
        self._require_open()
        return self._calls.named(name, acknowledged)

    async def _wait(self, machine: Machine, query: str, *args: Any) -> None:
        assert machine._node is not None
        arguments = self._replica.codec.pack([list(args), {}])
        while True:
            try:
                if await self._errand("await", machine._node.name, query, arguments) is True:
                    return
            except Unavailable:
                continue  # a leader will be there again

    async def _errand(self, what: str, *arguments: Any) -> Any:
        self._require_open()
        self._calls.check_loop()
        return await persist(lambda: self._route.ask(what, *arguments), self._calls.timeout(), self._route.refusal)

    def _require_open(self) -> None:
        if not self._open:
            raise Stopped(
                "the client is closed" if self._was_open else "the client is not open yet: `async with` opens it"
            )

    def _ready(self) -> None:
        self._calls.outbox.wake()


def connect(
    addresses: Sequence[str], machine: M, *, settings: Settings | None = None, name: str = "", tls: Tls | None = None
) -> Client[M]:
    """Return a client of the cluster that is found at some of `addresses` (HOST:PORT), for `async with`.

    `machine` is of the class that the members have, and becomes this client's; `Machine()` does for recipes alone.
    `name` says of its session whose it is. Raises ValueError for addresses of another form, TypeError for a machine, or
    anything else, of another type.
    """
    if isinstance(addresses, (str, bytes)) or not isinstance(addresses, Iterable) or not addresses:
        raise ValueError("addresses are a list of HOST:PORT, with one at least")
    for address in addresses:
        require_form(address)
    return Client(addresses, machine, settings, name, tls)
