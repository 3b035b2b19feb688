"""Programs whose commands have other parameters in the same version: members come to the same, or one says why not."""

import enum
from dataclasses import dataclass
from typing import Any

import pytest

from pyraft.node import CommandFailed, Machine, Stopped, command
from pyraft.node import signatures as tested
from pyraft.node.codec import Codec
from pyraft.node.errors import Foreign
from pyraft.node.registry import REGISTRY, Registry
from pyraft.node.replica import NO_SESSION, SESSIONS, Replica
from pyraft.node.testing import Cluster, simulate


class Base(Machine):
    """The state of all versions."""

    def __init__(self) -> None:
        self.calls: list[Any] = []


class Shop(Base):
    """The first version of a program."""

    @command
    def take(self, item: str, n: int = 1) -> int:
        """Note what has come."""
        self.calls.append([item, n])
        return n


class Defaulted(Base):
    """Another default."""

    @command
    def take(self, item: str, n: int = 2) -> int:
        """Note what has come."""
        self.calls.append([item, n])
        return n


class More(Base):
    """One more parameter, with a default."""

    @command
    def take(self, item: str, n: int = 1, *, gift: bool = False) -> int:
        """Note what has come."""
        self.calls.append([item, n, "gift"] if gift else [item, n])
        return n


class Fewer(Base):
    """A parameter is gone."""

    @command
    def take(self, item: str) -> int:
        """Note what has come."""
        self.calls.append([item, 1])
        return 1


class Renamed(Base):
    """A parameter has another name."""

    @command
    def take(self, article: str, n: int = 1) -> int:
        """Note what has come."""
        self.calls.append([article, n])
        return n


class Turned(Base):
    """The parameters come in another order."""

    @command
    def take(self, n: int = 7, item: str = "") -> int:
        """Note what has come."""
        self.calls.append([item, n])
        return n


class Wanting(Base):
    """One more parameter, without a default."""

    @command
    def take(self, item: str, n: int = 1, *, by: str) -> int:
        """Note what has come."""
        self.calls.append([item, n, by])
        return n


class Loose(Base):
    """Takes everything."""

    @command
    def take(self, /, *items: str, **rest: Any) -> int:
        """Note what has come."""
        self.calls.append([*items, *rest.values()])
        return int(rest["n"])


for _program in (Defaulted, More, Fewer, Renamed, Turned, Wanting, Loose):
    _program.__name__ = Shop.__name__  # snapshots have the name


def replica_of(machine: Machine) -> Replica:
    """Return a replica with a registry."""
    return Replica({"": machine, REGISTRY: Registry()})


class Log:
    """Entries of a log, which several programs execute."""

    def __init__(self) -> None:
        self._replica = replica_of(Shop())
        self._number = 0
        self.entries = [self._entry(NO_SESSION, SESSIONS, "open", [b"s"], {})]

    def _entry(self, session: bytes, machine: str, name: str, args: list[Any], kwargs: dict[str, Any]) -> bytes:
        self._number += 1
        call = [session, self._number, 0, machine, name, 1, self._replica.codec.pack([args, kwargs])]
        return self._replica.entry(self._number, [call])

    def tell(self, id: int, machine: Machine, *offers: Any) -> None:
        """Add what a member with a program tells, or something else."""
        offers = offers or tuple(replica_of(machine).parameters.texts.values())
        self.entries.append(self._entry(NO_SESSION, REGISTRY, "tell", [id, "", "", b"", list(offers)], {}))

    def take(self, *args: Any, **kwargs: Any) -> None:
        """Add a call."""
        self.entries.append(self._entry(b"s", "", "take", list(args), kwargs))

    def outcomes(self, machine: Machine) -> list[bytes]:
        """Have a program execute all; return the outcomes."""
        replica = replica_of(machine)
        return [replica.do_apply(entry)[1][0] for entry in self.entries]


def made(machine: Machine, log: Log) -> list[Any]:
    """Return the calls that a program has taken from a log."""
    log.outcomes(machine)
    found: list[Any] = machine.content()["calls"]
    return found


