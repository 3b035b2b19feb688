"""State that is taken back, kept in snapshots, and made of copies where it would be shared."""

import copy
import dataclasses
import pickle
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import pytest

from pyraft.node import containers as containers_
from pyraft.node import journal, snapshot
from pyraft.node.codec import Codec
from pyraft.node.machine import Machine, bind
from pyraft.node.tracked import Record, Tracked


@dataclasses.dataclass
class Item(Record):
    """A record in the state."""

    name: str
    tags: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Point:
    """An immutable member."""

    x: int


class State(Machine):
    """A machine with one of everything."""

    types = (Item, Point)

    def __init__(self) -> None:
        self.dict: dict[Any, Any] = {"a": 1, "b": {"c": [1]}}
        self.set: set[Any] = {1}
        self.list: list[Any] = [1, [2], {3: 4}]
        self.deque: deque[Any] = deque([1, [2]])
        self.short: deque[Any] = deque([1, 2], 3)
        self.tuple: tuple[Any, ...] = (1, [2])
        self.item = Item("i")
        self.number = 0


def plain(value: Any) -> Any:
    """Return a value as one that compares members, order and types."""
    if isinstance(value, Record):
        return type(value).__name__, {name: plain(member) for name, member in value.content().items()}
    if isinstance(value, dict):
        return [(plain(key), plain(member)) for key, member in value.items()]
    if isinstance(value, (set, list, deque)):
        kind = value.plain.__name__ if isinstance(value, Tracked) else type(value).__name__
        return kind, [plain(member) for member in value]
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return value


def containers(value: Any) -> list[Any]:
    """Return all containers of a state; fails if one is not tracked, or in two places."""
    found: dict[int, Any] = {}

    def visit(value: Any) -> None:
        if isinstance(value, (dict, set, list, deque, Record)):
            assert isinstance(value, Tracked), type(value)
            assert id(value) not in found, "in two places"
            assert value._placed
            found[id(value)] = value
            for member in list(value.members(value)):
                visit(member)
        elif isinstance(value, tuple):
            for member in value:
                visit(member)

    visit(value)
    return list(found.values())


def machine() -> State:
    """Return a machine whose state is tracked."""
    state = State()
    bind(state, "", Codec())
    return state


class Refused(Exception):
    """Raised by commands that are to be taken back."""


def run(state: State, change: Callable[[], Any], *, fails: bool = False) -> None:
    """Run `change` as a command."""
    checkpoint = state.checkpoint()
    try:
        change()
        if fails:
            raise Refused
        state.keep(checkpoint)
    except BaseException as exc:
        state.rollback(checkpoint)
        if not isinstance(exc, Refused):
            raise


def some_value(rng: random.Random, state: State) -> Any:
    """Return a value to put somewhere: new, or one that the state has."""
    make = rng.choice(
        [
            lambda: rng.randrange(100),
            lambda: "text",
            lambda: [rng.randrange(9), []],
            lambda: {rng.randrange(9): [1]},
            lambda: {rng.randrange(9), 7},
            lambda: deque([1, [2]], rng.choice([None, 4])),
            lambda: (1, [rng.randrange(9)]),
            lambda: Item("new", [[1]]),
            lambda: Point(rng.randrange(9)),
            lambda: rng.choice([state.item, state.list, state.tuple]) if len(reachable(state)) < 30 else 0,
        ]
    )
    return make()


def change_one(rng: random.Random, state: State, target: Any) -> None:
    """Make one random change to a container, unless the state has become large."""
    if len(reachable(state)) > 100:
        return
    value = some_value(rng, state)
    size = len(target) if not isinstance(target, Record) else 0
    at = rng.randrange(size) if size else 0
    key = rng.randrange(6)
    changes: dict[type, list[Callable[[], Any]]] = {
        dict: [
            lambda: target.__setitem__(key, value),
            lambda: target.pop(key, None),
            lambda: target.setdefault(key, value),
            lambda: target.update({key: value, "u": 1}),
            lambda: target.popitem() if target else None,
            lambda: target.clear() if rng.random() < 0.1 else None,
        ],
        set: [
            lambda: target.add(key),
            lambda: target.discard(key),
            lambda: target.pop() if target else None,
            lambda: target.update({key, 1, 2}),
            lambda: target.__ixor__({key, 1}),
            lambda: target.__iand__({key, 1, 2, 3}),
            lambda: target.__isub__({key}),
            lambda: target.clear() if rng.random() < 0.1 else None,
        ],
        list: [
            lambda: target.append(value),
            lambda: target.insert(at, value),
            lambda: target.pop() if size else None,
            lambda: target.pop(at) if size else None,
            lambda: target.__setitem__(at, value) if size else None,
            lambda: target.__setitem__(slice(0, at), [value, value]),
            lambda: target.__delitem__(slice(0, 1)),
            lambda: target.reverse(),
            lambda: target.sort(key=repr),
            lambda: target.extend([value, 1]),
            lambda: target.__imul__(2) if size < 6 else target.clear(),
        ],
        deque: [
            lambda: target.append(value),
            lambda: target.appendleft(value),
            lambda: target.pop() if size else None,
            lambda: target.popleft() if size else None,
            lambda: target.rotate(1),
            lambda: target.extendleft([value, 1]),
            lambda: target.__setitem__(at, value) if size else None,
            lambda: target.clear() if size > 8 else None,
        ],
        object: [lambda: setattr(target, rng.choice(["extra", "tags", "more"]), value)],
    }
    rng.choice(changes[target.plain])()


