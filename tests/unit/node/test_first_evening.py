"""The mistakes of a first evening: each is refused at once, with a sentence that says what was given and where."""

import asyncio
import datetime
import enum
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyraft.node import Machine, Node, Refused, Settings, Stopped, Tls, Unknown, command, connect, init, join, query
from pyraft.node.testing import Cluster, call, check_deterministic, simulate

ADDRESS = "127.0.0.1:1"


class Shop(Machine):
    """A stock, and what it was asked to keep."""

    def __init__(self) -> None:
        self.stock: dict[str, int] = {}
        self.kept: Any = None

    @command
    def put(self, item: str, n: int = 1) -> int:
        """Add."""
        self.stock[item] = self.stock.get(item, 0) + n
        return self.stock[item]

    @command
    def keep_it(self, value: Any) -> None:
        """Keep any value."""
        self.kept = value

    @query
    def left(self, item: Any) -> int:
        """Look."""
        return self.stock.get(item, 0)


@dataclass(frozen=True)
class Order:
    """A dataclass that no machine names."""

    item: str


class Color(enum.Enum):
    """An enumeration that no machine names."""

    RED = 1


def plain() -> int:
    """Return a number instead of a coroutine."""
    return 3


async def needs_more(node: Any) -> None:
    """Do nothing, with an argument."""


def yields() -> Iterator[int]:
    """Yield something."""
    yield 1


async def coroutine() -> int:
    """Return something."""
    return 4


def nested(depth: int, kind: Callable[[Any], Any] = lambda value: [value]) -> Any:
    """Return 1 in so many containers."""
    value: Any = 1
    for _ in range(depth):
        value = kind(value)
    return value


def holds_itself() -> list[Any]:
    """Return a list that is in itself."""
    value: list[Any] = []
    value.append(value)
    return value


