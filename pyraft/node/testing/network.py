"""The network between simulated members: raft's messages, connections of nodes and clients, and what is cut.

Duty: `Network` carries both, each on its way in the order in which it was sent, with a random latency. A place is a
number: those of the members, from 1, and 0 for clients.

Happy path: `send(source, target, deliver)` for messages, `connect(source, target, …)` for connections.

Failure modes: between places that are cut off from each other messages vanish, and what was written on a connection
waits until the cut has healed or the connection is given up; new ones are not made. A place that is down refuses
connections, and those that it had end. With `loss` that share of messages vanishes, as on connections that break.
"""

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import io_uv
from pyraft.node import wire

FASTEST: Final = 0.0003
SLOWEST: Final = 0.003
"""Latencies, in seconds."""

Accept: TypeAlias = Callable[[Any, io_uv.RaftUvGuest], None]


class Way:
    """One direction between two places: bytes that are put in come out later, in order."""

    def __init__(
        self, network: "Network", source: int, target: int, deliver: Callable[[Any], None], *, holds: bool = True
    ) -> None:
        """`deliver(item)` gets what comes out. With `holds`, a cut keeps it back, else it vanishes."""
        self._network = network
        self._holds = holds
        self._ends = (source, target)
        self._deliver = deliver
        self._items: deque[Any] = deque()
        self._latest = 0.0
        self._held = 0
        self.closed = False

    def put(self, item: Any) -> None:
        """Send something."""
        network = self._network
        self._latest = max(self._latest, network.loop.time() + network.latency())
        self._items.append(item)
        network.loop.call_at(self._latest, self._arrive)

    def go_on(self) -> None:
        """The cut has healed: deliver what was held."""
        held, self._held = self._held, 0
        for _ in range(held):
            self._network.loop.call_soon(self._arrive)

    def _arrive(self) -> None:
        if self.closed:
            return
        network = self._network
        if not network.is_cut(*self._ends):
            network.note(*self._ends)
            self._deliver(self._items.popleft())
        elif self._holds:
            self._held += 1
            network.held[self] = None
        else:
            self._items.popleft()


