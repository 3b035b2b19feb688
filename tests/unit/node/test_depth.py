"""Every member comes to the same where commands recurse, and snapshots have state however deep it is nested."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from pyraft.node.errors import CommandFailed
from pyraft.node.machine import Machine, command
from pyraft.node.outcomes import NOTHING, RAISED
from pyraft.node.replica import NO_SESSION, Replica
from pyraft.node.tracked import Record


class Deep(Machine):
    """A machine with a command that recurses."""

    def __init__(self) -> None:
        self.done: list[int] = []

    @command
    def dig(self, depth: int) -> int:
        """Go so deep, and keep how deep it was."""
        self.done.append(depth)
        return self.reach(depth)

    def reach(self, depth: int) -> int:
        """Return 0 from so deep."""
        return self.reach(depth - 1) if depth else 0


def below(frames: int, function: Any) -> Any:
    """Return what `function` returns where the stack is so much deeper."""
    return below(frames - 1, function) if frames else function()


def test_commands_recurse_as_deep_on_every_member() -> None:
    """A member that executes a command on a deeper stack than another one comes to the same outcome and state."""
    members = [Replica({"": Deep()}) for _ in range(2)]
    outcomes: list[list[bytes]] = [[], []]
    limit = sys.getrecursionlimit()
    for depth in (1, *range(limit - 500, limit + 50, 25)):
        for member, frames, found in zip(members, (0, 200), outcomes, strict=True):
            arguments = member.codec.pack([[depth], {}])
            entry = member.entry(depth, [[NO_SESSION, 0, 0, "", "dig", 1, arguments]])
            found += below(frames, lambda member=member, entry=entry: member.do_apply(entry))[1]
    assert outcomes[0] == outcomes[1]
    with pytest.raises(RecursionError):
        members[0].result("", outcomes[0][-1])
    machines: list[Any] = [member.machines[""] for member in members]
    assert machines[0].done == machines[1].done
    assert machines[0].done[-1] < limit


class Answers(Machine):
    """A machine whose commands say things that are nested."""

    @command
    def result(self, depth: int) -> Any:
        """Return lists in lists."""
        return in_lists(depth)

    @command
    def fail(self, depth: int) -> None:
        """Raise an exception with such an argument."""
        raise LookupError(in_lists(depth))


def in_lists(depth: int) -> Any:
    """Return a number in so many lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value, "some more"]
    return value


@pytest.mark.parametrize("depth", [1, 500, 501, 600, 900])
def test_results_are_nested_only_so_deep(depth: int) -> None:
    """Versions of msgpack differ in what they pack from the 511th level on, and members may have others."""
    member = Replica({"": Answers()})
    calls = [[NO_SESSION, 0, 0, "", name, 1, member.codec.pack([[depth], {}])] for name in ("result", "fail")]
    result, failure = member.do_apply(member.entry(1, calls))[1]
    if depth <= 500:
        assert member.result("", result) == in_lists(depth)
        with pytest.raises(LookupError) as raised:
            member.result("", failure)
        assert raised.value.args == (in_lists(depth),)
    else:
        with pytest.raises(ValueError, match="the result is nested deeper than 500"):
            member.result("", result)
        with pytest.raises(CommandFailed, match="LookupError"):
            member.result("", failure)


@dataclass
class Leaf(Record):
    """Named by one machine, and by another one not."""

    n: int


class Nested(Machine):
    """A machine whose state is nested ever deeper."""

    types: ClassVar[tuple[type, ...]] = (Leaf,)

    def __init__(self) -> None:
        self.root: Any = None

    @command
    def put(self, value: Any) -> None:
        """Begin with a value."""
        self.root = value

    @command
    def wrap(self) -> None:
        """Put the state into a container of each kind."""
        self.root = {"list": [1, (self.root, 2)], "leaf": Leaf(3)}


class Chain(Nested):
    """A machine whose state is nothing but tuples in tuples."""

    @command
    def wrap(self) -> None:
        """Put the state into one more."""
        self.root = (self.root, 1)


@dataclass(frozen=True)
class Link:
    """One that cannot change, and holds another."""

    inner: Any
    n: int = 1


class Links(Nested):
    """A machine whose state is nothing but frozen dataclasses in each other, as a list from cons cells is."""

    types = (Link,)

    @command
    def wrap(self) -> None:
        """Put the state into one more."""
        self.root = Link(self.root)


class Sets(Nested):
    """A machine whose state is nothing but frozensets in each other."""

    @command
    def wrap(self) -> None:
        """Put the state into one more."""
        self.root = frozenset([self.root])


class Mixed(Nested):
    """A machine with all that cannot change in each other, as a key too."""

    types = (Link,)

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[Any, int] = {}

    @command
    def wrap(self) -> None:
        """Put the state into one more of each, and have a key of it."""
        self.root = (frozenset([Link(self.root)]), 1)
        self.keys = {self.root: 1}


class Bare(Nested):
    """It does not name the class of its records."""

    types = ()


def grown(cls: type[Nested], value: Any, wraps: int) -> tuple[Replica, Any]:
    """Return a replica with a tree, and the tree."""
    replica = Replica({"": cls()})
    for number, (name, args) in enumerate([("put", [value]), *[("wrap", [])] * wraps], 1):
        entry = replica.entry(number, [[NO_SESSION, 0, 0, "", name, 1, replica.codec.pack([args, {}])]])
        assert replica.do_apply(entry)[1] == [NOTHING]
    return replica, replica.machines[""]


