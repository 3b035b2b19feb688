"""Stands between the other members of a cluster and one of them, whose end they therefore do not notice.

Duty: over a plain connection a leader learns from a failed write that a peer has gone, and starts its replication to it
afresh. Behind a relay it goes on as if nothing had happened, and remembers what the peer acknowledged.

Happy path: members connect to `address`; whole messages are passed on to `backend`, and counted by type. Failure modes:
while the backend is not there they are dropped; the next one is tried on a new connection, which begins with the
member's handshake again.
"""

import contextlib
import socket
import struct
import threading
from collections import Counter
from typing import BinaryIO

from tests.interop import formats
from tests.interop.driver import DEADLINE


class Relay:
    """Passes on what is sent to one member; all that this one sends takes the direct way."""

    def __init__(self, backend: str, port: int = 0, filled: int = 1 << 62, below: int = 1 << 62) -> None:
        self.backend = backend
        self.passed: Counter[int] = Counter()
        self.filled = filled
        """How many more AppendEntries with entries are passed on; then all vanish, and count as passed."""
        self.below = below
        """They vanish, too, until one comes that begins below this index."""
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._inbound: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Drop all connections and end the threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(DEADLINE)
        self._listener.close()
        for inbound in self._inbound:
            with contextlib.suppress(OSError):
                inbound.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(DEADLINE)
        for inbound in self._inbound:
            inbound.close()

    def _accept(self) -> None:
        while True:
            try:
                inbound, _ = self._listener.accept()
            except OSError:
                return
            self._inbound.append(inbound)
            self._threads.append(threading.Thread(target=self._serve, args=(inbound,)))
            self._threads[-1].start()

    def _serve(self, inbound: socket.socket) -> None:
        outbound: socket.socket | None = None
        with inbound.makefile("rb") as stream, contextlib.suppress(OSError, EOFError):
            head = _read(stream, 24)
            handshake = head + _read(stream, struct.unpack_from("<Q", head, 16)[0])
            while True:
                preamble = _read(stream, 16)
                type, size = struct.unpack("<QQ", preamble)
                header = _read(stream, size)
                payload = _read(stream, formats.payload_size(type, header))
                if type != formats.APPEND_ENTRIES or self._lets_through(header):
                    outbound = self._pass_on(outbound, handshake, preamble + header + payload)
                if outbound is not None:
                    with self._lock:
                        self.passed[type] += 1
        if outbound is not None:
            outbound.close()

    def _lets_through(self, header: bytes) -> bool:
        """Return whether an AppendEntries is one of those that are passed on."""
        _, previous, _, _, n = struct.unpack_from("<5Q", header)
        if previous >= self.below:
            return False
        self.below = 1 << 62
        if n > 0:
            self.filled -= 1
        return self.filled >= 0

    def _pass_on(self, outbound: socket.socket | None, handshake: bytes, message: bytes) -> socket.socket | None:
        """Send a message; return the connection, or None if there is none (any more)."""
        try:
            if outbound is None:
                host, _, port = self.backend.partition(":")
                outbound = socket.create_connection((host, int(port)), DEADLINE)
                outbound.sendall(handshake)
            outbound.sendall(message)
        except OSError:
            if outbound is not None:
                outbound.close()
            return None
        return outbound


def _read(stream: BinaryIO, n: int) -> bytes:
    data = stream.read(n)
    if len(data) < n:
        raise EOFError
    return data
