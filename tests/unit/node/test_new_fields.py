"""Two versions of a program whose classes differ: members come to the same, or one stops; none does something else."""

import enum
from dataclasses import dataclass, field
from typing import Any

import pytest

from pyraft import RAFT_MALFORMED
from pyraft.node import CommandFailed, Machine, Record, Refused, command, query
from pyraft.node.errors import Foreign
from pyraft.node.replica import NO_SESSION, SESSIONS, Replica
from pyraft.node.testing import Cluster, simulate


@dataclass(frozen=True)
class Item:
    """An item of the first version."""

    name: str


@dataclass
class Box(Record):
    """A record of the first version."""

    n: int


class Colour(enum.Enum):
    """The colours of the first version."""

    RED = 1


class Shop(Machine):
    """The first version."""

    types = (Item, Box, Colour)

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self.spare = 1

    @command
    def put(self, key: str, item: Any) -> None:
        """Keep anything."""
        self.items[key] = item

    @command
    def box(self, key: str) -> None:
        """Keep a record."""
        self.items[key] = type(self).types[1](1)

    @command
    def take(self, key: str) -> Any:
        """Return what is kept."""
        return self.items[key]

    @command
    def drop(self) -> None:
        """Delete an attribute."""
        del self.spare

    @command
    def has_spare(self) -> bool:
        """Say whether it is there."""
        return hasattr(self, "spare")

    @query
    def find(self, key: str) -> Any:
        """Look."""
        return self.items[key]


OldItem = Item


def _newer() -> tuple[Any, Any, Any]:
    @dataclass(frozen=True)
    class Item:
        name: str
        tag: str = ""

    @dataclass
    class Box(Record):
        n: int
        tags: list[str] = field(default_factory=list)

    class Colour(enum.Enum):
        RED = 1
        BLUE = 2

    class NewerShop(Shop):
        types = (Item, Box, Colour)  # type: ignore[assignment]  # other classes, of the same names

        def __init__(self) -> None:
            super().__init__()
            self.sold: dict[str, int] = {}

        @command
        def sell(self, key: str) -> int:
            self.sold[key] = self.sold.get(key, 0) + 1
            return self.sold[key]

        @command
        def mark(self, key: str) -> int:
            self.items[key].tags.append("a")
            return len(self.items[key].tags)

    NewerShop.__name__ = "Shop"
    return NewerShop, Item, Colour


NewShop, NewItem, NewColour = _newer()


def entry(replica: Replica, name: str, *args: Any) -> bytes:
    """Return an entry with one call."""
    if name == "open":
        return replica.entry(1, [[NO_SESSION, 0, 0, SESSIONS, "open", 1, replica.codec.pack([[b"s"], {}])]])
    entry.number = getattr(entry, "number", 0) + 1  # type: ignore[attr-defined]
    call = [b"s", entry.number, 0, "", name, 1, replica.codec.pack([list(args), {}])]  # type: ignore[attr-defined]
    return replica.entry(1, [call])


def replica_of(machine: Machine) -> Replica:
    """Return a replica with a session."""
    replica = Replica({"": machine})
    replica.do_apply(entry(replica, "open"))
    return replica


def snapshot_of(replica: Replica) -> bytes:
    """Take a snapshot as the core does."""
    _, head = replica.do_snapshot()
    _, pieces = replica.do_snapshot_async(head)
    replica.do_snapshot_finalize(head)
    return b"".join(pieces)


@pytest.mark.parametrize("value", [NewItem("a"), NewColour.BLUE])
def test_a_call_that_others_execute_does_not_fail_here_alone(value: Any) -> None:
    """Its arguments have a field, or a member, that this program's class lacks: the server stops, and names it."""
    old, new = replica_of(Shop()), replica_of(NewShop())
    data = entry(new, "put", "a", value)
    assert new.do_apply(data)[0] == 0
    with pytest.raises(
        Foreign, match=r"'put' with a value of class \w+ with '(tag|BLUE)', .*; start this server again"
    ):
        old.do_apply(data)


def test_a_call_without_a_field_that_has_no_default_here_stops_too() -> None:
    """The later version of the class wants more than the log has."""

    @dataclass(frozen=True)
    class Item:
        name: str
        tag: str

    new = replica_of(type("Shop", (Shop,), {"types": (Item, Box, Colour)})())
    old = replica_of(Shop())
    with pytest.raises(Foreign, match="without 'tag'"):
        new.do_apply(entry(old, "put", "a", OldItem("a")))


def test_a_result_with_a_field_that_the_caller_lacks_is_read_without() -> None:
    """The call has been executed: clients are upgraded last."""
    old, new = replica_of(Shop()), replica_of(NewShop())
    new.do_apply(entry(new, "put", "a", NewItem("a", "tag")))
    outcome = new.do_apply(entry(new, "take", "a"))[1][0]
    assert old.result("", outcome) == OldItem("a")


def test_what_a_program_has_got_since_a_snapshot_is_as_at_first() -> None:
    """A member that was there all the time has it, and commands come to the same on both."""
    old, new, restored = replica_of(Shop()), replica_of(NewShop()), replica_of(NewShop())
    data = entry(old, "box", "b")
    for replica in (old, new):
        assert replica.do_apply(data)[0] == 0
    restored.do_apply(entry(new, "sell", "x"))
    restored.do_apply(entry(new, "box", "b"))
    restored.do_apply(entry(new, "mark", "b"))
    assert restored.do_restore(snapshot_of(old)) == 0
    for data in (entry(new, "sell", "x"), entry(new, "mark", "b"), entry(new, "sell", "x")):
        assert new.do_apply(data) == restored.do_apply(data)
    assert snapshot_of(new) == snapshot_of(restored)


