"""How much of the loop's time strangers may take for handshakes.

Duty: `Gate` lets the steps of inbound TLS handshakes run one after the other, so that they take no more than a fifth
of the loop's time: a step costs from half a millisecond (elliptic curves) to some (RSA with 4096 bits), and whoever can
connect can ask for any number of them.

Happy path: there is time, and a step runs at once. Otherwise it waits. Hosts at which a peer has proven itself before,
by calling us or when we called it, come first, then handshakes that are past their first step, then the others. Of
these the newest comes first: in a flood those who have waited longest have mostly gone.

Failure modes: none. Connections that wait too long end by their time limit for the handshake. While one waits nothing
more is read from it.
"""

import time
from collections import deque
from typing import Any, Final

from io_uv import pyuv

_SHARE: Final = 0.2
_BURST_SECONDS: Final = 0.02


class Gate:
    """The queue of handshake steps of a transport's inbound streams."""

    def __init__(self, loop: Any) -> None:
        self.hosts: dict[str, None] = {}
        """Hosts at which a peer has proven itself, the last one at the end."""
        self._timer: Any = pyuv.Timer(loop)
        self._credit = _BURST_SECONDS
        self._at = time.monotonic()
        self._known: deque[Any] = deque()
        self._begun: deque[Any] = deque()
        self._new: deque[Any] = deque()

    def trust(self, host: str) -> None:
        """A peer at this host has proven itself."""
        self.hosts.pop(host, None)
        self.hosts[host] = None
        if len(self.hosts) > 256:
            del self.hosts[next(iter(self.hosts))]

    def ask(self, stream: Any, host: str, begun: bool) -> None:
        """Have `stream.step()` called, now or when its turn comes."""
        queue = self._known if host in self.hosts else self._begun if begun else self._new
        queue.append(stream)
        if not self._timer.active:
            self._run()

    def close(self) -> None:
        """Let nobody through any more."""
        self._known.clear()
        self._begun.clear()
        self._new.clear()
        self._timer.close()

    def _run(self, timer: Any = None) -> None:
        while self._known or self._begun or self._new:
            now = time.monotonic()
            self._credit = min(self._credit + (now - self._at) * _SHARE, _BURST_SECONDS)
            self._at = now
            if self._credit <= 0:
                self._timer.start(self._run, -self._credit / _SHARE + 0.001, 0)
                return
            queue = self._known or self._begun
            stream = queue.popleft() if queue else self._new.pop()
            if stream.closed:
                continue
            begin = time.perf_counter()
            stream.step()
            self._credit -= time.perf_counter() - begin
            if self._timer.closed:
                return