CALLS: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    # Names of things.
    (lambda one: one.map(3), TypeError, "the name of a map must be a text, not 3"),
    (lambda one: one.map(""), ValueError, "a map needs a name"),
    (lambda one: one.counter(None), TypeError, "the name of a counter must be a text, not None"),
    (lambda one: one.counter(""), ValueError, "a counter needs a name"),
    (lambda one: one.set(b"seen"), TypeError, "the name of a set must be a text, not b'seen'"),
    (lambda one: one.queue(("a", "b")), TypeError, "the name of a queue must be a text"),
    (lambda one: one.lock(7), TypeError, "the name of a lock must be a text, not 7"),
    (lambda one: one.lock(""), ValueError, "a lock needs a name"),
    (lambda one: one.semaphore(7, 2), TypeError, "the name of a semaphore must be a text, not 7"),
    (lambda one: one.barrier(None, 2), TypeError, "the name of a barrier must be a text, not None"),
    (lambda one: one.session(5), TypeError, "the name of a session must be a text, not 5"),
    # Maps.
    (lambda one: one.map("m").get([1]), TypeError, r"a key of a map must be a string, not \[1\]"),
    (lambda one: one.map("m").revision({}), TypeError, r"a key of a map must be a string, not \{\}"),
    (lambda one: one.map("m").delete([1]), TypeError, r"a key of a map must be a string, not \[1\]"),
    (lambda one: one.map("m").set(1, 2), TypeError, "a key of a map must be a string, not 1"),
    (lambda one: one.map("m").set("a", object()), TypeError, r"an argument of map_set\(\) .* type object"),
    (lambda one: one.map("m").set("\ud800", 1), ValueError, r"map_set\(\) .* a text that is not Unicode.*\\ud800"),
    (lambda one: one.map("m").set("a", 1, ttl="9"), TypeError, "the ttl of a value must be a number .*, not '9'"),
    (lambda one: one.map("m").set("a", 1, ttl=0), ValueError, "the ttl of a value must be from .* seconds, not 0"),
    (
        lambda one: one.map("m").set("a", 1, ttl=datetime.timedelta(1)),
        TypeError,
        "the ttl of a value must be a number of seconds, not datetime.timedelta",
    ),
    (lambda one: one.map("m").set("a", 1, revision="0"), TypeError, "the revision .* must be a whole number, not '0'"),
    (lambda one: one.map("m").delete("a", revision=1.0), TypeError, "the revision .* must be a whole number, not 1.0"),
    (lambda one: one.map("m").items(5), TypeError, "a prefix of keys must be a text, not 5"),
    (lambda one: one.map("m").items(None), TypeError, "a prefix of keys must be a text, not None"),
    (lambda one: one.map("m").state(b"a"), TypeError, "a prefix of keys must be a text, not b'a'"),
    (lambda one: one.map("m").watch(5), TypeError, "a prefix of keys must be a text, not 5"),
    (lambda one: one.map("m").watch(after="5"), TypeError, "revision to watch from must be a whole number, not '5'"),
    # Counters, sets, queues.
    (lambda one: one.counter("n").add("1"), TypeError, "a counter counts in whole numbers, and '1' was to be added"),
    (lambda one: one.set("s").add([1]), TypeError, r"a set takes what cannot change, and not \[1\]"),
    (lambda one: one.set("s").has({}), TypeError, r"a set takes what cannot change, and not \{\}"),
    (lambda one: one.set("s").discard(([],)), TypeError, r"a set takes what cannot change, and not \(\[\],\)"),
    (lambda one: one.set("s").add(Color.RED), TypeError, r"an argument of set_add\(\) .* type Color"),
    (lambda one: one.queue("q").put(lambda: 1), TypeError, r"an argument of queue_put\(\) .* type function"),
    # Locks, semaphores and barriers.
    (lambda one: one.lock("l", ttl="9"), TypeError, "the ttl of lock 'l' must be a number of seconds, not '9'"),
    (
        lambda one: one.lock("l", ttl=0.1),
        ValueError,
        "the ttl of lock 'l' must be from 0.5 to 86400 seconds, not 0.1",
    ),
    (lambda one: one.lock("l", ttl=float("nan")), ValueError, "the ttl of lock 'l' must be from .*, not nan"),
    (lambda one: one.semaphore("s", "2"), ValueError, "places must be a whole number from 1 to 100000, not '2'"),
    (lambda one: one.semaphore("s", 0), ValueError, "places must be a whole number from 1 to 100000, not 0"),
    (lambda one: one.semaphore("s", 2, ttl=None), TypeError, "the ttl of semaphore 's' must be a number of seconds"),
    (lambda one: one.barrier("b", 2.0), ValueError, "parties must be a whole number from 1 to 100000, not 2.0"),
    (lambda one: one.barrier("b", 2, ttl="x"), TypeError, "the ttl of barrier 'b' must be a number of seconds"),
    # Elections.
    (
        lambda one: one.elect("e", plain),
        TypeError,
        r"elect\(\) takes a coroutine function .*, and plain is an ordinary",
    ),
    (lambda one: one.elect("e", coroutine()), TypeError, "and not a coroutine: give it job instead of job"),
    (lambda one: one.elect("e", 5), TypeError, r"elect\(\) takes a coroutine function .*, and not 5"),
    (lambda one: one.elect("e", yields), TypeError, "and yields is an ordinary function"),
    (lambda one: one.elect("e", functools.partial(plain)), TypeError, "is an ordinary function"),
    (lambda one: one.elect("e", needs_more), TypeError, "this one has to be given more: missing .*'node'"),
    (lambda one: one.elect(5, coroutine), TypeError, "the name of a lock must be a text, not 5"),
    # Calls.
    (lambda one: one.machine.put(Order("a")), TypeError, r"an argument of put\(\) .* type Order .* `types` name it"),
    (lambda one: one.machine.put(), TypeError, r"put\(\) missing a required argument: 'item'"),
    (lambda one: one.machine.keep_it(nested(65)), ValueError, r"an argument of keep_it\(\) is nested deeper than 64"),
    (
        lambda one: one.machine.keep_it(holds_itself()),
        ValueError,
        r"an argument of keep_it\(\) is nested deeper than 64",
    ),
    (lambda one: one.machine.keep_it("\udc00"), ValueError, r"an argument of keep_it\(\) .* not Unicode"),
    (lambda one: one.timeout("5").__enter__(), ValueError, "a timeout must be more than 0 .*, not '5'"),
    (lambda one: one.session("s", -1), ValueError, "acknowledged must be a whole number from 0, not -1"),
    (lambda one: one.session("s", "1"), ValueError, "acknowledged must be a whole number from 0, not '1'"),
    (lambda one: one.session("s").call("1", one.machine.put, "a"), ValueError, "the number of a call .*, not '1'"),
    (lambda one: one.session("s").call(1, coroutine()), TypeError, r"session.call\(1, shop.take, \"apple\"\)"),
    (lambda one: one.session("s").call(1, "put", "a"), TypeError, r"session.call\(1, shop.take, \"apple\"\)"),
    (lambda one: one.session("s").call(1, plain), TypeError, "call 1 needs a command of a machine"),
    (lambda one: one.outcome(ValueError("x")), TypeError, r"outcome\(\) takes the Unknown that a call has raised"),
    (lambda one: one.remove("1"), TypeError, "the id of a member must be a whole number"),
    (lambda one: one.replace(1, by=None), TypeError, "the id of a member must be a whole number"),
    (lambda one: one.promote(1.0), TypeError, "the id of a member must be a whole number"),
    (lambda one: one.transfer("2"), TypeError, "the id of a member must be a whole number"),
]
"""Mistakes in what nodes and clients are asked for."""

