"""The mistakes of a first machine: classes that it does not name, names that it cannot use, and state too deep."""

import enum
import logging
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NewType, Optional

import pytest

from pyraft.node import Machine, Record, command, query
from pyraft.node.codec import Codec, nests_deeper
from pyraft.node.given import check_depth
from pyraft.node.outcomes import NOTHING
from pyraft.node.replica import NO_SESSION, Replica

if TYPE_CHECKING:
    from decimal import Decimal as Unseen


@dataclass(frozen=True)
class Order:
    """An order."""

    item: str
    n: int = 1


@dataclass(frozen=True)
class Large(Order):
    """An order of another kind."""


class Color(enum.Enum):
    """A colour."""

    RED = 1


@dataclass
class Item(Record):
    """A record."""

    n: int = 0


@dataclass(frozen=True)
class Basket:
    """A dataclass with another one in it."""

    orders: tuple[Order, ...] = ()


class Words(dict[str, int]):
    """A class that travels as what it is derived from."""


OrderId = NewType("OrderId", str)
Batch = NewType("Batch", Order)


class TakesOne(Machine):
    """It does not name what it takes."""

    @command
    def take(self, order: Order) -> None:
        """Take one."""


class TakesSome(Machine):
    """It does not name what it may take, in an annotation that is a text."""

    @command
    def take(self, item: str, *, orders: "dict[str, list[Order | None]]") -> None:
        """Take some."""


class TakesAnOptional(Machine):
    """It does not name what it may take."""

    @command
    def take(self, order: Optional[Annotated[Order, "meta"]] = None, *more: Color) -> None:  # noqa: UP045
        """Take one."""


class TakesABatch(Machine):
    """It does not name what a new type stands for."""

    @command
    def take(self, order: Batch) -> None:
        """Take one."""


class TakesInVersionTwo(Machine):
    """It does not name what its newer version takes."""

    @command
    def take(self, order: str) -> None:
        """Take one."""

    @take.version(2)
    def take(self, order: Order) -> None:
        """Take one."""


class Returns(Machine):
    """It does not name what its command returns."""

    @command
    def next(self) -> Color | None:
        """Return one."""
        return None


class Answers(Machine):
    """It does not name what its query returns."""

    @query
    def all(self) -> list[Order]:
        """Return all."""
        return []


class Keeps(Machine):
    """It does not name what it keeps."""

    items: dict[str, Item]

    def __init__(self) -> None:
        self.items = {}


class Begins(Machine):
    """It does not name what it begins with."""

    def __init__(self) -> None:
        self.items = {"a": [Item(1)]}


class NamesHalf(Machine):
    """It names a class with one in it that it does not name."""

    types = (Basket,)

    @command
    def take(self, basket: Basket) -> None:
        """Take one."""


