"""Telling the log what others do wrong, as often as an operator wants to read it.

Duty: `Teller.warn` logs a text once per key in ten minutes, and at most twenty texts in a minute. Anybody who can
connect can do wrong as often as they like, under as many names; the log must neither be filled by that nor be silent.

Happy path: the key names the peer and what is wrong; a text that was held back is counted, and the next one says so.

Failure modes: none. Lines that are held back are still traced by the callers.
"""

import logging
from collections.abc import Hashable
from typing import Final

from io_uv.pyuv import Loop

_log: Final = logging.getLogger("io_uv")

_AGAIN_MSECS: Final = 600_000
_WINDOW_MSECS: Final = 60_000
_PER_WINDOW: Final = 20
_KEYS: Final = 256


class Teller:
    """The lines that were told, and when, by the clock of `loop`."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._told: dict[Hashable, int] = {}
        self._begin = 0
        self._count = 0
        self._held_back = 0

    def warn(self, key: Hashable, text: str, *args: object) -> None:
        """Log a warning, unless one with this key was logged lately, or too many others were."""
        now: int = self._loop.now()
        if now - self._begin >= _WINDOW_MSECS:
            self._begin, self._count = now, 0
        at = self._told.get(key)
        if (at is not None and now - at < _AGAIN_MSECS) or self._count >= _PER_WINDOW:
            self._held_back += 1
            return
        self._count += 1
        self._told.pop(key, None)
        self._told[key] = now
        if len(self._told) > _KEYS:
            del self._told[next(iter(self._told))]
        if self._held_back:
            text += f" (and {self._held_back} more such warnings were held back)"
            self._held_back = 0
        _log.warning(text, *args)