NODE_CALLS: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda node: node.read(stale="1").__enter__(), ValueError, "the age of a state must be 0 or more seconds"),
    (lambda node: node.tell(object()), TypeError, "the data of a member are plain values, .* object"),
    (lambda node: node.tell({1: 2}), ValueError, "the data of a member are plain values"),
    (lambda node: node.tell((1, 2)), TypeError, "the data of a member are plain values"),
    (lambda node: node.tell(1 << 70), ValueError, "the data of a member are plain values"),
    (lambda node: node.machine.stock.update(a=1), RuntimeError, "changes only in its commands"),
    (lambda node: node.machine.now, RuntimeError, "only a command has a shared time"),
    (lambda node: node.__aenter__(), RuntimeError, "a node is started once"),
    (lambda node: Node("data", node.machine), RuntimeError, "this Shop belongs to a node already"),
]
"""Mistakes in what nodes are asked for."""


async def made(mistake: Callable[[Any], Any], one: Any) -> None:
    """Make a mistake, and wait for what it comes to."""
    result = mistake(one)
    if inspect.isawaitable(result):
        await asyncio.wait_for(result, 60)  # of virtual time


async def check(one: Any, mistakes: list[tuple[Callable[[Any], Any], type[Exception], str]]) -> None:
    """Make mistakes; each has to be told, and nothing but it."""
    for mistake, error, match in mistakes:
        with pytest.raises(error, match=match) as caught:
            await made(mistake, one)
        assert type(caught.value) is error, inspect.getsource(mistake)


def test_mistakes_on_nodes_and_clients() -> None:
    """Those in arguments of all that nodes and clients have are refused, and nothing of them gets into the log."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        node = await cluster.lead()
        await cluster.until(lambda: len(node._registry.facts) == 3)
        async with cluster.client() as client:
            index = node.server.raft.last_applied
            await check(node, CALLS)
            await check(node, NODE_CALLS)
            await check(client, CALLS)
            assert node.server.raft.last_applied == index
            assert client.machine.stock == node.machine.stock == {}

    simulate(scenario, Shop)


def test_a_job_without_a_coroutine_is_told_when_it_is_called() -> None:
    """Of a lambda nobody knows before; the lock behind the election is free again at once."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        node = await cluster.lead()
        with pytest.raises(TypeError, match="a function that returns a coroutine, and this one has returned 3"):
            await node.elect("e", lambda: 3)  # type: ignore[arg-type, return-value]
        assert await asyncio.wait_for(node.elect("e", coroutine), 1) == 4

    simulate(scenario, Shop)


class Job:
    """A job of each other kind."""

    async def method(self) -> int:
        """Return something."""
        return 4

    async def __call__(self) -> int:
        """Return something."""
        return 4


def returns_one() -> Coroutine[Any, Any, int]:
    """Return a coroutine, as the annotation says."""
    return coroutine()


@functools.wraps(coroutine)
def wrapped() -> Any:
    """Be an ordinary function that stands for a coroutine function."""
    return coroutine()