@pytest.mark.parametrize(
    ("cls", "match"),
    [
        (TakesOne, r"TakesOne.take\(\) takes as 'order' the class Order, .* class TakesOne: types = \(Order,\)"),
        (TakesSome, r"TakesSome.take\(\) takes as 'orders' the class Order, which nobody knows"),
        (TakesAnOptional, r"TakesAnOptional.take\(\) takes as 'order' the class Order, which nobody knows"),
        (TakesABatch, r"TakesABatch.take\(\) takes as 'order' the class Order, which nobody knows"),
        (TakesInVersionTwo, r"TakesInVersionTwo.take\(\) takes as 'order' the class Order, which nobody knows"),
        (Returns, r"Returns.next\(\) returns the enumeration Color, which nobody knows: .* types = \(Color,\)"),
        (Answers, r"Answers.all\(\) returns the class Order, which nobody knows"),
        (Keeps, "Keeps keeps in 'items' the class Item, which nobody knows: .* types = \\(Item,\\)"),
        (Begins, "Begins keeps a record of class Item: name it in the class Begins: types = \\(Item,\\)"),
        (NamesHalf, "Basket has in 'orders' the class Order, which nobody knows: .* NamesHalf: types = \\(Order,\\)"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_classes_that_are_not_named_are_told_at_the_start(cls: type[Machine], match: str) -> None:
    """Where annotations or the first state say that they are needed; they were told by the first call, or by none."""
    with pytest.raises(TypeError, match=match):
        Replica({"": cls()})
    named = type(cls.__name__, (cls,), {"types": (*cls.types, Order, Color, Item)})
    Replica({"": named()})


class Fine(Machine):
    """A machine that names enough."""

    types = (Large, Item)
    limits: ClassVar[Basket] = Basket()
    later: ClassVar[Basket]
    first: Basket = Basket()
    colors = Color

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}

    @command
    def take(self, order: Order, words: Words, kind: type[Color], of: Literal[Color.RED], id: OrderId) -> None:
        """Take objects of derived classes, and classes and constants in the place of objects."""

    @command
    def more(self, unseen: "Unseen", unknown: "Nowhere", base: Record, number: enum.IntEnum) -> Callable[[Color], None]:  # type: ignore[name-defined]  # noqa: F821
        """Take what nobody can look up."""
        raise NotImplementedError

    @query
    def left(self, color: Color) -> int:
        """Take what does not have to travel on a node."""
        return 0


def test_machines_that_name_enough_begin() -> None:
    """Annotations that can come true are not refused: what is derived from them is named, or nobody can know."""
    Replica({"": Fine()})


class Drawer(Machine):
    """It puts in what its annotations do not tell."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    @command
    def put(self, kind: str) -> None:
        """Put something in."""
        self.items.append({"record": Item(1), "frozen": Order("a"), "object": object()}[kind])


def execute(replica: Replica, name: str, *args: Any) -> Any:
    """Execute a command; return its result."""
    call = [NO_SESSION, 0, 0, "", name, 1, replica.codec.pack([list(args), {}])]
    (outcome,) = replica.do_apply(replica.entry(1, [call]))[1]
    return None if outcome == NOTHING else replica.result("", outcome)


def test_records_that_are_not_named_are_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The command counts, as it does on members of other versions; the log says at once what the snapshot will."""
    replica = Replica({"": Drawer()})
    with caplog.at_level(logging.ERROR, "pyraft"):
        execute(replica, "put", "record")
        execute(replica, "put", "record")
    (record,) = caplog.records
    assert "Drawer keeps a record of class Item, which it does not name" in record.getMessage()
    assert "types = (Item,)" in record.getMessage()
    machine: Any = replica.machines[""]
    assert machine.items == [Item(1), Item(1)]


def test_what_cannot_be_kept_is_told_with_its_place() -> None:
    """The attribute is named where it is one, and so is what has to be done for classes that could be kept."""
    replica = Replica({"": Drawer()})
    for kind in ("frozen", "object"):
        with pytest.raises(TypeError, match="a frozen dataclass or enumeration that its `types` name"):
            execute(replica, "put", kind)

    class Locked(Machine):
        def __init__(self) -> None:
            self.guard = object()

    with pytest.raises(
        TypeError, match=r"attribute 'guard' of .*Locked: a machine cannot keep objects of class object"
    ):
        Replica({"": Locked()})


@dataclass(frozen=True)
class Counted:
    """A field of it is not an argument."""

    item: str
    length: int = field(init=False)


@dataclass(frozen=True)
class Scaled:
    """An argument of it is not a field."""

    item: str
    factor: InitVar[int]


def machine(**body: Any) -> Machine:
    """Return a machine of a class with that body."""
    cls: type[Machine] = type("Made", (Machine,), body)
    made: Machine = cls()
    return made


def keeps(name: str) -> Machine:
    """Return a machine with an attribute."""
    made = machine()
    made.__dict__[name] = {}
    return made


any_command: Any = command
any_query: Any = query


def look(self: Any) -> int:
    """Look."""
    return 0


def named(name: str) -> Any:
    """Return a function of a name."""

    def function(self: Any) -> int:
        return 0

    function.__name__ = name
    return function


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: machine(types=Order), r"Made.types is a tuple of classes, types = \(Order,\), and not <class"),
        (lambda: machine(types="Order"), r"Made.types is a tuple of classes, .*, and not 'Order'"),
        (lambda: machine(types=Color), r"Made.types is a tuple of classes, .*, and not <enum 'Color'>"),
        (lambda: machine(types=("Order",)), r"Made.types names classes, .* 'Order' is not one"),
        (lambda: machine(types=(int,)), "int is neither a dataclass nor an Enum"),
        (lambda: machine(types=(Counted,)), "Counted must take all its fields, and no more, .* 'length'"),
        (lambda: machine(types=(Scaled,)), "Scaled must take all its fields, and no more, .* 'factor'"),
        (lambda: machine(errors=KeyError), r"Made.errors is a tuple of classes, errors = \(OutOfStock,\), and not"),
        (lambda: machine(errors=("Odd",)), "Made.errors names classes, .* 'Odd' is not one"),
        (lambda: machine(errors=(int,)), "Made.errors names exceptions, and int is not one"),
        (
            lambda: keeps("members"),
            "Made keeps its state in an attribute called 'members', which is a method of Machine",
        ),
        (lambda: keeps("snapshot"), "Made keeps its state in an attribute called 'snapshot'"),
        (lambda: machine(members=query(named("members"))), "Made has a command or query called 'members'"),
        (lambda: machine(restore=command(named("restore"))), "Made has a command or query called 'restore'"),
        (
            lambda: machine(types=(dataclass(type("Club", (Record,), {"__annotations__": {"members": list}})),)),
            "Club has a field called 'members', a method of Record",
        ),
        (lambda: any_command(named("a"), version=0), "version of a command must be a whole number from 1, .* not 0"),
        (lambda: any_command(version="2"), "version of a command must be a whole number from 1, .* not '2'"),
        (lambda: any_command(named("a")).version(named("a")), "version of a command must be a whole number from 1"),
        (
            lambda: any_command(named("a")).version(True),
            "version of a command must be a whole number from 1, .* not True",
        ),
        (lambda: any_command(staticmethod(look)), "command look is an ordinary method with self: no staticmethod"),
        (
            lambda: any_query(classmethod(look)),
            "query look is an ordinary method with self: no staticmethod or classmethod",
        ),
        (lambda: any_command(lambda: 3), "command .* is a method: its first parameter is self"),
    ],
)
def test_classes_that_cannot_be_machines(make: Callable[[], Any], match: str) -> None:
    """They are refused where the class is made, or at the start, and not by the first call or the first snapshot."""
    with pytest.raises(TypeError, match=match):
        Replica({"": make()})


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        (lambda value: [value], 64),
        (lambda value: {"a": value}, 64),
        (lambda value: (value,), 63),
        (lambda value: frozenset([value]), 63),
        (lambda value: {value: 1} if isinstance(value, int) else (value,), 64),
    ],
    ids=["list", "dict", "tuple", "frozenset", "mixed"],
)
def test_the_deepest_argument_comes_through(kind: Callable[[Any], Any], most: int) -> None:
    """Members read all that callers may send, in both forms; one level more is refused before it is sent."""
    codec = Codec()
    value: Any = 1
    for _ in range(most):
        value = kind(value)
    assert not nests_deeper([value], 64)
    assert (
        codec.arguments().unpack(codec.pack([[value], {}])) == codec.unpack(codec.pack([[value], {}])) == [[value], {}]
    )
    value = kind(value)
    with pytest.raises(ValueError, match="nested deeper than"):
        send(codec, value)


def send(codec: Codec, value: Any) -> None:
    """Pack an argument as a caller does."""
    check_depth("take", [value], {})
    codec.pack([[value], {}])


def test_wide_values_are_not_deep() -> None:
    """Each object is looked at once in a level, however often it is held."""
    value: Any = 1
    for _ in range(64):
        value = [value, value]
    assert not nests_deeper([value], 64)
    assert nests_deeper([[value]], 64)
    assert not nests_deeper(["a" * 100, 1, Color.RED, Order, list(range(1000))], 1)
    assert nests_deeper([Basket((Order("a"),))], 2)
    assert not nests_deeper([Basket((Order("a"),))], 3)
