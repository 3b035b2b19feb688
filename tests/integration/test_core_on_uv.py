"""The public API on real disks and sockets, all servers on one loop: misuse, coalescing, code that raises, restart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import raft_uv_close
from io_uv.pyuv import Loop
from pyraft import (
    RAFT_BUSY,
    RAFT_CANTBOOTSTRAP,
    RAFT_INVALID,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_NOTLEADER,
    RAFT_SHUTDOWN,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftConfiguration,
    RaftTransfer,
    raft_apply,
    raft_bootstrap,
    raft_close,
    raft_configuration_add,
    raft_errmsg,
    raft_init,
    raft_last_applied,
    raft_last_index,
    raft_set_election_timeout,
    raft_start,
    raft_transfer,
)
from tests.lib.uvnode import Node, free_addresses, leader_of, make_nodes, settled, unsettle
from tests.lib.uvtest import run_until

PAYLOAD = (7).to_bytes(8, "little")


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop that is closed at the end."""
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def alone(loop: Loop, tmp_path: Path) -> Iterator[Node]:
    """A cluster of one, which leads."""
    (node,) = make_nodes(tmp_path, 1, loop)
    assert node.state == RAFT_LEADER
    yield node
    node.close()


@pytest.fixture
def three(loop: Loop, tmp_path: Path) -> Iterator[list[Node]]:
    """A cluster of three whose leader has a command applied by all."""
    nodes = make_nodes(tmp_path, 3, loop)
    leader = settled(nodes)
    assert leader.try_apply(1) == 0
    run_until(loop, lambda: all(raft_last_applied(n.raft) == raft_last_index(leader.raft) for n in nodes))
    yield nodes
    for node in nodes:
        node.close()


def count(node: Node, name: str) -> list[tuple[Any, ...]]:
    """Record the arguments of a function of the node's I/O table from now on."""
    real = getattr(node.io, name)
    seen: list[tuple[Any, ...]] = []

    def noting(io: Any, *args: Any) -> Any:
        seen.append(args)
        return real(io, *args)

    setattr(node.io, name, noting)
    return seen


@pytest.mark.parametrize("length", [1, 7, 9, 63])
def test_unaligned_command_is_refused(alone: Node, length: int) -> None:
    """raft_uv stores multiples of 8 bytes: anything else is RAFT_INVALID at once, with a text, and leaves no trace."""
    last = raft_last_index(alone.raft)
    assert alone.try_apply(5) == 0
    for bufs in ([bytes(length)], [PAYLOAD, bytes(length)]):
        assert raft_apply(alone.raft, RaftApply(), bufs, len(bufs), None) == RAFT_INVALID
        assert raft_errmsg(alone.raft) == "io: entry buffers must be 8-byte aligned"
    assert raft_last_index(alone.raft) == last + 1
    assert alone.try_apply(6) == 0
    assert alone.fsm.numbers == [5, 6]


def test_empty_command_is_an_entry(alone: Node) -> None:
    """A payload of no bytes is a multiple of 8."""
    done: list[int] = []
    assert raft_apply(alone.raft, RaftApply(), [b""], 1, lambda req, status, result: done.append(status)) == 0
    run_until(alone.loop, lambda: done)
    assert done == [0]


def test_misuse_of_the_calls_around_a_start(loop: Loop, tmp_path: Path) -> None:
    """Those that come too early, twice or too late return codes, and the server is not disturbed."""
    node = Node(tmp_path, 1, free_addresses(1), loop)
    assert raft_start(node.raft) == RAFT_INVALID
    assert raft_close(node.raft, None) == RAFT_INVALID
    assert raft_apply(node.raft, RaftApply(), [PAYLOAD], 1, None) == RAFT_NOTLEADER
    node.start()
    conf = RaftConfiguration()
    assert raft_configuration_add(conf, 1, node.members[1], RAFT_VOTER) == 0
    assert raft_start(node.raft) == RAFT_BUSY
    assert raft_bootstrap(node.raft, conf) == RAFT_BUSY
    assert raft_init(node.raft, node.io, node.fsm, 1, node.members[1]) == RAFT_BUSY
    assert node.try_apply(1) == 0
    closed: list[Any] = []
    assert raft_close(node.raft, closed.append) == 0
    assert raft_close(node.raft, closed.append) == RAFT_SHUTDOWN
    assert raft_start(node.raft) == RAFT_SHUTDOWN
    run_until(loop, lambda: closed)
    assert closed == [node.raft]
    node.closed = True


