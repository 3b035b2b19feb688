"""Each test of the lane (pyraft.steady, stream, stored) fails alone: nothing is done then, which is left to others."""

from collections.abc import Callable
from typing import Any

import pytest

from io_uv import encoding
from pyraft import (
    RAFT_COMMAND,
    RAFT_FOLLOWER,
    RAFT_IOERR,
    RAFT_UNAVAILABLE,
    RaftApply,
    RaftMessage,
    RaftTransfer,
    accept,
    raft_apply,
    raft_close,
    steady,
    stored,
    stream,
)
from pyraft.progress import PROGRESS__PIPELINE
from pyraft.state import RaftInstall, RaftWrite
from pyraft.types import EntryBatch, RaftAppendEntries, RaftSnapshot, RaftTimeoutNow
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.compiled import COMPILED
from tests.lib.dump import dump
from tests.lib.solo import Solo


def led() -> Solo:
    """Return a leader that has sent entry 3 to two followers in PIPELINE."""
    s = Solo(deferring=True)
    s.lead()
    s.recv(msg.append_entries_result(3, 2, 2))
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
    s.io.turn()
    assert s.r.leader_state is not None
    assert [p.state for p in s.r.leader_state.progress[1:]] == [PROGRESS__PIPELINE] * 2
    return s


def followed() -> Solo:
    """Return a follower of server 2 in term 1 with entries 1 and 2."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 1, msg.commands([1])))
    s.io.finish_appends()
    assert s.r.state == RAFT_FOLLOWER
    return s


def answer() -> RaftMessage:
    return msg.append_entries_result(2, 2, 3)


def test_an_answer_resets_what_it_resets_on_the_general_path() -> None:
    """Counters of a follower that has refused something before, and its window."""
    dumps = []
    for lane in (True, False):
        s = led()
        s.r.lane = lane
        leader = s.r.leader_state
        assert leader is not None
        p = leader.progress[1]
        p.streamed, p.denials, p.refusals, p.steps_back, p.next_index = 5, 2, 3, 4, 3
        p.recent_recv = False
        p.inflight.append((4, 10))
        p.inflight_bytes += 10
        s.recv(answer())
        dumps.append(dump(s.r))
        assert (p.match_index, p.denials, p.inflight_bytes) == (3, 0, 10)
    assert dumps[0] == dumps[1]


def test_nothing_is_sent_behind_a_callback_that_closes_the_server() -> None:
    """The command that an answer has committed calls back; the heartbeat that is due by then is nobody's any more."""
    for lane in (True, False):
        s = led()
        s.r.lane = lane

        def close(req: RaftApply, status: int, result: Any, s: Solo = s) -> None:
            raft_close(s.r, None)

        assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, close) == 0
        s.io.turn()
        s.io.finish_appends()
        s.io.now += s.r.heartbeat_timeout
        sent = len(s.io.messages)
        s.recv(msg.append_entries_result(2, 2, 4))
        assert (s.r.leader_state, s.r.commit_index, len(s.io.messages)) == (None, 4, sent)


def entries(n: int, term: int = 1) -> EntryBatch:
    """Return commands; several are known to be alike."""
    batch = EntryBatch([term] * n, [RAFT_COMMAND] * n, [fsms.add_x(1)] * n)
    encoding.look(batch)
    assert (batch.alike >= 0) == (n > 1)
    return batch


def append(n: int = 1) -> RaftMessage:
    return msg.append_entries(2, 1, 2, 1, 2, entries(n))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_an_append_resets_what_it_resets_on_the_general_path(n: int) -> None:
    """Counters of what has gone wrong before, and the election clock; and the leader may have moved."""
    dumps = []
    for lane in (True, False):
        s = followed()
        s.r.lane = lane
        s.r.snapshot.refusals, s.r.votes_withheld, s.r.election_timer_start = 3, 2, -7
        m = append(n)
        m.server_address = "elsewhere"
        s.recv(m)
        s.io.finish_appends()
        dumps.append(dump(s.r))
        assert (s.r.snapshot.refusals, s.r.votes_withheld, s.r.election_timer_start) == (0, 0, s.io.now)
    assert dumps[0] == dumps[1]


