"""The things that a node takes from outside the program: its ground, the owner of its directory, clocks, chance,
connections.

Duty: `Outside` is all of that, as it is for real. `pyraft.node.testing` has another one, where time is virtual and disk
and network are simulated; nothing else in this layer asks the system for any of it.

Happy path: a node or client has one as its attribute `outside`, from before it starts.

Failure modes: those of what is called: Refused for a directory of no use, OSError for what the system refuses.
"""

import asyncio
import os
import ssl
import time
from collections.abc import Callable

from pyraft.node import identity
from pyraft.node.ground import Base, Ground
from pyraft.node.identity import Directory, Identity
from pyraft.node.link import dial
from pyraft.node.tls import Tls


class Outside:
    """The system that the program runs on."""

    def ground(self, directory: Directory, tls: Tls | None) -> Base:
        """Return loop, transport and I/O for a data directory."""
        return Ground(directory, tls)

    def read(self, directory: Directory) -> Identity | None:
        """Return the member that a directory belongs to, None if it is nobody's."""
        return identity.read(directory)

    def write(self, directory: Directory, own: Identity) -> None:
        """Store durably which member a directory belongs to."""
        identity.write(directory, own)

    def microseconds(self) -> int:
        """Return the time of day, in microseconds since 1970."""
        return time.time_ns() // 1000

    def seconds(self) -> float:
        """Return a time in seconds that never goes back, and goes on while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def token(self) -> bytes:
        """Return 16 bytes that nobody else has."""
        return os.urandom(16)

    async def connect(
        self, protocol: Callable[[], asyncio.Protocol], host: str, port: int, secure: ssl.SSLContext | None
    ) -> None:
        """Connect `protocol()` to an address. Raises OSError."""
        await dial(protocol, host, port, secure)