def test_bootstrap_of_a_directory_that_has_a_log(loop: Loop, tmp_path: Path) -> None:
    """It returns RAFT_CANTBOOTSTRAP, with the disk's reason; the log is loaded all the same."""
    members = free_addresses(1)
    node = Node(tmp_path, 1, members, loop).start()
    assert node.try_apply(3) == 0
    node.close()
    node = Node(tmp_path, 1, members, loop)
    assert raft_init(node.raft, node.io, node.fsm, 1, members[1]) == 0
    conf = RaftConfiguration()
    assert raft_configuration_add(conf, 1, members[1], RAFT_VOTER) == 0
    assert raft_bootstrap(node.raft, conf) == RAFT_CANTBOOTSTRAP
    assert raft_errmsg(node.raft).startswith("io: metadata contains term ")
    assert raft_start(node.raft) == 0
    assert node.state == RAFT_LEADER
    assert node.fsm.numbers == [3]
    node.close()


def test_commands_of_a_turn_share_a_write_and_a_message(three: list[Node]) -> None:
    """A hundred commands of one turn are one io.append and one AppendEntries per follower."""
    leader = leader_of(three)
    assert leader is not None
    appends, sends = count(leader, "append"), count(leader, "send")
    outcomes = [leader.submit(n) for n in range(100)]
    assert [rv for rv, _ in outcomes] == [0] * 100
    assert appends == sends == []
    run_until(leader.loop, lambda: all(outcome.calls for _, outcome in outcomes))
    assert [args[2] for args in appends] == [100]
    full = [m for _req, m, _cb in sends if m.type == RAFT_IO_APPEND_ENTRIES and m.append_entries.n_entries > 0]
    assert sorted(m.server_id for m in full) == sorted(node.id for node in three if node is not leader)
    assert {m.append_entries.n_entries for m in full} == {100}
    assert leader.fsm.numbers == [1, *range(100)]


def test_commands_of_callbacks_share_the_next_write(alone: Node) -> None:
    """Commands that callbacks of one write apply go out with the next one, if these take no longer than a slice."""
    now = alone.io.time(alone.io)
    alone.io.time = lambda io: now  # no time passes, however busy the machine is
    appends = count(alone, "append")
    done: list[int] = []

    def again(req: RaftApply, status: int, result: Any) -> None:
        done.append(status)
        if len(done) <= 20:
            assert raft_apply(alone.raft, RaftApply(), [PAYLOAD], 1, again) == 0

    for _ in range(10):
        assert raft_apply(alone.raft, RaftApply(), [PAYLOAD], 1, again) == 0
    run_until(alone.loop, lambda: len(done) == 30)
    assert [args[2] for args in appends] == [10, 10, 10]


def test_fsm_that_raises_stops_one_server_of_three(three: list[Node], caplog: pytest.LogCaptureFixture) -> None:
    """Its server is unavailable and says why; the two others elect a leader and go on."""
    leader = leader_of(three)
    assert leader is not None

    def raising(fsm: Any, buf: bytes) -> Any:
        raise ZeroDivisionError("bug")

    leader.fsm.apply = raising
    rv, outcome = leader.submit(5)
    assert rv == 0
    run_until(leader.loop, lambda: outcome.calls)
    assert outcome.calls[0][1] == RAFT_LEADERSHIPLOST
    assert leader.state == RAFT_UNAVAILABLE
    assert raft_errmsg(leader.raft) == "fsm.apply: ZeroDivisionError: bug"
    assert "ZeroDivisionError" in caplog.text
    others = [node for node in three if node is not leader]
    unsettle(others)
    next_leader = settled(others)
    assert next_leader.try_apply(6) == 0
    assert next_leader.fsm.numbers == [1, 5, 6]