def test_all_that_makes_a_coroutine_is_a_job() -> None:
    """Elections go on taking it: methods, partial ones, lambdas, objects, and functions that say so."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        node = await cluster.lead()
        jobs: list[Any] = [coroutine, Job().method, Job(), lambda: coroutine(), returns_one, wrapped]
        jobs += [functools.partial(Job.method, Job()), functools.partial(functools.partial(coroutine))]
        for job in jobs:
            assert await node.elect("e", job) == 4

    simulate(scenario, Shop)


def test_nothing_can_be_asked_of_what_is_not_open() -> None:
    """Before and after `async with` nodes and clients say so, whatever they are asked for."""
    asked: list[Callable[[Any], Any]] = [
        lambda one: one.session("s"),
        lambda one: one.outcome(Unknown("x")),
        lambda one: one.members(),
        lambda one: one.remove(1),
        lambda one: one.ready(),
        lambda one: one.staleness,
        lambda one: one.tell(1),
        lambda one: one.is_leader,
        lambda one: one.id,
    ]
    calls: list[Callable[[Any], Any]] = [
        lambda one: one.machine.put("a"),
        lambda one: one.machine.left("a"),
        lambda one: one.map("m").set("a", 1),
        lambda one: one.counter("n").get(),
        lambda one: one.elect("e", coroutine),
    ]

    async def scenario(cluster: Cluster[Shop]) -> None:
        node, client = Node("member1", Shop()), cluster.client()
        for one, questions in ((node, asked), (client, asked[:4])):
            for question in questions:
                with pytest.raises(Stopped, match=r"is not (started|open yet)"):
                    await made(question, one)
            for question in calls:
                with pytest.raises(RuntimeError, match="belongs to no node or client that is open: call it inside"):
                    await made(question, one)
        async with client:
            pass
        for question in asked[:4]:
            with pytest.raises(Stopped, match="the client is closed"):
                await made(question, client)

    simulate(scenario, Shop)


def test_one_object_of_a_lock_is_one_holder() -> None:
    """Two tasks that share it, as they would share asyncio's, were both told to have it."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        node = await cluster.lead()
        for shared in (node.lock("l"), node.semaphore("s", 1)):
            other = node.lock("l") if shared.name == "l" else node.semaphore("s", 1)
            async with other:
                first = asyncio.ensure_future(shared.acquire())
                await asyncio.sleep(1)  # of virtual time: it waits
                with pytest.raises(RuntimeError, match=r"this object waits for .* already: one object is one holder"):
                    await shared.acquire()
                first.cancel()
                await asyncio.wait([first])
                second = asyncio.ensure_future(shared.acquire())
            await second
            with pytest.raises(RuntimeError, match="this object holds"):
                await shared.acquire()
            await shared.release()
            async with shared:
                pass

    simulate(scenario, Shop)


