"""systemd's protocol for services of the type notify: ready, stopping, a line of status, and the watchdog.

Duty: `Notifier` sends what the manager wants to know to the socket that it names in the environment. Where there is
none it sends nothing, so that a program needs no case for being run from a shell.

Happy path: `notifier.ready("…")` once the node runs, `notifier.stopping()` at its end, `notifier.alive()` twice in each
interval of the watchdog.

Failure modes: a socket that cannot be reached is ignored: the manager then acts as if nothing had been said.
"""

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

from pyraft.errors import printable

_PATIENCE: Final = 2.0
"""Seconds that what is said once may wait for a manager that is busy."""


class Notifier:
    """The way to the manager, if one has started this process."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        path = environment.get("NOTIFY_SOCKET", "")
        self._path = "\0" + path[1:] if path.startswith("@") else path
        self.interval = self._watchdog(environment)
        """How often, in seconds, `alive` is to be called; 0 for never."""

    def ready(self, status: str) -> None:
        """Say that the service is there."""
        self._send("READY=1", f"STATUS={status}", patience=_PATIENCE)

    def status(self, status: str) -> None:
        """Say in a line how the service is."""
        self._send(f"STATUS={status}")

    def stopping(self) -> None:
        """Say that the service is about to end."""
        self._send("STOPPING=1", patience=_PATIENCE)

    def alive(self) -> None:
        """Say that its loop turns."""
        self._send("WATCHDOG=1")

    def _watchdog(self, environment: Mapping[str, str]) -> float:
        microseconds = environment.get("WATCHDOG_USEC", "")
        if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not microseconds.isdecimal():
            return 0.0
        return int(microseconds) / 2e6

    def _send(self, *lines: str, patience: float = 0.0) -> None:
        """Send a message; where the manager has many to read already, wait for so many seconds, then let it be."""
        if not self._path:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            s.settimeout(patience)
            s.sendto("\n".join(map(printable, lines)).encode(), self._path)