class Network:
    """See the head of this module."""

    def __init__(self, loop: asyncio.AbstractEventLoop, dice: random.Random) -> None:
        self.loop = loop
        self.dice = dice
        self.cut: set[tuple[int, int]] = set()
        """Places that do not reach each other, in both orders."""
        self.loss = 0.0
        self.slowest = SLOWEST
        self.held: dict[Way, None] = {}
        self.accept: dict[int, Accept] = {}
        """The acceptor of connections, at each place that is up."""
        self.connections: dict[Connection, None] = {}
        self._messages: dict[tuple[int, int], Way] = {}
        self._digest = hashlib.blake2b()

    def latency(self) -> float:
        """Return how long something takes, in seconds."""
        return self.dice.uniform(FASTEST, self.slowest)

    def is_cut(self, source: int, target: int) -> bool:
        """Return whether nothing gets from one place to the other."""
        return (source, target) in self.cut

    def heal(self) -> None:
        """End all cuts."""
        self.cut.clear()
        held, self.held = self.held, {}
        for way in held:
            way.go_on()

    def note(self, *what: object) -> None:
        """Take something into the digest, with its time."""
        self._digest.update(repr((self.loop.time(), what)).encode())

    def digest(self) -> str:
        """Return what two runs have in common if they were the same to the last arrival."""
        return self._digest.hexdigest()[:32]

    def send(self, source: int, target: int, deliver: Callable[[], None]) -> None:
        """Carry a message of raft's; those between two places keep their order."""
        if self.is_cut(source, target) or (self.loss and self.dice.random() < self.loss):
            return
        way = self._messages.get((source, target))
        if way is None:
            way = self._messages[source, target] = Way(self, source, target, lambda deliver: deliver(), holds=False)
        way.put(deliver)

    async def connect(self, source: int, target: int | None, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Connect to a place, None for one where nobody can be. Raises OSError."""
        await asyncio.sleep(2 * self.latency())
        if target is not None and self.is_cut(source, target):
            await asyncio.sleep(120)
            raise OSError("the connection has timed out")
        if target is None or target not in self.accept:
            raise ConnectionRefusedError("connection refused")
        Connection(self, source, target, protocol())

    def end(self, place: int) -> None:
        """A place goes down: its connections end."""
        self.accept.pop(place, None)
        for connection in list(self.connections):
            if place in (connection.source, connection.target):
                connection.break_off(place)


class Connection:
    """A connection that one place has opened to another one's port."""

    def __init__(self, network: Network, source: int, target: int, protocol: asyncio.Protocol) -> None:
        self.network = network
        self.source = source
        self.target = target
        self.client = ClientEnd(self, protocol)
        self.server = ServerEnd(self)
        self.up = Way(network, source, target, self.server.arrived)
        self.down = Way(network, target, source, self.client.arrived)
        network.connections[self] = None
        protocol.connection_made(self.client)

    def break_off(self, place: int) -> None:
        """One end is gone, without a word: the other one notices if it is reached."""
        way = self.up if place == self.source else self.down
        (self.client if place == self.source else self.server).lose()
        way.put(None)

    def ended(self) -> None:
        """One end has closed; forget the connection when both have."""
        if self.client.closed and self.server.closed:
            self.up.closed = self.down.closed = True
            self.network.connections.pop(self, None)


class ClientEnd(asyncio.Transport):
    """The end of the one who connected, as asyncio has it."""

    def __init__(self, connection: Connection, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._connection = connection
        self._protocol = protocol
        self.closed = False

    def write(self, data: Any) -> None:
        """Send bytes."""
        if not self.closed:
            self._connection.up.put(bytes(data))

    def is_closing(self) -> bool:
        """Return whether it is closed."""
        return self.closed

    def abort(self) -> None:
        """End it."""
        if not self.closed:
            self._connection.up.put(None)
            self.lose()

    def close(self) -> None:
        """End it."""
        self.abort()

    def lose(self) -> None:
        """It is over; tell the protocol."""
        if not self.closed:
            self.closed = True
            self._connection.network.loop.call_soon(self._protocol.connection_lost, None)
            self._connection.ended()

    def arrived(self, data: bytes | None) -> None:
        """Something has come, or the other end is gone."""
        if self.closed:
            return
        if data is None:
            self.lose()
        else:
            self._protocol.data_received(data)


class ServerEnd:
    """The end of the place that was connected to, as io_uv hands it to its guests' protocols."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._guest: io_uv.RaftUvGuest | None = None
        self._begun = b""
        self._unread: deque[bytes | None] = deque()
        self._read: Callable[[Any, bytes | None, int | None], Any] | None = None
        self.closed = False

    def start_read(self, callback: Callable[[Any, bytes | None, int | None], Any]) -> None:
        """Have `callback(self, data, None)` called with what comes, with None for the end."""
        self._read = callback
        while self._unread and self._read is not None and not self.closed:
            self._read(self, self._unread.popleft(), None)

    def stop_read(self) -> None:
        """Keep what comes for later."""
        self._read = None

    def write(self, data: Any, callback: Callable[[Any, int | None], Any] | None = None) -> None:
        """Send bytes."""
        if not self.closed:
            self._connection.down.put(bytes(data))
        if callback is not None:
            self._connection.network.loop.call_soon(callback, self, None)

    def close(self, callback: Callable[[Any], object] | None = None) -> None:
        """End it."""
        if not self.closed:
            self._connection.down.put(None)
            self.lose()
        if callback is not None:
            self._connection.network.loop.call_soon(callback, self)

    def lose(self) -> None:
        """It is over; tell the guest's protocol."""
        if not self.closed:
            self.closed = True
            self._connection.network.loop.call_soon(self._gone)
            self._connection.ended()

    def _gone(self) -> None:
        if self._guest is not None and self._guest.closed_cb is not None:
            self._guest.closed_cb(self._guest)

    def arrived(self, data: bytes | None) -> None:
        """Something has come, or the other end is gone."""
        if self.closed:
            return
        if self._guest is None:
            self._begin(data)
        elif self._read is None:
            self._unread.append(data)
        else:
            self._read(self, data, None)

    def _begin(self, data: bytes | None) -> None:
        """Wait for the word of the protocol, then hand the connection over."""
        connection = self._connection
        accept = connection.network.accept.get(connection.target)
        if data is None or accept is None:
            self.close()
            return
        self._begun += data
        if len(self._begun) < 8:
            return
        if int.from_bytes(self._begun[:8], "little") != wire.WORD:
            self.close()
            return
        host = "" if connection.source == 0 else f"place {connection.source}"
        self._guest = io_uv.RaftUvGuest(io_uv.RaftUvTransport(), self, self._begun, host, {})
        accept(None, self._guest)