def test_a_deleted_attribute_is_not_taken_for_a_new_one() -> None:
    """A restored member lacks it as well, and so does one that gets the snapshot of that."""
    one, two, three = replica_of(Shop()), replica_of(Shop()), replica_of(Shop())
    one.do_apply(entry(one, "drop"))
    assert two.do_restore(snapshot_of(one)) == 0
    assert three.do_restore(snapshot_of(two)) == 0
    data = entry(one, "has_spare")
    assert one.do_apply(data) == two.do_apply(data) == three.do_apply(data)
    assert snapshot_of(one) == snapshot_of(three)


def test_a_snapshot_is_taken_over_by_a_program_without_a_field_that_has_its_default() -> None:
    """As long as other members lack it, so that one of them can be given the state, and this one can go back."""
    old, new = replica_of(Shop()), replica_of(NewShop())
    new.do_apply(entry(new, "put", "a", NewItem("a")))
    assert old.do_restore(snapshot_of(new)) == RAFT_MALFORMED
    new.leave_out(["class Item tag"])
    assert old.do_restore(snapshot_of(new)) == 0
    assert old.machines[""].content()["items"] == {"a": OldItem("a")}
    new.do_apply(entry(new, "put", "a", NewItem("a", "tag")))
    assert old.do_restore(snapshot_of(new)) == RAFT_MALFORMED


def test_a_field_counts_when_all_members_have_it() -> None:
    """Before, a call with it is refused, and gets no entry, whoever leads; then it is executed."""

    async def scenario(cluster: Cluster[Any]) -> None:
        await cluster.until(lambda: len(cluster.nodes[1]._registry.facts) == 3)
        await cluster.stop(2)
        new = await cluster.start(2, NewShop)
        await cluster.until(
            lambda: all("class Item tag" in str(n._registry.facts[new.id].offers) for n in cluster.nodes.values())
        )
        for leader in (1, 2):
            await cluster.nodes[3].transfer(cluster.nodes[leader].id)
            with pytest.raises(CommandFailed, match="tag"):
                await new.machine.put("a", NewItem("a", "tag"))
            await new.machine.put("b", NewItem("b"))  # it has its default, which goes without saying
            assert await cluster.nodes[3].machine.find("b") == OldItem("b")
            assert await new.machine.find("b") == NewItem("b")
        for number in (1, 3):
            await cluster.stop(number)
            await cluster.start(number, NewShop)
        await cluster.until(lambda: not any(n._admission.lacking for n in cluster.nodes.values()))
        await new.machine.put("a", NewItem("a", "tag"))
        assert await cluster.nodes[1].machine.find("a") == NewItem("a", "tag")

    simulate(scenario, Shop)


class Bare(Machine):
    """A program that has no class any more."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self.spare = 1

    put = Shop.put


Bare.__name__ = "Shop"


def test_a_class_that_nobody_has_any_more_stops_a_member_until_it_is_there_again() -> None:
    """The member names class, command and entry, in the log of what happened and to those who call it."""

    async def scenario(cluster: Cluster[Any]) -> None:
        node = cluster.nodes[1]
        await node.machine.put("a", 1)
        await node.machine.put("b", OldItem("b"))
        index = node.server.raft.last_applied
        await cluster.stop(1)
        with pytest.raises(
            Exception, match=f"entry {index} of the log has a call of 'put' with a value of class 'Item'"
        ):
            await (await cluster.start(1, Bare)).ready()
        node = cluster.nodes.pop(1, node)
        await node._close()
        again = await cluster.start(1)
        assert await again.machine.find("b") == OldItem("b")

    simulate(scenario, Shop, nodes=1)


def test_a_snapshot_with_a_class_that_nobody_has_any_more_is_refused() -> None:
    """The member does not start, says which class is missing, and starts again with the code."""

    async def scenario(cluster: Cluster[Any]) -> None:
        node = cluster.nodes[1]
        await node.machine.put("b", OldItem("b"))
        await node._desk.giving.snapshot()
        await cluster.stop(1)
        with pytest.raises(
            Refused, match=r"is of another program: it has a value of class 'Item', .* start the member"
        ):
            await cluster.start(1, Bare)
        assert await (await cluster.start(1)).machine.find("b") == OldItem("b")

    simulate(scenario, Shop, nodes=1)


def _nests(cls: Any) -> Any:
    class Shop(Machine):
        types = (cls,)

        def __init__(self) -> None:
            self.item: Any = ""

        @command
        def wrap(self, times: int) -> None:
            for _ in range(times):
                self.item = cls(self.item)

    return Shop


def test_a_field_is_left_out_however_deep_its_object_is() -> None:
    """Objects in many others are written otherwise, as containers; a member without the field takes these over too."""
    old, new = replica_of(_nests(OldItem)()), replica_of(_nests(NewItem)())
    assert new.do_apply(entry(new, "wrap", 50))[0] == new.do_apply(entry(new, "wrap", 50))[0] == 0
    assert old.do_restore(snapshot_of(new)) == RAFT_MALFORMED
    new.leave_out(["class Item tag"])
    assert old.do_restore(snapshot_of(new)) == 0
    item, depth = old.machines[""].content()["item"], 0
    while item:
        item, depth = item.name, depth + 1
    assert depth == 100


def test_a_value_too_deep_to_be_packed_alone_is_no_default() -> None:
    """A command has made it by and by; the field stays, as it is not what the others would take it for."""
    new = Replica({"": _nests(NewItem)()})
    value: Any = ""
    for _ in range(100):
        value = (value,)
    new.leave_out(["class Item tag"])
    assert new.outgoing.fields_of(NewItem("a", value)) == {"name": "a", "tag": value}
    assert new.outgoing.fields_of(NewItem("a")) == {"name": "a"}
