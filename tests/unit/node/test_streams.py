"""Snapshots of replicas in pieces and in threads: how they are written, read ahead, restored, and what they replace."""

import gc
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pyraft import RaftIo, RaftSnapshot
from pyraft.node.codec import Codec
from pyraft.node.machine import Machine, command
from pyraft.node.replica import NO_SESSION, SESSIONS, Replica
from pyraft.node.streams import Streams, dismantle
from pyraft.node.tracked import Record


@dataclass
class Item(Record):
    """A record in a machine."""

    names: list[str] = field(default_factory=lambda: ["a", "b"])


class Shelf(Machine):
    """A machine with a container of each kind."""

    types = (Item,)

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.deep: dict[str, Any] = {"items": {}, "list": [[1], [2]], "queue": deque([1, 2]), "set": {1, 2}}
        self.names: list[str] = []

    @command
    def fill(self, n: int) -> None:
        """Put in as many numbers, and a few records."""
        self.numbers.update({i: i for i in range(n)})
        self.deep["items"].update({i: Item() for i in range(3)})
        self.names.append("filled")

    @command
    def spoil(self) -> None:
        """Change everything."""
        self.numbers.clear()
        self.deep.clear()
        self.names.clear()


class Lines(Machine):
    """A machine whose snapshot is a stream of its own."""

    def __init__(self) -> None:
        self.count = 0
        self.restored: list[bytes] = []
        self.taken = 0

    def snapshot(self) -> Iterable[bytes]:
        """Yield a piece for each."""
        return self._lines(self.count)

    def _lines(self, count: int) -> Iterator[bytes]:
        for n in range(count):
            yield b"line %d" % n

    def restore(self, pieces: Iterable[bytes]) -> None:
        """Take the pieces one by one."""
        assert iter(pieces) is pieces  # no list of all
        self.__dict__["restored"] = list(pieces)


class Io:
    """The part of an I/O that snapshots go through: puts are noted, work is done when `turn` is called."""

    def __init__(self, replica: Replica) -> None:
        self.io = RaftIo()
        self.puts: list[tuple[int, RaftSnapshot, Callable[[int], None]]] = []
        self.work: list[Callable[[], None]] = []
        self.refuses = False
        self.io.snapshot_put = self._put
        self.io.async_work = self._work
        self.streams = Streams(replica, self.io)

    def _put(self, io: RaftIo, trailing: int, req: Any, snapshot: RaftSnapshot, cb: Any) -> int:
        self.puts.append((trailing, snapshot, lambda status: cb(req, status)))
        return 0

    def _work(self, io: RaftIo, req: Any, cb: Any) -> int:
        if self.refuses:
            return 1
        self.work.append(lambda: cb(req, req.work(req)))
        return 0

    def put(self, trailing: int, bufs: list[Any], done: Callable[[int], None]) -> RaftSnapshot:
        """Put a snapshot as the core does."""
        snapshot = RaftSnapshot()
        snapshot.bufs = bufs
        self.io.snapshot_put(self.io, trailing, None, snapshot, lambda req, status: done(status))  # type: ignore[arg-type]
        return snapshot

    def turn(self) -> None:
        """Do the work that waits."""
        work, self.work = self.work, []
        for one in work:
            one()


def replica_of(*commands: tuple[str, Any]) -> Replica:
    """Return a replica that has executed commands."""
    replica = Replica({"": Shelf(), "lines": Lines()})
    for n, (name, args) in enumerate(commands, 1):
        replica.do_apply(replica.entry(n, [[NO_SESSION, 0, 0, "", name, 1, replica.codec.pack([args, {}])]]))
    return replica


def taken(replica: Replica) -> bytes:
    """Return a snapshot as a whole."""
    _, head = replica.do_snapshot()
    _, pieces = replica.do_snapshot_async(head)
    replica.do_snapshot_finalize(head)
    return b"".join(pieces)


def test_a_snapshot_is_encoded_while_it_is_written() -> None:
    """The core gets the head only; the pieces are those of the moment when it was taken, made one after the other."""
    replica = replica_of(("fill", [5000]))
    replica.machines["lines"].__dict__["count"] = 3
    whole = taken(replica)
    io = Io(replica)
    assert replica.snapshot_async is None
    rv, head = replica.do_snapshot()
    assert (rv, len(head)) == (0, 1)
    snapshot = io.put(7, head, lambda status: None)
    (trailing, given, _) = io.puts[0]
    assert (trailing, given) == (7, snapshot)
    pieces = iter(snapshot.bufs)
    first = [next(pieces), next(pieces)]
    replica.do_apply(replica.entry(9, [[NO_SESSION, 0, 0, "", "spoil", 1, replica.codec.pack([[], {}])]]))
    rest = [bytes(piece) for piece in pieces]
    assert max(map(len, rest)) < 20_000
    assert b"".join([bytes(piece) for piece in first] + rest) == whole
    assert replica.do_snapshot_finalize(head) == 0