def restored(replica: Replica, cls: type[Nested]) -> Any:
    """Return the tree of another replica that has read the snapshot of this one."""
    _, head = replica.do_snapshot()
    _, pieces = replica.do_snapshot_async(head)
    other = Replica({"": cls()})
    assert other.do_restore(b"".join(pieces)) == 0
    replica.do_snapshot_finalize(pieces)
    return other.machines[""]


@pytest.mark.parametrize("wraps", [1, 10, 11, 40, 1500])
def test_snapshots_of_state_that_is_nested_deep(wraps: int) -> None:
    """State may be nested as deep as commands make it, and every snapshot of it can be taken and read."""
    replica, tree = grown(Nested, "core", wraps)
    for machine in (tree, restored(replica, Nested)):
        at = machine.root
        for _ in range(wraps):
            assert at["leaf"] == Leaf(3)
            assert list(at) == ["list", "leaf"]
            (one, (at, two)) = at["list"]
            assert (one, two) == (1, 2)
        assert at == "core"


@pytest.mark.parametrize("wraps", [1, 32, 33, 63, 64, 200])
def test_snapshots_of_tuples_in_tuples(wraps: int) -> None:
    """With the 64th one no snapshot could be taken, and the first attempt stopped the server."""
    replica, tree = grown(Chain, "core", wraps)
    assert restored(replica, Chain).root == tree.root
    value: Any = "core"
    for _ in range(wraps):
        value = (value, 1)
    assert tree.root == value


@pytest.mark.parametrize("cls", [Chain, Links, Sets])
@pytest.mark.parametrize("wraps", [1, 59, 60, 61, 62, 63, 64, 480])
def test_snapshots_of_what_cannot_change_nested_deep(cls: type[Nested], wraps: int) -> None:
    """With the 64th frozen dataclass the first snapshot stopped every server. Tuples could be written and not read."""
    replica, tree = grown(cls, "core", wraps)
    other = below(300, lambda: restored(replica, cls))
    one, two = tree.root, other.root
    for _ in range(wraps):
        assert type(one) is type(two)
        one, two = (next(iter(at.__dict__.values())) if isinstance(at, Link) else next(iter(at)) for at in (one, two))
    assert one == two == "core"


@pytest.mark.parametrize("wraps", [1, 20, 21, 22, 32, 100])
def test_snapshots_of_all_that_cannot_change_in_each_other(wraps: int) -> None:
    """Each kind may hold the others, and keys may be as deep as values."""
    replica, tree = grown(Mixed, "core", wraps)
    other = restored(replica, Mixed)
    assert (other.root, dict(other.keys)) == (tree.root, dict(tree.keys))


@pytest.mark.parametrize("cls", [Chain, Links, Sets])
def test_what_cannot_change_is_nested_only_so_deep(cls: type[Nested]) -> None:
    """The command that makes one more fails, on a stack of whatever depth and of every Python, and all goes on."""
    replica, tree = grown(cls, "core", 480)
    root = tree.root
    entry = replica.entry(999, [[NO_SESSION, 0, 0, "", "wrap", 1, replica.codec.pack([[], {}])]])
    for depth in (0, 300):
        (outcome,) = below(depth, lambda: replica.do_apply(entry)[1])
        assert replica.codec.unpack(outcome)[:2] == [RAISED, "TypeError"]
        assert "nested deeper than 480" in str(outcome)
    assert tree.root is root


@pytest.mark.parametrize("kind", [list, dict])
def test_a_deep_value_from_a_caller_leaves_snapshots_possible(kind: type) -> None:
    """One value that a caller had put into a map ended the snapshots of all members, for good."""
    value: Any = 1
    for _ in range(200):
        value = [value] if kind is list else {"a": value}
    replica, tree = grown(Nested, value, 0)
    assert restored(replica, Nested).root == tree.root == value


def test_a_record_that_nobody_could_read_ends_the_snapshot() -> None:
    """A snapshot with a record whose class the program does not name would be taken for damage at the next start."""
    replica, _ = grown(Bare, 1, 1)
    _, head = replica.do_snapshot()
    with pytest.raises(TypeError, match="a record of class Leaf, which its `types` do not name"):
        replica.do_snapshot_async(head)


DEEP = """
import msgpack
from pyraft.node.codec import Codec
from pyraft.node.recipes import Recipes
from pyraft.node.replica import NO_SESSION, Replica

value = b"\\x01"
for _ in range(62):
    value = msgpack.packb(msgpack.ExtType(1, b"\\x91" + b"\\x91" * 1000 + value))
replica = Replica({"r": Recipes()})
arguments = b"\\x92\\x93\\xa1m\\xa1a" + value + b"\\x80"
_, (outcome,) = replica.do_apply(replica.entry(1, [[NO_SESSION, 0, 0, "r", "map_set", 1, arguments]]))
print(replica.codec.unpack(outcome)[1:])
made = 1
for _ in range(62):
    for _ in range(1000):
        made = [made]
    made = (made,)
try:
    Codec().pack(made)
except ValueError as exc:
    print(exc)
"""


def test_what_is_too_deep_for_the_stack_ends_nobody() -> None:
    """Lists in tuples in lists, in 62 KB of one call: each member's process ended there, and at each start again."""
    done = subprocess.run([sys.executable, "-c", DEEP], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = "tuples, sets or objects nested deeper than 63"
    outcome, packed = done.stdout.splitlines()
    assert outcome == f"['Malformed', '{told}']"
    assert packed in (told, "lists or dicts nested too deep to be packed")  # older versions of msgpack end lists at 511
