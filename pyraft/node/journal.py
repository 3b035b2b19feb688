"""Notes of the changes of a machine's state, so that they can be taken back, and be kept out of a snapshot.

Duty: a command that raises is rolled back, and a snapshot is encoded in a thread while commands go on. Both need to
know of each change before it happens. The tracked containers of `tracked` tell the `Journal` of their machine.

Happy path: `begin`, the command's changes, `commit`. A plain container that a command puts into a tracked one stays
plain, and may be changed freely, until `commit` replaces it by a tracked one: rolling back removes it altogether.
For a snapshot: `start_snapshot`, then each container that is about to change leaves a shallow copy of itself, which
the snapshot's thread reads in its place, then `end_snapshot`.

Failure modes: a change outside a command raises RuntimeError, as it would be on one server only. `commit` raises
TypeError for a value that cannot be tracked (`tracked.adopt`); `rollback` follows then.
"""

import threading
from collections.abc import Callable
from typing import Any, Protocol


class Container(Protocol):
    """The part of a tracked container that the journal needs."""

    def adopt_members(self) -> None:
        """Replace plain containers among the members by tracked ones."""

    def forget_fresh(self) -> None:
        """Take what was put in as gone."""

    def content(self) -> Any:
        """Return the members in a plain copy."""


class Journal:
    """The changes of one machine; see the head of this module."""

    __slots__ = ("_fresh", "_undo", "frozen", "is_immutable", "lock")

    def __init__(self, is_immutable: Callable[[Any], bool]) -> None:
        """`is_immutable(value)` tells whether a value that is not a container can be kept, since nobody can change
        it."""
        self.is_immutable = is_immutable
        self._undo: list[tuple[Callable[..., Any], tuple[Any, ...]]] | None = None
        self._fresh: dict[int, Container] = {}
        self.frozen: dict[int, tuple[Container, Any]] | None = None
        """While a snapshot is taken: the content that containers changed since had at its start, by their id()."""
        self.lock = threading.Lock()
        """Held by the snapshot's thread while it reads members, and here while a container's content is kept."""

    def begin(self) -> None:
        """Allow changes from now on, and note them."""
        assert self._undo is None, "a command runs inside another one"
        self._undo = []

    def commit(self) -> None:
        """Keep the changes. Raises TypeError for a value that cannot be tracked: call rollback then."""
        while self._fresh:
            _, container = self._fresh.popitem()
            container.adopt_members()
        self._undo = None

    def rollback(self) -> None:
        """Take back what was changed since begin, the last change first."""
        undo, self._undo = self._undo, None
        assert undo is not None
        for container in self._fresh.values():
            container.forget_fresh()
        self._fresh.clear()
        for function, arguments in reversed(undo):
            function(*arguments)

    def changing(self, container: Container) -> Callable[[tuple[Callable[..., Any], tuple[Any, ...]]], None]:
        """Announce a change of `container`; return the function to note how it is taken back: (function, arguments)."""
        undo = self._undo
        if undo is None:
            raise RuntimeError("the state of a machine changes only in its commands")
        frozen = self.frozen
        if frozen is not None and id(container) not in frozen:
            with self.lock:
                frozen[id(container)] = (container, container.content())  # and the container, so that its id stays its
        return undo.append

    def inserted(self, container: Container) -> None:
        """Take note that something that is not a scalar was put into `container`."""
        self._fresh[id(container)] = container

    def start_snapshot(self) -> None:
        """Keep the state as it is now for a thread to read, until `end_snapshot`."""
        assert self.frozen is None, "a snapshot is being taken"
        self.frozen = {}

    def end_snapshot(self) -> None:
        """Keep nothing any more."""
        self.frozen = None