def test_a_state_that_cannot_be_encoded_is_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """The exception reaches the I/O, which leaves nothing, and the log, once; the next snapshot has the state."""
    replica = replica_of()
    replica.machines["lines"].__dict__["count"] = "many"
    io = Io(replica)
    for _ in range(2):
        _, head = replica.do_snapshot()
        snapshot = io.put(1, head, lambda status: None)
        with pytest.raises(TypeError):
            list(snapshot.bufs)
        assert replica.do_snapshot_finalize(head) == 0
    assert len(caplog.records) == 1
    replica.machines["lines"].__dict__["count"] = 3
    assert taken(replica)


def test_a_snapshot_of_a_leader_is_read_before_the_core_hears_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is behind the put, in a thread; all that the core has restored then is not read again."""
    source = replica_of(("fill", [2000]))
    source.machines["lines"].__dict__["count"] = 5
    data = taken(source)
    replica = replica_of(("fill", [3]))
    io = Io(replica)
    ended: list[int] = []

    def done(status: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Replica, "_read", None)
            assert replica.do_restore(data) == 0
        ended.append(status)

    io.put(0, [data], done)
    io.puts[0][2](0)
    assert ended == []
    io.turn()
    assert ended == [0]
    assert taken(replica)[:40] == data[:40]
    lines: Any = replica.machines["lines"]
    assert lines.restored == [b"line %d" % n for n in range(5)]
    shelf: Any = replica.machines[""]
    assert shelf.numbers == {i: i for i in range(2000)}
    assert replica._prepared == (None, None)


@pytest.mark.parametrize("why", ["failed", "no thread", "no snapshot"])
def test_without_reading_ahead_the_core_is_told_all_the_same(why: str) -> None:
    """A put that fails is not read; without a thread, and for other bytes, the replica reads when it is asked to."""
    data = b"none" if why == "no snapshot" else taken(replica_of(("fill", [10])))
    replica = replica_of()
    io = Io(replica)
    io.refuses = why == "no thread"
    ended: list[tuple[int, int]] = []
    io.put(0, [data], lambda status: ended.append((status, replica.do_restore(data))))
    io.puts[0][2](18 if why == "failed" else 0)
    io.turn()
    assert [status for status, _ in ended] == [18 if why == "failed" else 0]
    assert (ended[0][1] != 0) is (why == "no snapshot")


def test_pieces_of_an_own_snapshot_that_end_too_early_change_nothing() -> None:
    """They are looked through before anything is restored."""
    source = replica_of(("fill", [10]))
    source.machines["lines"].__dict__["count"] = 2
    data = taken(source)
    replica = replica_of(("fill", [1]))
    codec = Codec()
    assert data.endswith(codec.pack(None))
    for bad in (data[:-1], data[:-1] + codec.pack(7), data[:-5]):
        assert replica.do_restore(bad) != 0
        shelf: Any = replica.machines[""]
        assert list(shelf.numbers) == [0]


def test_a_state_that_is_replaced_is_taken_apart_member_by_member() -> None:
    """A thread does that; all that somebody else still has stays as it is."""
    replica = replica_of(("fill", [100]))
    shelf: Any = replica.machines[""]
    kept = shelf.names
    gone = [weakref.ref(item) for item in shelf.deep["items"].values()]
    numbers = shelf.numbers
    del shelf
    io = Io(replica)
    assert replica.do_restore(taken(replica_of(("fill", [1])))) == 0
    del numbers
    gc.collect()
    assert all(ref() is not None for ref in gone)
    io.turn()
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    assert kept == ["filled"]


def test_taking_apart_empties_all_kinds() -> None:
    """Dicts, lists, sets, deques and records."""
    replica = replica_of(("fill", [100]))
    content = replica.machines[""].content()
    for name in content:
        del replica.machines[""].__dict__[name]
    deep = content["deep"]
    parts = [deep[name] for name in ("items", "list", "queue", "set")]
    assert all(parts)
    del deep
    dismantle({"parts": content.pop("deep")})
    assert [len(part) for part in parts] == [3, 2, 2, 2]  # as these are held here
    dismantle(content)
    assert content == {}


@pytest.mark.parametrize("large", [0, 4096])
def test_sessions_go_on_while_they_are_written(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls, acknowledgements and new sessions under a snapshot change nothing of it."""
    monkeypatch.setattr("pyraft.node.journal.LARGE", large)
    monkeypatch.setattr("pyraft.node.snapshot.PIECE", 2)
    replica = replica_of()
    time = 100

    def do(session: bytes, number: int, acknowledged: int, machine: str, name: str, *args: Any) -> None:
        nonlocal time
        time += 1
        arguments = replica.codec.pack([list(args), {}])
        call = [session, number, acknowledged, machine, name, 1, arguments]
        assert replica.do_apply(replica.entry(time, [call]))[0] == 0

    for n in range(5):
        do(NO_SESSION, 0, 0, SESSIONS, "open", b"session %d" % n, "")
        for number in range(1, 8):
            do(b"session %d" % n, number, 0, "", "fill", number)
    whole = taken(replica)
    _, head = replica.do_snapshot()
    pieces = [*head]
    for n, piece in enumerate(replica.pieces(), 1):
        pieces.append(piece)
        do(b"session %d" % (n % 5), 7 + n, n % 9, "", "fill", n)
        do(NO_SESSION, 0, 0, SESSIONS, "open", b"new %d" % n, "")
    replica.do_snapshot_finalize(head)
    assert b"".join(pieces) == whole