def test_a_member_that_was_away_when_the_leader_was_elected_catches_up(
    three: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    """The first that it hears is a question with a predecessor that nobody has, and the connection stands."""
    first = leader_of(three)
    assert first is not None
    away, other = (node for node in three if node is not first)
    away.close()
    assert raft_transfer(first.raft, RaftTransfer(), other.id, None) == 0
    run_until(other.loop, lambda: other.state == RAFT_LEADER)
    for number in range(2, 12):
        assert other.try_apply(number) == 0
    sends = count(other, "send")
    run_until(other.loop, lambda: len([True for _, message, _ in sends if message.server_id == away.id]) > 20)
    back = Node(away.dir, away.id, away.members, away.loop).start()
    raft_set_election_timeout(back.raft, 3_600_000)  # as `settled` does: it ends no term on a busy machine
    three.append(back)
    run_until(back.loop, lambda: back.fsm.numbers == other.fsm.numbers)
    assert "dropped" not in caplog.text


def test_callback_that_raises_reaches_the_loops_hook(alone: Node) -> None:
    """An exception of a completion callback goes to the loop's excepthook; the server goes on."""
    seen: list[BaseException] = []
    alone.loop.excepthook = lambda kind, exc, traceback: seen.append(exc)

    def raising(req: RaftApply, status: int, result: Any) -> None:
        raise ZeroDivisionError("callback")

    assert raft_apply(alone.raft, RaftApply(), [PAYLOAD], 1, raising) == 0
    run_until(alone.loop, lambda: seen)
    assert [str(exc) for exc in seen] == ["callback"]
    assert alone.try_apply(8) == 0
    assert alone.fsm.numbers == [7, 8]


def test_close_with_commands_of_the_turn(loop: Loop, tmp_path: Path) -> None:
    """The commands of the turn are given out; callbacks get RAFT_LEADERSHIPLOST, and a restart may find them."""
    members = free_addresses(1)
    node = Node(tmp_path, 1, members, loop).start()
    rv, outcome = node.submit(9)
    assert rv == 0
    node.close()
    assert [call[1] for call in outcome.calls] == [RAFT_LEADERSHIPLOST]
    node = Node(tmp_path, 1, members, loop).start()
    assert node.state == RAFT_LEADER
    assert node.fsm.numbers in ([], [9])
    node.close()


def test_cluster_starts_again_from_its_disks(loop: Loop, tmp_path: Path) -> None:
    """After a clean stop of all servers every command is there again, once and in order."""
    nodes = make_nodes(tmp_path, 3, loop)
    leader = settled(nodes)
    for number in range(20):
        assert leader.try_apply(number) == 0
    for node in nodes:
        node.close()
    nodes = [Node(node.dir, node.id, node.members, loop).start() for node in nodes]
    run_until(loop, lambda: leader_of(nodes) is not None)
    run_until(loop, lambda: all(node.fsm.numbers == list(range(20)) for node in nodes))
    for node in nodes:
        node.close()


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(3)])
def test_what_ends_a_program_comes_out_of_the_loop(alone: Node, exc: BaseException) -> None:
    """sys.exit and Ctrl-C in a callback end the run of the loop; the server is unharmed and can be closed."""

    def leave(req: RaftApply, status: int, result: Any) -> None:
        raise exc

    assert raft_apply(alone.raft, RaftApply(), [PAYLOAD, PAYLOAD], 2, leave) == 0
    with pytest.raises(type(exc)) as caught:
        run_until(alone.loop, lambda: False)
    assert caught.value is exc
    assert alone.state == RAFT_LEADER
    assert alone.fsm.numbers == [7, 7]
    assert alone.try_apply(8) == 0


def test_exit_in_the_close_callback_comes_out_of_the_loop(loop: Loop, tmp_path: Path) -> None:
    """It does so after raft_uv_close too, which is called there."""
    node = Node(tmp_path, 1, free_addresses(1), loop).start()
    node.closed = True

    def closed(raft: Raft) -> None:
        raft_uv_close(node.io)
        raise SystemExit(3)

    raft_close(node.raft, closed)
    with pytest.raises(SystemExit):
        run_until(loop, lambda: False)
