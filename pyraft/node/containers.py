"""The tracked dict, list, set and deque.

Duty: they behave as the built-in types that they derive from, reads at the same cost; each method that changes one
announces it to the journal, and notes how to take it back, before it changes anything.

Happy path: `self.stock[item] -= n` in a command: the old value is noted, the new one set.

Failure modes: as those of the built-in types; a change outside a command is a RuntimeError (`journal`). A key whose
deletion is taken back comes last in the order of a dict or set of more than SMALL entries, on every server alike. A set
iterates in the order of insertion and `pop` takes the first, as the order of a plain one differs from process to
process. Copies (`copy`, `deepcopy`, pickle) are plain.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, ClassVar, Final

from pyraft.node.codec import SCALARS, is_scalar
from pyraft.node.journal import Aside, Journal
from pyraft.node.tracked import MAKERS, Tracked, adopt, arrive, check_key, place, release, settle

SMALL: Final = 256
"""Up to so many entries are copied before a deletion, so that their order comes back too."""


class TrackedDict(dict[Any, Any], Tracked):
    """A dict in a machine."""

    __slots__ = ("_fresh", "_journal", "_placed")

    plain = dict

    def __init__(self, content: Mapping[Any, Any], journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self._placed = True
        self._fresh: dict[Any, None] = {}
        self.fill(content.items())

    def fill(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Put in what a new one holds from the beginning."""
        journal = self._journal
        for key, value in pairs:
            check_key(key, journal)
            super().__setitem__(key, adopt(value, journal))

    def __setitem__(self, key: Any, value: Any) -> None:
        journal = self._journal
        if journal.frozen is None and journal.undo is not None:
            undo = journal.undo.append
        else:
            undo = journal.changing(self)
            if journal.frozen is not None:
                journal.changing_key(self, key)
        scalar = type(value) in SCALARS
        if key not in self:
            new = value if scalar else arrive(value, journal)
            undo((dict.__delitem__, (self, key)))
        elif value is self[key]:
            return
        else:
            old = self[key]
            new = value if scalar else arrive(value, journal)
            undo((dict.__setitem__, (self, key, old)))
            if type(old) not in SCALARS:
                release(old, undo)
        super().__setitem__(key, new)
        if not (scalar and type(key) in SCALARS):
            self._fresh[key] = None
            journal.inserted(self)

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        undo = self._journal.changing(self)
        if self._journal.frozen is not None:
            self._journal.changing_key(self, key, len(self) <= SMALL)
        old = self[key]
        if len(self) <= SMALL:
            undo((_refill_dict, (self, dict(self))))
        else:
            undo((dict.__setitem__, (self, key, old)))
        release(old, undo)
        super().__delitem__(key)

    def clear(self) -> None:
        """Remove all entries."""
        undo = self._journal.changing(self)
        if self._journal.frozen is not None:
            self._journal.changing_key(self, None, True)
        undo((_refill_dict, (self, dict(self))))
        for value in self.values():
            release(value, undo)
        super().clear()

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove an entry and return its value."""
        if key not in self:
            return super().pop(key, *default)
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[Any, Any]:
        """Remove the last entry and return it."""
        if not self:
            raise KeyError("popitem(): dictionary is empty")
        key = next(reversed(self))
        return key, self.pop(key)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value of `key`, which is put in if it is missing."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set the entries of a mapping or of an iterable of pairs."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # as the built-in type has it
        self.update(other)
        return self

    def __reduce__(self) -> Any:
        return dict, (dict(self),)

    def adopt_members(self) -> None:
        """Replace what was put in, where it is a plain container, by a tracked one."""
        fresh, self._fresh = self._fresh, {}
        for key in fresh:
            if key in self:
                check_key(key, self._journal)
                super().__setitem__(key, settle(self[key], self._journal))

    def forget_fresh(self) -> None:
        """Forget which members were put in and are plain still."""
        self._fresh = {}

    def content(self) -> dict[Any, Any]:
        """Return the entries in a plain dict."""
        return dict(self)

    def aside(self) -> Any:
        """Return what a snapshot reads when this changes: of a large one the keys."""
        return Aside.of(self)

    def members(self, content: Any, start: int = 0) -> Iterator[Any]:
        """Iterate over the entries."""
        if isinstance(content, Aside):
            return content.items(start)
        return itertools.islice(content.items(), start, None)


def _refill_dict(target: TrackedDict, content: dict[Any, Any]) -> None:
    dict.clear(target)
    dict.update(target, content)


class TrackedSet(set[Any], Tracked):
    """A set in a machine."""

    __slots__ = ("_journal", "_order", "_placed")

    plain = set

    def __init__(self, content: Iterable[Any], journal: Journal) -> None:
        super().__init__()
        self._order: dict[Any, None] = {}
        for member in content:
            check_key(member, journal)
            _put_member(self, member)
        self._journal = journal
        self._placed = True

    def __iter__(self) -> Iterator[Any]:
        return iter(self._order)

    def add(self, member: Any) -> None:
        """Add a member."""
        if member in self:
            return
        undo = self._journal.changing(self)
        check_key(member, self._journal)
        undo((_drop_member, (self, member)))
        _put_member(self, member)

    def discard(self, member: Any) -> None:
        """Remove a member, if it is one."""
        if member not in self:
            return
        undo = self._journal.changing(self)
        if len(self) <= SMALL:
            undo((_refill_set, (self, list(self._order))))
        else:
            undo((_put_member, (self, member)))
        _drop_member(self, member)

    def remove(self, member: Any) -> None:
        """Remove a member. Raises KeyError if it is not in the set."""
        if member not in self:
            raise KeyError(member)
        self.discard(member)

    def pop(self) -> Any:
        """Remove the member that was added first and return it."""
        if not self:
            raise KeyError("pop from an empty set")
        member = next(iter(self._order))
        self.discard(member)
        return member

    def clear(self) -> None:
        """Remove all members."""
        self._journal.changing(self)((_refill_set, (self, list(self._order))))
        _refill_set(self, [])

    def update(self, *others: Iterable[Any]) -> None:
        """Add the members of others."""
        for other in others:
            for member in list(other):
                self.add(member)

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Remove from this set all members of the given ones."""
        for other in others:
            for member in list(other):
                self.discard(member)

    def intersection_update(self, *others: Iterable[Any]) -> None:
        """Keep only what is a member of all others too."""
        kept = set(self._order).intersection(*others)
        self.difference_update([member for member in self if member not in kept])

    def symmetric_difference_update(self, other: Iterable[Any]) -> None:
        """Add what `other` alone has, remove what both have."""
        for member in dict.fromkeys(other):
            if member in self:
                self.discard(member)
            else:
                self.add(member)

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # as the built-in type has it
        self.update(other)
        return self

    def __isub__(self, other: Any) -> Any:  # type: ignore[misc]  # as the built-in type has it
        self.difference_update(other)
        return self

    def __iand__(self, other: Any) -> Any:  # type: ignore[misc]  # as the built-in type has it
        self.intersection_update(other)
        return self

    def __ixor__(self, other: Any) -> Any:  # type: ignore[misc]  # as the built-in type has it
        self.symmetric_difference_update(other)
        return self

    def copy(self) -> set[Any]:
        """Return the members in a plain set."""
        return set(self._order)

    def __reduce__(self) -> Any:
        return set, (list(self._order),)

    def adopt_members(self) -> None:
        """Do nothing: members of a set cannot change."""

    def forget_fresh(self) -> None:
        """Do nothing: members of a set cannot change."""

    def content(self) -> list[Any]:
        """Return the members in a list."""
        return list(self._order)

    def members(self, content: Any, start: int = 0) -> Iterator[Any]:
        """Iterate over the members."""
        return itertools.islice(content, start, None)