def refused(s: Solo, m: RaftMessage) -> None:
    """Check that the lane does not take a message, and leaves everything as it is."""
    before, calls = dump(s.r), list(s.io.calls)
    assert steady.received(s.r, m) is None
    assert (dump(s.r), s.io.calls) == (before, calls)


def change(path: str, value: Any) -> Callable[[Any], None]:
    """Return what sets the attribute that a path leads to."""

    def set_it(start: Any) -> None:
        *way, last = path.split(".")
        for name in way:
            start = start[int(name)] if name.isdigit() else getattr(start, name)
        if isinstance(start, list):
            start[int(last)] = value
        else:
            setattr(start, last, value)

    return set_it


P = "leader_state.progress.1."


@pytest.mark.parametrize(
    "path",
    [
        *(f"r.{P}{field}" for field in ("state=0", "short=1", "questions=1", "match_index=4", "proven_index=3")),
        *("r.transfer", "r.leader_state.promotee_id=9", "r.leader_state=None", f"r.{P}features=32768"),
        *("m.type=6", "m.server_id=9", "m.append_entries_result=None", "m.append_entries_result.last_log_index=1"),
        *(f"m.append_entries_result.{field}" for field in ("term=1", "rejected=3", "question=1")),
    ],
)
def test_answers_that_the_lane_leaves_to_the_general_path(path: str) -> None:
    """One thing is not as it should be: then nothing is done."""
    assert steady.received(led().r, answer()) == 0
    s, m = led(), answer()
    alter(s, m, path)
    refused(s, m)


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize(
    "path",
    [
        *(f"r.{field}" for field in ("recovering=1", "filling=1", "follower_state=None", "current_term=2")),
        *(f"r.snapshot.{field}" for field in ("replacing=1", "refused_index=1", "put=install")),
        *(f"r.said.{field}" for field in ("leader_id=3", "leader_term=0", "removed=1", "waits=1")),
        *(f"m.append_entries.{field}" for field in ("term=2", "question=1", "prev_log_index=1", "prev_log_term=2")),
        *("m.type=6", "m.append_entries=None", "m.append_entries.entries=list", "m.append_entries_result=1"),
        *("term 0", "compacted", "server 0", "entry of a later term", "entry without a term"),
    ],
)
def test_entries_that_the_lane_leaves_to_the_general_path(path: str, n: int) -> None:
    """One thing is not as it should be: then nothing is done."""
    if path.startswith("entry") and n == 0:
        pytest.skip("there is none")
    assert steady.received(followed().r, append(n)) == 0
    s, m = followed(), append(n)
    args = m.append_entries
    assert args is not None
    if path == "term 0":
        s.r.log.terms[-1] = args.prev_log_term = 0
    elif path == "compacted":
        s.r.log.offset = 2
    elif path == "server 0":
        m.server_id = s.r.said.leader_id = 0
    elif path.startswith("entry"):
        args.entries = entries(n, 2 if "later" in path else 0)
    else:
        alter(s, m, path)
    refused(s, m)


@pytest.mark.parametrize("term", [0, 2])
@pytest.mark.parametrize("where", range(3))
def test_one_entry_among_others_that_the_lane_leaves_to_the_general_path(where: int, term: int) -> None:
    """Its term is out of range, wherever it stands."""
    s, m = followed(), append(3)
    args = m.append_entries
    assert args is not None
    assert isinstance(args.entries, EntryBatch)
    args.entries = args.entries[:]
    args.entries.terms[where] = term
    refused(s, m)
    args.entries.terms[where] = 1
    assert steady.received(s.r, m) == 0