@pytest.mark.parametrize("seed", range(60))
def test_a_failed_command_changes_nothing_and_a_good_one_leaves_a_tree(seed: int) -> None:
    """Random changes of random containers: taken back, all is as before; kept, all is tracked and in one place."""
    rng = random.Random(seed)
    state = machine()
    for _ in range(30):
        before = plain(state)
        fails = rng.random() < 0.5

        def change(state: State = state) -> None:
            for _ in range(rng.randrange(1, 8)):
                change_one(rng, state, rng.choice(reachable(state)))

        run(state, change, fails=fails)
        if fails:
            assert plain(state) == before, f"seed {seed}"
        containers(state)
        if len(reachable(state)) > 60:
            state = machine()


def reachable(value: Any) -> list[Any]:
    """Return all containers in a state, new ones too."""
    found: list[Any] = []

    def visit(value: Any) -> None:
        if isinstance(value, Tracked):
            found.append(value)
            for member in list(value.members(value)):
                visit(member[1] if value.plain in (dict, object) else member)
        elif isinstance(value, tuple):
            for member in value:
                visit(member)

    visit(value)
    return found


@pytest.mark.parametrize("large", [0, 10, 1000])
@pytest.mark.parametrize("seed", range(50))
def test_a_snapshot_has_the_state_of_its_beginning(seed: int, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the state changes while its snapshot is written, piece by piece, the snapshot has it as it was.

    Dicts are copied when they change, or from `large` entries on their keys are.
    """
    monkeypatch.setattr(snapshot, "PIECE", 4)
    monkeypatch.setattr(journal, "LARGE", large)
    monkeypatch.setattr(containers_, "SMALL", 20)
    rng = random.Random(seed)
    state = machine()
    run(state, lambda: state.dict.update({n: [n] for n in range(50)}))
    run(state, lambda: state.set.update(range(40)))
    binding = state._node
    assert binding is not None
    before = plain(state)
    binding.journal.start_snapshot()
    pieces = []
    for piece in snapshot.write(state, binding.codec, snapshot.Frozen(binding.journal)):
        pieces.append(piece)
        for _ in range(rng.choice([0, 0, 1, 5])):
            run(state, lambda: change_one(rng, state, rng.choice(reachable(state))), fails=rng.random() < 0.3)
    binding.journal.end_snapshot()
    other = machine()
    assert other._node is not None
    objects = other._node.codec.objects(b"".join(pieces))
    name, content = snapshot.read(objects, other._node.codec, other._node.journal)
    assert (name, {key: plain(value) for key, value in content.items()}) == before
    other.__dict__.update(content)
    containers(other)
    run(other, lambda: other.dict.clear())


def test_what_a_command_puts_in_may_be_changed_until_it_ends() -> None:
    """A plain dict that was put in is the one that the command goes on to fill."""
    state = machine()

    def change() -> None:
        row: dict[str, Any] = {}
        state.dict["row"] = row
        row["n"] = [1]
        row["n"].append(2)

    run(state, change)
    assert state.dict["row"] == {"n": [1, 2]}
    containers(state)


def test_a_container_that_is_replaced_moves_to_its_next_place_as_it_is() -> None:
    """An immutable value replaces it, or a container; the command goes on with it, and rolling back puts it back."""
    state = machine()

    def change() -> None:
        row, items = state.dict["b"], state.list
        state.dict["b"] = 1
        state.dict["moved"] = row
        row["n"] = 2
        state.list = [0]
        state.tuple = (items, 1)
        items.append("end")

    before = plain(state)
    run(state, change, fails=True)
    assert plain(state) == before
    state.keep(state.checkpoint())
    run(state, change)
    assert state.dict["moved"] == {"c": [1], "n": 2}
    assert state.tuple[0][-1] == "end"
    assert (state.dict["b"], state.list) == (1, [0])
    containers(state)


def test_a_change_outside_a_command_is_refused() -> None:
    """A program that changes the state by hand would change it on one server only."""
    state = machine()
    changes: list[Callable[[], Any]] = [
        lambda: state.dict.update(x=1),
        lambda: state.list.append(1),
        lambda: state.deque.popleft(),
        lambda: state.set.add(5),
        lambda: setattr(state, "number", 1),
        lambda: setattr(state.item, "name", "x"),
        lambda: delattr(state, "number"),
    ]
    before = plain(state)
    for change in changes:
        with pytest.raises(RuntimeError, match="only in its commands"):
            change()
    assert plain(state) == before


NOT_TRACKED = {
    "object": object(),
    "Counter": Counter[str](),
    "bytearray": bytearray(b"x"),
    "object in lists": [[object()]],
    "object in a dict": ({1: object()},),
}


@pytest.mark.parametrize("value", NOT_TRACKED.values(), ids=NOT_TRACKED.keys())
def test_what_cannot_be_tracked_is_refused_when_the_command_ends(value: Any) -> None:
    """A value whose changes nobody would notice fails the command, which is taken back."""
    state = machine()
    before = plain(state)
    with pytest.raises(TypeError, match="cannot keep"):
        run(state, lambda: state.list.append(value))
    assert plain(state) == before
    with pytest.raises(TypeError, match="cannot keep"):
        run(state, lambda: state.dict.update(x=value))
    run(state, lambda: state.list.append(1))


MISSES: list[Callable[[Any], Any]] = [
    lambda state: state.dict.pop("missing"),
    lambda state: state.dict.__delitem__("missing"),
    lambda state: [state.dict.popitem() for _ in range(3)],
    lambda state: state.set.remove("missing"),
    lambda state: [state.set.pop() for _ in range(2)],
    lambda state: state.list.remove("missing"),
    lambda state: [state.list.pop() for _ in range(4)],
    lambda state: state.list.__delitem__(3),
    lambda state: [state.deque.popleft() for _ in range(3)],
    lambda state: delattr(state, "missing"),
    lambda state: delattr(state.item, "missing"),
]


@pytest.mark.parametrize("miss", range(len(MISSES)))
def test_what_is_not_there_is_missed_as_in_plain_containers(miss: int) -> None:
    """To take out what is not there raises what the built-in type raises, and the command is taken back."""
    state, alone = machine(), State()
    before = plain(state)
    with pytest.raises((LookupError, AttributeError, ValueError)) as expected:
        MISSES[miss](alone)
    with pytest.raises(type(expected.value)):
        run(state, lambda: MISSES[miss](state))
    assert plain(state) == before


def test_a_record_of_no_machine_is_a_plain_object() -> None:
    """Attributes come, change and go as everybody's do, until it is put in somewhere."""
    item = Item("alone")
    item.name = "other"
    assert item.content() == {"name": "other", "tags": []}
    del item.tags
    assert item.content() == {"name": "other"}


def test_copies_are_plain() -> None:
    """copy, deepcopy and pickle give plain containers, which may leave the machine."""
    state = machine()
    for value in (state.dict, state.list, state.set, state.deque):
        for other in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
            assert other == value
            assert not isinstance(other, Tracked)
    assert not isinstance(copy.deepcopy(state.dict)["b"], Tracked)


def test_a_set_iterates_in_the_order_of_insertion() -> None:
    """The order of a set is the same on all servers, whatever the seed of their hashes."""
    state = machine()
    words = [f"word {n}" for n in range(100)]
    run(state, lambda: state.set.update(words))
    assert list(state.set) == [1, *words]
    run(state, lambda: state.set.pop())
    assert list(state.set) == words


def test_a_value_that_cannot_come_in_leaves_nothing_to_take_back() -> None:
    """A change that fails before it is made, and is caught by the command, does not take back another one later."""
    state = machine()
    before = plain(state)

    class Refusing(Record):
        """A record whose content cannot be had."""

        def content(self) -> dict[str, Any]:
            """Raise."""
            raise Refused

    def change(put: Callable[[], Any]) -> None:
        with pytest.raises(Refused):
            put()
        raise Refused

    puts: list[Callable[[], Any]] = [
        lambda: state.list.append(Refusing()),
        lambda: state.list.__setitem__(0, Refusing()),
        lambda: state.deque.append(Refusing()),
        lambda: state.deque.appendleft(Refusing()),
        lambda: state.dict.update(new=Refusing()),
        lambda: state.dict.update(a=Refusing()),
        lambda: setattr(state, "new", Refusing()),
        lambda: setattr(state, "number", Refusing()),
    ]
    for put in puts:
        run(state, lambda put=put: change(put))
        assert plain(state) == before