@pytest.mark.parametrize("program", [Defaulted, More, Fewer, Renamed, Turned])
def test_a_log_of_a_former_program_means_what_it_meant(program: type[Base]) -> None:
    """Defaults are those that its calls were made with; a parameter that is gone had its default."""
    log = Log()
    log.tell(1, Shop())
    log.take("apple")
    log.take("apple", 1)
    assert made(program(), log) == made(Shop(), log) == [["apple", 1]] * 2
    assert log.outcomes(program()) == log.outcomes(Shop())


def test_a_snapshot_has_the_parameters_too() -> None:
    """A member that begins with it executes the entries behind it as the others."""
    log = Log()
    log.tell(1, Shop())
    former, restored = replica_of(Shop()), replica_of(Defaulted())
    for entry in log.entries:
        former.do_apply(entry)
    _, head = former.do_snapshot()
    _, pieces = former.do_snapshot_async(head)
    former.do_snapshot_finalize(head)
    assert restored.do_restore(b"".join(pieces)) == 0
    log.take("apple")
    assert former.do_apply(log.entries[-1]) == restored.do_apply(log.entries[-1])


def test_names_and_places_of_arguments_are_those_of_the_entry() -> None:
    """They find their parameters where these have other places, and other kinds, by now."""
    log = Log()
    log.tell(1, Shop())
    log.take("apple", 3)
    log.take(n=4, item="pear")
    log.take("plum", n=5)
    for program in (Shop, Defaulted, More, Renamed, Turned):
        assert made(program(), log) == [["apple", 3], ["pear", 4], ["plum", 5]]
    assert made(Loose(), log) == [["apple", 3], ["pear", 4], ["plum", 5]]


@pytest.mark.parametrize(
    ("program", "arguments", "match"),
    [
        (Fewer, ["apple", 3], r"'take' with the argument 'n', which this program's take\(\) does not take"),
        (Wanting, ["apple"], r"'take' with nothing for 'by', which this program's take\(\) needs"),
    ],
)
def test_a_call_that_a_program_cannot_take_stops_it(
    program: type[Base], arguments: tuple[Any, ...], match: str
) -> None:
    """It would come to something else than the others; with the code it goes on."""
    log = Log()
    log.tell(1, Shop())
    log.take(*arguments)
    with pytest.raises(Foreign, match=match + ".*; start this server again with code that has it"):
        log.outcomes(program())
    assert log.outcomes(Shop())


def test_arguments_of_no_use_fail_the_same_everywhere() -> None:
    """So do those that fit this program's function, and not the parameters in force."""
    log = Log()
    log.tell(1, Shop())
    log.take("apple", gift=True)
    log.take()
    log.take("apple", 1, 2)
    expected = log.outcomes(Shop())
    for program in (Defaulted, More, Fewer, Renamed, Turned, Wanting, Loose):
        assert log.outcomes(program()) == expected
    assert all(b"the arguments do not fit take()" in outcome for outcome in expected[2:])


def test_the_member_that_told_first_says_what_is_in_force() -> None:
    """Later ones change nothing, until it tells anew, or is forgotten."""
    log = Log()
    log.tell(1, Shop())
    log.tell(2, Defaulted())
    log.tell(3, Defaulted())
    log.take("apple")
    log.tell(1, Defaulted())
    log.take("apple")
    for program in (Shop, Defaulted):
        assert made(program(), log) == [["apple", 1], ["apple", 2]]


def test_nonsense_that_a_member_tells_changes_nothing() -> None:
    """A text that cannot be read leaves a function as it is, and gives no errors."""
    texts: list[Any] = ["signature", "signature  take 1 zz", "signature  take 1 ", "signature  take 1 91c0", 5, None]
    texts += [f"signature  take 1 {Codec().pack(one).hex()}" for one in ([1], [["a", 9, None]], [["1", 1, None]], 5)]
    for text in texts:
        log = Log()
        log.tell(1, Shop(), text)
        log.take("apple")
        assert made(Defaulted(), log) == [["apple", 2]]
        assert tested.describe(str(text), Codec())


class Kind(enum.Enum):
    """A default that has to be named."""

    ONE = 1