def alter(s: Solo, m: RaftMessage | RaftWrite, text: str) -> None:
    """Change a field of the server or the message or write: "r.field=1", "m.field=None"; some values are made here."""
    path, _, word = text.partition("=")
    value: Any = None
    if word == "list" and isinstance(m, RaftMessage) and m.append_entries:
        value = list(m.append_entries.entries)
    if word == "order":
        value = (2, RaftTimeoutNow())
    if word.isdigit():
        value = int(word)
    if path == "r.transfer":
        value = RaftTransfer()
    if word == "install":
        value = RaftInstall(s.r, s.r.current_term, RaftSnapshot(), s.r.log, 0)
    if COMPILED and path.endswith(("append_entries_result", "recovering", "filling", "removed", "waits")):
        pytest.skip("a compiled field takes values of its type only")
    whole = s.r if path[0] == "r" else m
    change(path[2:], value)(whole)


@pytest.mark.parametrize(
    "path",
    [
        *(f"{P}{field}" for field in ("state=0", "next_index=5", "inflight_bytes=99999999", "lacking=4", "short=1")),
        *("leader_state.first_index=4", "log.offset=2", "max_append_bytes=20"),
    ],
)
def test_messages_that_the_lane_leaves_to_the_general_path(path: str) -> None:
    """One thing is not as it should be: then no message is made, and nothing is changed."""
    s = Solo(deferring=True)
    s.lead()
    s.recv(msg.append_entries_result(3, 2, 2))
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)] * 2, 2, None) == 0
    leader = s.r.leader_state
    assert leader is not None
    leader.progress[1].next_index = 3
    assert stream.message(s.r, leader, leader.progress[1], None, s.io.now) is not None
    alter_path, _, word = path.partition("=")
    change(alter_path, int(word))(s.r)
    before = dump(s.r)
    assert stream.message(s.r, leader, leader.progress[1], None, s.io.now) is None
    assert dump(s.r) == before


@pytest.mark.parametrize(
    "path",
    [
        *(f"{P}{field}" for field in ("state=0", "next_index=5", "inflight_bytes=99999999", "lacking=4", "short=1")),
        *("leader_state.first_index=4", "log.offset=3", f"{P}last_send=1"),
    ],
)
def test_heartbeats_that_the_lane_leaves_to_the_general_path(path: str) -> None:
    """One thing is not as it should be: then no message is made, and nothing is changed."""
    s = led()
    s.io.now += s.r.heartbeat_timeout
    leader = s.r.leader_state
    assert leader is not None
    leader.progress[1].last_send = s.io.now - s.r.heartbeat_timeout
    made = stream.message(s.r, leader, leader.progress[1], None, s.io.now)
    assert made is not None
    assert len(made.entries) == 0
    alter_path, _, word = path.partition("=")
    change(alter_path, s.io.now - s.r.heartbeat_timeout + 1 if "last_send" in path else int(word))(s.r)
    before = dump(s.r)
    assert stream.message(s.r, leader, leader.progress[1], None, s.io.now) is None
    assert dump(s.r) == before


@pytest.mark.parametrize(
    "path",
    [
        *(f"r.{P}{field}" for field in ("state=0", "short=1", "questions=1", "match_index=4", "proven_index=2")),
        *("m.append_entries_result.last_log_index=2", "m.append_entries_result.rejected=3"),
    ],
)
def test_answers_to_heartbeats_that_the_lane_leaves_to_the_general_path(path: str) -> None:
    """One thing is not as it should be: then nothing is done."""
    s = led()
    s.recv(answer())
    assert s.r.leader_state is not None
    p = s.r.leader_state.progress[1]
    p.streamed, p.denials, p.recent_recv = 2, 1, False
    assert steady.received(s.r, answer()) == 0
    assert (p.streamed, p.denials, p.recent_recv) == (0, 0, True)
    m = answer()
    alter(s, m, path)
    refused(s, m)


def written(s: Solo) -> Any:
    """Return the write that is under way."""
    ((req, _entries, _cb),) = s.io.appends
    assert isinstance(req, RaftWrite)
    return req