def test_long_names_of_nodes_and_clients_are_no_hindrance() -> None:
    """The session's is a short one: with a longer one it was never open, and the first call went on for ever."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        node = Node("member1", Shop(), name="x" * 256)
        await cluster.stop(1)
        node.outside = cluster.places[1]
        async with node:
            assert await asyncio.wait_for(node.machine.put("apple"), 60) == 1
            await node.ready()
            assert max(len(session.name) for session in node._replica.sessions.sessions.values()) == 64
        addresses = [place.address for number, place in cluster.places.items() if number]
        client = connect(addresses, Shop(), name="y" * 100)
        client.outside = cluster.places[0]
        async with client:
            assert await asyncio.wait_for(client.machine.put("apple"), 60) == 2

    simulate(scenario, Shop)


def test_mistakes_where_nodes_and_clients_are_made(tmp_path: Path) -> None:
    """They are told before anything begins."""
    wrong: Any = connect
    make: Any = Node
    for mistake, error, match in [
        (lambda: wrong([ADDRESS]), TypeError, "missing 1 required positional argument: 'machine'"),
        (
            lambda: wrong([ADDRESS], None),
            TypeError,
            r"None is not an instance of a .* Machine\(\) does for recipes alone",
        ),
        (lambda: wrong([ADDRESS], Shop), TypeError, r"class .*Shop.* is not an instance .*, which Shop\(\) makes"),
        (
            lambda: wrong([ADDRESS], {}),
            TypeError,
            r"\{\} is not an instance of a subclass of Machine; Machine\(\) does",
        ),
        (lambda: wrong(ADDRESS, Shop()), ValueError, "addresses are a list of HOST:PORT"),
        (lambda: wrong(5, Shop()), ValueError, "addresses are a list of HOST:PORT"),
        (lambda: wrong(None, Shop()), ValueError, "addresses are a list of HOST:PORT"),
        (lambda: wrong([("127.0.0.1", 1)], Shop()), ValueError, "is not an address: HOST:PORT, a string"),
        (lambda: wrong([ADDRESS], Shop(), name=5), TypeError, "the name of a client must be a text, not 5"),
        (lambda: wrong([ADDRESS], Shop(), settings={"a": 1}), TypeError, r"settings are an object of Settings, .*'a'"),
        (lambda: wrong([ADDRESS], Shop(), tls="cert"), TypeError, r"tls is an object of Tls, .* and not 'cert'"),
        (lambda: make(3, Shop()), TypeError, "the directory of a member must be a text or a path, not 3"),
        (lambda: make(None, Shop()), TypeError, "the directory of a member must be a text or a path, not None"),
        (lambda: make("d", Shop), TypeError, r"which Shop\(\) makes"),
        (lambda: make("d", Shop(), settings=3), TypeError, "settings are an object of Settings, .* and not 3"),
        (lambda: make("d", Shop(), tls=True), TypeError, "tls is an object of Tls, .* and not True"),
        (lambda: make("d", Shop(), name=5), ValueError, "name and version of a member are texts .* 5"),
        (lambda: make("d", Shop(), version=1.2), ValueError, "name and version of a member are texts .* 1.2"),
        (lambda: make("d", Shop(), data=object()), TypeError, "the data of a member are plain values"),
        (lambda: make("d", Shop(), data=nested(2000)), ValueError, "the data of a member are plain values"),
        (lambda: Tls(3, "key", "ca"), TypeError, "cert of Tls must be the path of a file, not 3"),  # type: ignore[arg-type]
        (lambda: Tls("c", "k", None), TypeError, "ca of Tls must be the path of a file, not None"),  # type: ignore[arg-type]
        (lambda: Settings(timeout_seconds="3"), ValueError, "timeout_seconds must be"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(error, match=match):
            mistake()

    async def begin() -> None:
        any_init: Any = init
        any_join: Any = join
        for made, error, match in [
            (any_init(3, ADDRESS), TypeError, "the directory of a member must be a text or a path, not 3"),
            (any_init(tmp_path / "1", 9001), Refused, "9001 is not an address: HOST:PORT, a string"),
            (any_join(None, ADDRESS, ADDRESS), TypeError, "directory of a member must be a text or a path, not None"),
            (any_join(tmp_path / "1", ADDRESS, [ADDRESS]), Refused, "is not an address"),
            (
                any_join(tmp_path / "1", ADDRESS, ADDRESS, timeout_seconds="3"),
                TypeError,
                "timeout_seconds must be a number",
            ),
            (any_join(tmp_path / "1", ADDRESS, ADDRESS, timeout_seconds=0), ValueError, "timeout_seconds must be from"),
            (any_join(tmp_path / "1", ADDRESS, ADDRESS, tls="ca"), TypeError, "tls is an object of Tls"),
        ]:
            with pytest.raises(error, match=match):
                await made
        assert not any((tmp_path / "1").glob("*"))

    asyncio.run(begin())


def test_mistakes_in_tests_of_programs() -> None:
    """Functions that simulate and compare machines take their class, or a function, and names of commands."""

    async def scenario(cluster: Any) -> None:
        """Do nothing."""

    any_simulate: Any = simulate
    any_check: Any = check_deterministic
    any_call: Any = call
    for mistake, error, match in [
        (lambda: any_simulate(scenario, Shop()), TypeError, r"simulate\(\) takes what makes a machine, as its class"),
        (lambda: any_simulate(Shop, scenario), TypeError, "takes a coroutine function, .* and not <class"),
        (lambda: any_simulate(scenario(None), Shop), TypeError, "takes a coroutine function, .* and not <coroutine"),
        (lambda: any_simulate(lambda cluster: 3, Shop), TypeError, "takes a coroutine function, and .* has returned 3"),
        (lambda: any_simulate(scenario, Shop, nodes="3"), ValueError, "a whole number from 1, not '3'"),
        (lambda: any_check(Shop(), []), TypeError, "takes what makes a machine, as its class"),
        (lambda: any_check(Shop, ["put"]), TypeError, r"commands are made by call\(.*, and this one is 'put'"),
        (lambda: any_call(Shop.put, "a"), TypeError, "a command is called by its name"),
    ]:
        with pytest.raises(error, match=match):
            mistake()