def _put_member(target: TrackedSet, member: Any) -> None:
    target._order[member] = None
    set.add(target, member)


def _drop_member(target: TrackedSet, member: Any) -> None:
    target._order.pop(member, None)
    set.discard(target, member)


def _refill_set(target: TrackedSet, order: list[Any]) -> None:
    target._order = dict.fromkeys(order)
    set.clear(target)
    set.update(target, order)


class _Rewrite:
    """A change of a whole list or deque: its content is noted before, and its members are looked at when it is over."""

    __slots__ = ("_target",)

    def __init__(self, target: Any) -> None:
        self._target = target

    def __enter__(self) -> Any:
        target = self._target
        undo = target._journal.changing(target)
        before = target.content()
        undo((_refill, (target, before)))
        for member in before:
            release(member, undo)
        return target

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, where: TracebackType | None
    ) -> None:
        target = self._target
        for at, member in enumerate(target):
            if isinstance(member, Tracked):
                target.put_at(at, arrive(member, target._journal))
        target._all_fresh = True
        target._journal.inserted(target)


def _incoming(member: Any, journal: Journal) -> Any:
    """Return what a `_Rewrite` is to put in for `member`; at its end it takes its place."""
    member = arrive(member, journal)
    if isinstance(member, Tracked):
        place(member, False)
    return member