@dataclass(frozen=True)
class Order:
    """The same."""

    n: int = 1


class Odd(Machine):
    """Defaults of many kinds."""

    types = (Kind, Order)

    @command
    def all(
        self, a: int, /, b: Any = Kind.ONE, *c: int, d: Any = Order(2), e: Any = object, f: Any = "x" * 300, **g: int
    ) -> list[Any]:
        """Return the arguments."""
        return [a, b, c, d, e is object, f, g]


def test_parameters_are_told_as_they_are_written() -> None:
    """All kinds have a place in the text, and those defaults that can travel their values."""
    replica = Replica({"": Odd()})
    (text,) = replica.parameters.texts.values()
    shown = tested.describe(text, replica.codec)
    assert shown == "(a, /, b=<Kind.ONE: 1>, *c, d=Order(n=2), e=…, f=…, **g)"
    function = tested.adapted(vars(Odd)["all"].versions[1], "all", text, replica.codec)
    assert function(replica.machines[""], 1) == [1, Kind.ONE, (), Order(2), True, "x" * 300, {}]
    assert function(replica.machines[""], 1, 2, 3, d=4, x=5)[:4] == [1, 2, (3,), 4]


def test_an_object_with_a_new_field_is_the_same_default() -> None:
    """The field has its default on all members; a rolling upgrade would be refused without."""

    def text_of(cls: Any) -> list[str]:
        two = cls(2)

        class Program(Machine):
            types = (cls,)

            @command
            def take(self, order: Any = two) -> None:
                pass

        return list(Replica({"": Program()}).parameters.texts.values())

    former = Order

    @dataclass(frozen=True)
    class Newer:
        n: int = 1
        tag: str = ""

    Newer.__name__ = former.__name__
    assert text_of(former) == text_of(Newer)


def test_a_rolling_upgrade_with_other_parameters_is_refused_until_it_is_over() -> None:
    """Neither member executes such a call; the error says which member and what helps; then the new one counts."""

    async def scenario(cluster: Cluster[Any]) -> None:
        await cluster.until(lambda: all(len(node._registry.facts) == 3 for node in cluster.nodes.values()))
        assert await cluster.nodes[1].machine.take("apple") == 1
        for number in (2, 1):
            await cluster.stop(number)
            await (await cluster.start(number, Defaulted)).ready()
            for leader in (3, 2):
                await cluster.nodes[3].transfer(cluster.nodes[leader].id)
                for node in cluster.nodes.values():
                    with pytest.raises(CommandFailed, match=r"take in version 1 has other .*n=.*@take\.version\(2\)"):
                        await node.machine.take("apple")
        await cluster.stop(3)
        await (await cluster.start(3, Defaulted)).ready()
        assert await cluster.nodes[3].machine.take("apple") == 2
        assert await cluster.nodes[1].machine.take("apple", n=5) == 5

    simulate(scenario, Shop)


def test_a_leader_tells_its_parameters_ahead_of_its_first_call() -> None:
    """A member that is started again with another default would make of the first calls something else."""

    async def scenario(cluster: Cluster[Any]) -> None:
        node = cluster.nodes[1]
        assert await node.machine.take("apple") == 1  # before it has told by itself
        await cluster.stop(1)
        again = await cluster.start(1, Defaulted)
        assert await again.machine.take("pear") == 2
        assert again.machine.content()["calls"] == [["apple", 1], ["pear", 2]]

    simulate(scenario, Shop, nodes=1)


def test_a_member_whose_program_cannot_take_a_call_says_so() -> None:
    """It stops with command and parameter, and goes on with the code."""

    async def scenario(cluster: Cluster[Any]) -> None:
        await cluster.until(lambda: all(len(node._registry.facts) == 3 for node in cluster.nodes.values()))
        await cluster.stop(2)
        await cluster.nodes[1].machine.take("apple", 3)
        old = await cluster.start(2, Fewer)
        await cluster.until(lambda: old._cause is not None)
        with pytest.raises(Stopped, match=r"'take' with the argument 'n'"):
            await old.machine.take("apple")
        await cluster.stop(2)

    simulate(scenario, Shop)