def told(s: Solo) -> tuple[int, int]:
    """Return the last index and the rejected one of the answer that was sent last."""
    result = s.io.messages[-1].append_entries_result
    assert result is not None
    return result.last_log_index, result.rejected


def follower_that_writes() -> Solo:
    s = followed()
    s.recv(append())
    return s


@pytest.mark.parametrize(
    "path",
    [
        *(f"r.{field}" for field in ("follower_state=None", "current_term=2", "recovering=1", "last_stored=1")),
        *("r.follower_state.timeout_now=order", "r.snapshot.put=install", "r.snapshot.replacing=1", "r.log.offset=3"),
        *("r.log.terms.-1=2", "w.standing=0", "w.entries.types.0=3"),
    ],
)
def test_a_followers_writes_that_the_lane_leaves_to_the_general_path(path: str) -> None:
    """One thing is not as it should be: then nothing is done."""
    s = follower_that_writes()
    assert accept.stored(s.r, written(s))
    assert (s.r.last_stored, told(s)) == (3, (3, 0))
    s = follower_that_writes()
    alter(s, written(s), path)
    before, calls = dump(s.r), list(s.io.calls)
    assert not accept.stored(s.r, written(s))
    assert (dump(s.r), s.io.calls) == (before, calls)


@pytest.mark.parametrize("path", ["r.snapshot.put=install", "r.last_stored=1", "w.standing=0"])
def test_a_leaders_writes_that_the_lane_leaves_to_the_general_path(path: str) -> None:
    """One thing is not as it should be: then nothing is done."""
    s = led()
    assert s.r.leader_state is not None
    assert stored.by_leader(s.r, s.r.leader_state, written(s))
    assert s.r.last_stored == s.r.leader_state.progress[0].proven_index == 3
    s = led()
    assert s.r.leader_state is not None
    alter(s, written(s), path)
    before = dump(s.r)
    assert not stored.by_leader(s.r, s.r.leader_state, written(s))
    assert dump(s.r) == before


def test_a_failed_write_is_never_the_lanes() -> None:
    """A leader steps down, a follower rejects."""
    s = led()
    s.io.finish_append(RAFT_IOERR)
    assert s.r.state == RAFT_FOLLOWER
    s = follower_that_writes()
    s.io.finish_append(RAFT_IOERR)
    assert (s.r.last_stored, told(s)) == (2, (2, 3))


def test_a_message_is_made_once_for_all_who_are_to_get_the_same() -> None:
    """Any difference makes another one: predecessor, commit index, term, the entries themselves."""
    s = led()
    leader = s.r.leader_state
    assert leader is not None
    first, second = (m.append_entries for m in s.io.messages[-2:])
    assert first is second
    assert first is not None
    assert first.whole
    assert first.encoded == []
    p = leader.progress[1]
    p.next_index = 3
    assert stream.message(s.r, leader, p, first, s.io.now) is first
    for path, value in (
        ("leader_commit", 1),
        ("prev_log_index", 1),
        ("prev_log_term", 1),
        ("term", 1),
        ("entries", EntryBatch([2], [RAFT_COMMAND], [fsms.add_x(9)])),
        ("entries", EntryBatch([1], [RAFT_COMMAND], [fsms.add_x(1)])),
        ("entries", EntryBatch([2], [RAFT_COMMAND + 1], [fsms.add_x(1)])),
    ):
        other = copy_of(first)
        setattr(other, path, value)
        made = stream.message(s.r, leader, p, other, s.io.now)
        assert made is not other
        assert made is not None
        assert dump(made) == dump(first)