def _refill(target: Any, content: list[Any]) -> None:
    plain = target.plain
    plain.clear(target)
    plain.extend(target, content)


class _Sequence(Tracked):
    """The common part of a tracked list and deque: changes that move members are rewrites of the whole."""

    __slots__ = ()

    plain: ClassVar[Any]

    def __delitem__(self, index: Any) -> None:
        with _Rewrite(self):
            self.plain.__delitem__(self, index)

    def insert(self, index: Any, member: Any) -> None:
        """Add a member before `index`."""
        member = _incoming(member, self._journal)
        with _Rewrite(self):
            self.plain.insert(self, index, member)

    def extend(self, members: Iterable[Any]) -> None:
        """Add members at the end, at the right one of a deque."""
        this: Any = self
        for member in list(members):
            this.append(member)

    def clear(self) -> None:
        """Remove all members."""
        with _Rewrite(self):
            self.plain.clear(self)

    def reverse(self) -> None:
        """Turn the order of the members round."""
        with _Rewrite(self):
            self.plain.reverse(self)

    def __iadd__(self, members: Iterable[Any]) -> Any:
        self.extend(members)
        return self

    def __imul__(self, times: Any) -> Any:
        with _Rewrite(self):
            self.plain.__imul__(self, times)
        return self

    def put_at(self, at: int, member: Any) -> None:
        """Put `member` in place of another one, without a note."""
        self.plain.__setitem__(self, at, member)

    def content(self) -> list[Any]:
        """Return the members in a plain list."""
        this: Any = self
        return list(this)

    def members(self, content: Any, start: int = 0) -> Iterator[Any]:
        """Iterate over the members."""
        return itertools.islice(content, start, None)


class TrackedList(_Sequence, list[Any]):
    """A list in a machine."""

    __slots__ = ("_all_fresh", "_fresh", "_journal", "_placed")

    plain = list

    def __init__(self, content: Iterable[Any], journal: Journal) -> None:
        super().__init__([adopt(member, journal) for member in content])
        self._journal = journal
        self._placed = True
        self._fresh: dict[int, None] = {}
        self._all_fresh = False

    def append(self, member: Any) -> None:
        """Add a member at the end."""
        undo = self._journal.changing(self)
        new = arrive(member, self._journal)
        undo((list.pop, (self,)))
        super().append(new)
        self._note(len(self) - 1, new)

    def pop(self, index: Any = -1) -> Any:
        """Remove a member and return it."""
        if not self or index not in (-1, len(self) - 1):
            member = list(self).pop(index) if not self else self[index]  # raises what list.pop does
            del self[index]
            return member
        undo = self._journal.changing(self)
        member = super().pop()
        undo((list.append, (self, member)))
        release(member, undo)
        self._fresh.pop(len(self), None)
        return member

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            value = [_incoming(member, self._journal) for member in value]
            with _Rewrite(self):
                super().__setitem__(index, value)
            return
        old = self[index]
        index = range(len(self))[index]
        undo = self._journal.changing(self)
        if value is old:
            return
        new = arrive(value, self._journal)
        undo((list.__setitem__, (self, index, old)))
        release(old, undo)
        super().__setitem__(index, new)
        self._note(index, new)

    def remove(self, member: Any) -> None:
        """Remove the first member that is equal to `member`."""
        del self[self.index(member)]

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        """Sort the members."""
        with _Rewrite(self):
            super().sort(key=key, reverse=reverse)

    def __reduce__(self) -> Any:
        return list, (list(self),)

    def _note(self, at: int, member: Any) -> None:
        if not is_scalar(member):
            self._fresh[at] = None
            self._journal.inserted(self)

    def adopt_members(self) -> None:
        """Replace what was put in, where it is a plain container, by a tracked one."""
        fresh: Iterable[int] = range(len(self)) if self._all_fresh else [at for at in self._fresh if at < len(self)]
        for at in fresh:
            super().__setitem__(at, settle(self[at], self._journal))
        self.forget_fresh()

    def forget_fresh(self) -> None:
        """Forget which members were put in and are plain still."""
        self._fresh = {}
        self._all_fresh = False


