"""Notes of the changes of a machine's state, so that they can be taken back, and be kept out of a snapshot.

Duty: a command that raises is rolled back, and a snapshot is encoded in a thread while commands go on. Both need to
know of each change before it happens. The tracked containers of `tracked` tell the `Journal` of their machine.

Happy path: `begin`, the command's changes, `commit`. A plain container that a command puts into a tracked one stays
plain, and may be changed freely, until `commit` replaces it by a tracked one: rolling back removes it altogether.
For a snapshot: `start_snapshot`; then each container that is about to change first leaves a shallow copy of itself, or
something equivalent if it is large, and the snapshot's thread reads that instead; then `end_snapshot`.

Failure modes: a change outside a command raises RuntimeError, as it would be on one server only. `commit` raises
TypeError for a value that cannot be tracked (`tracked.adopt`); `rollback` follows then.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol


class Container(Protocol):
    """The part of a tracked container that the journal needs."""

    def adopt_members(self) -> None:
        """Replace plain containers among the members by tracked ones."""

    def forget_fresh(self) -> None:
        """Take what was put in as gone."""

    def content(self) -> Any:
        """Return the members in a plain copy."""

    def aside(self) -> Any:
        """Return what a snapshot reads in the container's place."""


class Journal:
    """The changes of one machine; see the head of this module."""

    __slots__ = ("_classes", "fresh", "frozen", "is_immutable", "lock", "met", "undo")

    def __init__(self, is_immutable: Callable[[Any], bool]) -> None:
        """`is_immutable(value)` tells whether a value that is not a container can be kept, since nobody can change
        it."""
        self.is_immutable = is_immutable
        self.met: Callable[[type], None] = lambda record: None
        """Called with the class of a record that comes into the state, once for each class."""
        self._classes: set[type] = set()
        self.undo: list[tuple[Callable[..., Any], tuple[Any, ...]]] | None = None
        """The changes since `begin`; None outside a command."""
        self.fresh: dict[int, Container] = {}
        """The containers into which something has been put since, by their id(), for `commit` to look at."""
        self.frozen: dict[int, tuple[Container, Any]] | None = None
        """While a snapshot is taken: the content that containers changed since had at its start, by their id()."""
        self.lock = threading.Lock()
        """Held by the snapshot's thread while it reads members, and here while a container's content is kept."""

    def begin(self) -> None:
        """Allow changes from now on, and note them."""
        assert self.undo is None, "a command runs inside another one"
        self.undo = []

    def commit(self) -> None:
        """Keep the changes. Raises TypeError for a value that cannot be tracked: call rollback then."""
        while self.fresh:
            _, container = self.fresh.popitem()
            container.adopt_members()
        self.undo = None

    def rollback(self) -> None:
        """Take back what was changed since begin, the last change first."""
        undo, self.undo = self.undo, None
        assert undo is not None
        for container in self.fresh.values():
            container.forget_fresh()
        self.fresh.clear()
        for function, arguments in reversed(undo):
            function(*arguments)

    def changing(self, container: Container) -> Callable[[tuple[Callable[..., Any], tuple[Any, ...]]], None]:
        """Announce a change of `container`; return the function to note how it is taken back: (function, arguments)."""
        undo = self.undo
        if undo is None:
            raise RuntimeError("the state of a machine changes only in its commands")
        frozen = self.frozen
        if frozen is not None and id(container) not in frozen:
            with self.lock:
                frozen[id(container)] = (container, container.aside())  # and the container, so that its id stays its
        return undo.append

    def changing_key(self, container: Container, key: Any, may_all: bool = False) -> None:
        """Announce, behind `changing`, the entry of a dict that is about to change while a snapshot is taken.

        With `may_all` all of them may, now or when it is taken back.
        """
        assert self.frozen is not None
        kept = self.frozen[id(container)][1]
        if isinstance(kept, Aside):
            with self.lock:
                if may_all:
                    kept.keep_all()
                else:
                    kept.keep(key)

    def changing_unseen(self, container: Container) -> None:
        """Announce changes of a container that go around it, and are not taken back."""
        frozen = self.frozen
        if frozen is not None and id(container) not in frozen:
            with self.lock:
                frozen[id(container)] = (container, container.content())

    def inserted(self, container: Container) -> None:
        """Take note that something that is not a scalar was put into `container`."""
        self.fresh[id(container)] = container

    def meet(self, record: type) -> None:
        """Take note of the class of a record that comes into the state."""
        if record not in self._classes:
            self._classes.add(record)
            self.met(record)

    def start_snapshot(self) -> None:
        """Keep the state as it is now for a thread to read, until `end_snapshot`."""
        assert self.frozen is None, "a snapshot is being taken"
        self.frozen = {}

    def end_snapshot(self) -> None:
        """Keep nothing any more."""
        self.frozen = None


LARGE: Final = 4096
"""A dict of more entries is not copied as a whole when it changes under a snapshot: of 1,000,000 that took 40 ms."""

_MISSING: Final = object()


class Aside:
    """The content that a large dict had when a snapshot began: its keys in their order, and values changed since."""

    __slots__ = ("_dict", "_former", "_keys")

    def __init__(self, source: dict[Any, Any]) -> None:
        self._dict = source
        self._keys = list(source)
        self._former: dict[Any, Any] = {}

    @staticmethod
    def of(source: dict[Any, Any]) -> "Aside | dict[Any, Any]":
        """Return what stands for a dict: a copy, if it is not large."""
        return Aside(source) if len(source) > LARGE else dict(source)

    def __len__(self) -> int:
        return len(self._keys)

    def keep(self, key: Any) -> None:
        """The value of a key is about to change."""
        if key not in self._former:
            self._former[key] = self._dict.get(key, _MISSING)

    def keep_all(self) -> None:
        """All values are about to change."""
        if len(self._dict) < len(self._former):
            for key, value in self._dict.items():
                self._former.setdefault(key, value)
        else:
            self._former = {**self._dict, **self._former}

    def items(self, start: int) -> Iterator[tuple[Any, Any]]:
        """Iterate over the entries from the one of that number on, whatever happens to the dict meanwhile."""
        for at in range(start, len(self._keys)):
            key = self._keys[at]
            value = self._former.get(key, _MISSING)
            yield key, self._dict[key] if value is _MISSING else value