def test_a_message_carries_the_batch_that_the_turn_has_written() -> None:
    """The same object, so that it is encoded once, if it is the same entries: all of them, and still in the log."""
    s = led()
    leader = s.r.leader_state
    assert leader is not None
    for n in (1, 3):
        assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)] * n, n, None) == 0
    s.io.turn()
    write = s.r.writes[-1]
    assert len(write.entries.bufs) == 4
    assert [m.append_entries.entries is write.entries for m in s.io.messages[-2:] if m.append_entries] == [True, True]
    p = leader.progress[1]
    for first, standing in ((3, 4), (5, 4), (4, 3)):
        p.next_index, write.standing = first, standing
        made = stream.message(s.r, leader, p, None, s.io.now)
        assert made is not None
        assert made.entries is not write.entries
        assert isinstance(made.entries, EntryBatch)
        assert made.entries.bufs == s.r.log.bufs[first - 1 - s.r.log.base :]
    p.next_index, write.standing = 4, 4
    made = stream.message(s.r, leader, p, None, s.io.now)
    assert made is not None
    assert made.entries is write.entries
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
    p.next_index = 5  # as many entries as that write, up to one that is not written yet
    made = stream.message(s.r, leader, p, None, s.io.now)
    assert made is not None
    assert made.entries is not write.entries
    s.io.turn()
    p.next_index = 4
    s.r.writes.clear()
    made = stream.message(s.r, leader, p, None, s.io.now)
    assert made is not None
    assert made.entries is not write.entries


def copy_of(args: RaftAppendEntries) -> RaftAppendEntries:
    other = RaftAppendEntries()
    for name in ("term", "prev_log_index", "prev_log_term", "leader_commit", "whole", "entries"):
        setattr(other, name, getattr(args, name))
    return other


def test_a_leader_without_an_entry_of_its_term_sends_nothing_in_the_lane() -> None:
    """A server that is known to lack an earlier entry gets nothing either: its answer would prove less (proof.sent)."""
    s = led()
    leader = s.r.leader_state
    assert leader is not None
    p = leader.progress[1]
    p.next_index, p.lacking = 3, 1
    assert stream.message(s.r, leader, p, None, s.io.now) is not None
    leader.first_index = 4
    assert stream.message(s.r, leader, p, None, s.io.now) is None


def test_a_message_whose_sending_fails_inside_the_call_is_not_counted_as_streamed() -> None:
    """Its callback has led back to PROBE by then, as on the general path."""
    dumps = []
    for lane in (True, False):
        s = led()
        s.r.lane = lane
        send = s.io.send

        def failing(io: Any, req: Any, message: RaftMessage, cb: Any, s: Solo = s, send: Any = send) -> int:
            rv: int = send(io, req, message, cb)
            s.io.finish_sends(RAFT_IOERR)
            return rv

        s.io.finish_sends()
        s.io.send = failing
        assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
        s.io.turn()
        leader = s.r.leader_state
        assert leader is not None
        assert all(p.next_index == p.match_index + 1 for p in leader.progress[1:])
        dumps.append(dump(s.r))
    assert dumps[0] == dumps[1]


def test_a_heartbeat_is_answered_with_what_is_stored() -> None:
    """Entries that are still being written are in the log, and not acknowledged."""
    s = follower_that_writes()
    m = msg.append_entries(2, 1, 3, 1, 3)
    assert m.append_entries is not None
    m.append_entries.entries = EntryBatch([], [], [])
    assert steady.received(s.r, m) == 0
    assert (told(s), s.r.commit_index) == ((2, 0), 2)


def test_a_heartbeat_whose_commit_the_state_machine_fails_is_not_answered() -> None:
    """Its code is the lane's, and ends the server, as on the general path."""
    s = followed()
    s.fsm.apply = lambda fsm, buf: (RAFT_IOERR, None)
    sent = len(s.io.messages)
    assert steady.received(s.r, append(0)) == RAFT_IOERR
    assert len(s.io.messages) == sent
    s = followed()
    s.fsm.apply = lambda fsm, buf: (RAFT_IOERR, None)
    s.recv(append(0))
    assert (s.r.state, len(s.io.messages)) == (RAFT_UNAVAILABLE, sent)