class TrackedDeque(_Sequence, deque[Any]):
    """A deque in a machine."""

    __slots__ = ("_all_fresh", "_journal", "_new_left", "_new_right", "_placed")

    plain = deque

    def __init__(self, content: Iterable[Any], journal: Journal) -> None:
        super().__init__([adopt(member, journal) for member in content], getattr(content, "maxlen", None))
        self._journal = journal
        self._placed = True
        self.forget_fresh()

    def append(self, member: Any) -> None:
        """Add a member at the right end."""
        if len(self) == self.maxlen:
            member = _incoming(member, self._journal)
            with _Rewrite(self):
                super().append(member)
            return
        undo = self._journal.changing(self)
        new = arrive(member, self._journal)
        undo((deque.pop, (self,)))
        super().append(new)
        self._new_right += 1
        self._journal.inserted(self)

    def appendleft(self, member: Any) -> None:
        """Add a member at the left end."""
        if len(self) == self.maxlen:
            member = _incoming(member, self._journal)
            with _Rewrite(self):
                super().appendleft(member)
            return
        undo = self._journal.changing(self)
        new = arrive(member, self._journal)
        undo((deque.popleft, (self,)))
        super().appendleft(new)
        self._new_left += 1
        self._journal.inserted(self)

    def pop(self) -> Any:  # type: ignore[override]  # as deque has it
        """Remove the member at the right end and return it."""
        undo = self._journal.changing(self)
        member = super().pop()
        undo((deque.append, (self, member)))
        release(member, undo)
        return member

    def popleft(self) -> Any:
        """Remove the member at the left end and return it."""
        undo = self._journal.changing(self)
        member = super().popleft()
        undo((deque.appendleft, (self, member)))
        release(member, undo)
        return member

    def __setitem__(self, index: Any, value: Any) -> None:
        value = _incoming(value, self._journal)
        with _Rewrite(self):
            super().__setitem__(index, value)

    def extendleft(self, members: Iterable[Any]) -> None:
        """Add members at the left end, one after the other."""
        for member in list(members):
            self.appendleft(member)

    def remove(self, member: Any) -> None:
        """Remove the first member that is equal to `member`."""
        with _Rewrite(self):
            super().remove(member)

    def rotate(self, n: int = 1) -> None:
        """Move the members `n` places to the right, round the end."""
        with _Rewrite(self):
            super().rotate(n)

    def copy(self) -> deque[Any]:  # type: ignore[override]  # a plain one
        """Return the members in a plain deque."""
        return deque(self, self.maxlen)

    def __copy__(self) -> deque[Any]:  # type: ignore[override]  # a plain one
        return self.copy()

    def __add__(self, other: Any) -> deque[Any]:  # type: ignore[override]  # a plain one
        both: deque[Any] = self.copy() + other
        return both

    def __mul__(self, times: Any) -> deque[Any]:  # type: ignore[override]  # a plain one
        many: deque[Any] = self.copy() * times
        return many

    def __reduce__(self) -> Any:
        return deque, (list(self), self.maxlen)

    def adopt_members(self) -> None:
        """Replace what was put in, where it is a plain container, by a tracked one."""
        size = len(self)
        if self._all_fresh:
            fresh = set(range(size))
        else:
            fresh = {*range(min(self._new_left, size)), *range(max(0, size - self._new_right), size)}
        for at in fresh:
            super().__setitem__(at, settle(self[at], self._journal))
        self.forget_fresh()

    def forget_fresh(self) -> None:
        """Forget which members were put in and are plain still."""
        self._new_left = self._new_right = 0
        self._all_fresh = False


MAKERS.update({dict: TrackedDict, set: TrackedSet, list: TrackedList, deque: TrackedDeque})
