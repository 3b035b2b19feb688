"""When a leader reads and sends its snapshot once more: old answers do not make it do so, and pauses grow.

So they do where a server's own snapshot cannot be stored. One leader against a scripted world. Its I/O carries
features, as io_uv does; without them it does as C (lockstep).
"""

from collections.abc import Iterator
from typing import Any

import pytest

from pyraft import (
    RAFT_BUSY,
    RAFT_IO_INSTALL_SNAPSHOT,
    RAFT_IOERR,
    RAFT_NOCONNECTION,
    RaftMessage,
    RaftSnapshot,
    raft_last_applied,
    raft_last_index,
    raft_set_election_timeout,
    raft_set_install_snapshot_timeout,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
    raft_start,
)
from pyraft.flags import ECHOED_QUESTIONS, PROVEN_ANSWERS
from pyraft.progress import PROGRESS__PROBE, PROGRESS__SNAPSHOT
from pyraft.state import RaftProgress
from pyraft.types import NOBODYS
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import Solo, command, leader

OURS = PROVEN_ANSWERS | ECHOED_QUESTIONS


def compacted(features: int = OURS) -> Solo:
    """Return a leader of term 2 with a snapshot up to its last entry, 3, whose server 3 has said nothing so far."""
    s = leader()
    s.io.features = features
    raft_set_election_timeout(s.r, 10**9)
    raft_set_snapshot_threshold(s.r, 1)
    raft_set_snapshot_trailing(s.r, 0)
    command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    s.io.finish_put()
    s.sent()
    return s


def restarted() -> Solo:
    """Return a leader of term 2 that has started with a snapshot up to entry 3, and nothing behind it."""
    s = Solo(start=False)
    s.io.features = OURS
    s.io.stored, s.io.start_index = [], 4
    s.io.stored_snapshot = RaftSnapshot()
    s.io.stored_snapshot.index, s.io.stored_snapshot.term = 3, 1
    s.io.stored_snapshot.configuration, s.io.stored_snapshot.configuration_index = s.conf, 1
    s.io.stored_snapshot.bufs = [fsms.content(0, 0)]
    assert raft_start(s.r) == 0
    s.lead()
    raft_set_election_timeout(s.r, 10**9)
    return s


def progress_of(s: Solo) -> RaftProgress:
    """Return the progress of server 3."""
    return s.r.leader_state.progress[2]


def to_third(s: Solo) -> list[RaftMessage]:
    """Return what was sent to server 3 since the last time."""
    return [message for message in s.sent() if message.server_id == 3]


def refusals(messages: list[RaftMessage]) -> Iterator[RaftMessage]:
    """Return what server 3, whose log ends with entry 1, answers to AppendEntries: it has none of the predecessors."""
    for message in messages:
        args = message.append_entries
        assert args is not None
        assert args.prev_log_index > 1
        yield msg.append_entries_result(3, 2, 1, args.prev_log_index)


def needs_snapshot(s: Solo) -> None:
    """Have server 3 refuse entry 3, so that the next heartbeat begins with the snapshot."""
    s.tick()
    for answer in refusals(to_third(s)):
        s.recv(answer)
    assert progress_of(s).next_index == 2


def begins_within(s: Solo, ticks: int) -> int:
    """Return after how many heartbeat intervals a snapshot is read; none of them goes without a message, refused."""
    for n in range(1, ticks + 1):
        s.tick()
        if s.io.gets:
            return n
        messages = to_third(s)
        assert messages
        for answer in refusals(messages):
            s.recv(answer)
    raise AssertionError(f"no snapshot in {ticks} heartbeats")


def test_rejections_that_come_all_at_once_begin_with_one_snapshot() -> None:
    """A leader was held up: rejections of its heartbeats, and of the questions between them, have gathered meanwhile.

    The first one leads to a snapshot. Then each of a question passed for the end of the others, and the next one of a
    heartbeat for the refusal of the snapshot, which was read once more, in the same millisecond.
    """
    s = restarted()
    progress_of(s).short = 1
    for _ in range(6):
        s.tick()
    answers = list(refusals(to_third(s)))
    assert {answer.append_entries_result.rejected >= NOBODYS for answer in answers} == {False, True}
    s.io.now += 1000
    reads = 0
    for i, answer in enumerate(answers):
        s.recv(answer)
        reads += len(s.io.gets)
        if i == len(answers) // 2:
            s.io.finish_get()
        else:
            assert len(s.io.gets) <= 1
    installs = [message for message in to_third(s) if message.type == RAFT_IO_INSTALL_SNAPSHOT]
    assert len(installs) == 1
    assert (progress_of(s).state, s.io.gets) == (PROGRESS__SNAPSHOT, [])
    s.recv(msg.append_entries_result(3, 2, 1, 3))
    assert progress_of(s).state == PROGRESS__SNAPSHOT, "that was of the first message of the term"
    s.recv(msg.append_entries_result(3, 2, 1, 3))
    assert progress_of(s).state == PROGRESS__PROBE, "one more than messages is the snapshot's"


def test_a_snapshot_that_is_being_read_cannot_be_refused() -> None:
    """A rejection of its last entry is an old one, even if nobody knows of what."""
    s = compacted()
    needs_snapshot(s)
    s.tick()
    progress_of(s).streamed = 0
    for _ in range(3):
        s.io.now += 200
        s.recv(msg.append_entries_result(3, 2, 1, 3))
        assert (progress_of(s).state, len(s.io.gets)) == (PROGRESS__SNAPSHOT, 1)


def sent_before_the_other_answers() -> tuple[Solo, list[RaftMessage]]:
    """Return a leader that has sent its snapshot after the first of four rejections, and the other three."""
    s = compacted()
    for _ in range(4):
        s.tick()
    old = list(refusals(to_third(s)))
    s.recv(old[0])
    s.tick()
    s.io.finish_get()
    return s, old[1:]


def test_heartbeats_beside_a_snapshot_do_not_hide_those_before_it() -> None:
    """They name a newer entry, so they cannot be taken for the snapshot; three of before still can."""
    s, old = sent_before_the_other_answers()
    raft_set_snapshot_threshold(s.r, 100)
    command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 4))
    s.tick()
    assert [message.append_entries.prev_log_index for message in to_third(s) if message.append_entries] == [4, 4]
    for answer in old:
        s.recv(answer)
        assert (progress_of(s).state, s.io.gets) == (PROGRESS__SNAPSHOT, [])


def test_answers_to_what_was_sent_further_back_do_not_hide_those_before_a_snapshot() -> None:
    """They come first, and say nothing of the later ones."""
    s, old = sent_before_the_other_answers()
    s.recv(msg.append_entries_result(3, 2, 1, 2))
    for answer in old:
        s.recv(answer)
        assert (progress_of(s).state, s.io.gets) == (PROGRESS__SNAPSHOT, [])


def fail(s: Solo, how: str) -> None:
    """Have the snapshot that is being read come to nothing."""
    if how == "not taken":
        s.io.fail("send", RAFT_NOCONNECTION)
        s.io.finish_get()
        return
    s.io.finish_get()
    if how == "not sent":
        s.io.finish_sends(RAFT_NOCONNECTION)
        s.io.messages.clear()
    else:
        assert to_third(s)[-1].type == RAFT_IO_INSTALL_SNAPSHOT
        s.recv(msg.append_entries_result(3, 2, 1, 3))
        for answer in refusals(to_third(s)):
            s.recv(answer)


@pytest.mark.parametrize("how", ["refused", "not taken", "not sent"])
def test_snapshots_that_come_to_nothing_are_tried_again_with_growing_pauses(how: str) -> None:
    """The pause doubles up to half of the time for installing one, whatever the reason, and heartbeats go on.

    Without them a disk that was full had the leader read and send all of it with each heartbeat.
    """
    s = compacted()
    raft_set_install_snapshot_timeout(s.r, 1000)
    needs_snapshot(s)
    pauses = [begins_within(s, 1)]
    for _ in range(7):
        fail(s, how)
        assert progress_of(s).state == PROGRESS__PROBE
        pauses.append(begins_within(s, 20))
    assert pauses == [1, 1, 2, 4, 6, 6, 6, 6]


def test_what_a_server_acknowledges_ends_the_row() -> None:
    """One that needs a snapshot again after that gets it at once."""
    s = compacted()
    needs_snapshot(s)
    for _ in range(5):
        begins_within(s, 20)
        fail(s, "refused")
    begins_within(s, 20)
    s.io.finish_get()
    s.recv(msg.append_entries_result(3, 2, 3))
    assert progress_of(s).match_index == 3
    s.sent()
    s.tick()
    s.recv(msg.append_entries_result(3, 2, 1, 3))
    assert s.io.gets == []
    s.tick()
    assert len(s.io.gets) == 1


def test_two_snapshots_are_not_begun_in_one_heartbeat_interval() -> None:
    """The first one is refused before the leader has sent another heartbeat, so that one is due."""
    s = compacted()
    needs_snapshot(s)
    begins_within(s, 1)
    s.io.finish_get()
    s.sent()
    progress_of(s).last_send -= 1000
    s.recv(msg.append_entries_result(3, 2, 1, 3))
    assert (progress_of(s).state, s.io.gets) == (PROGRESS__PROBE, [])
    assert len(to_third(s)) == 1, "a heartbeat is, all the same"
    s.tick()
    assert len(s.io.gets) == 1


def test_over_an_io_without_features_there_is_no_pause() -> None:
    """There it is C's, to the trace."""
    s = compacted(features=0)
    needs_snapshot(s)
    for _ in range(6):
        assert begins_within(s, 1) == 1
        fail(s, "not taken")


def test_a_snapshot_that_a_server_had_already_does_not_hold_it_up() -> None:
    """Server 3 acknowledged entry 4, and has lost it: its acknowledgment of the snapshot up to 3 tells nothing new.

    The leader waited for one that does, with nothing but heartbeats until the time for installing it was over.
    """
    s = compacted()
    raft_set_snapshot_threshold(s.r, 100)
    command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(3, 2, 4))
    p = progress_of(s)
    assert p.match_index == 4
    s.tick()
    s.io.finish_sends(RAFT_NOCONNECTION)
    assert (p.state, p.next_index) == (PROGRESS__PROBE, 5)
    s.tick()
    s.recv(msg.append_entries_result(3, 2, 1, 4))
    s.tick()
    s.io.finish_get()
    assert p.state == PROGRESS__SNAPSHOT
    s.sent()
    s.recv(msg.append_entries_result(3, 2, 3))
    assert (p.state, p.next_index) == (PROGRESS__PROBE, 4)
    s.tick()
    (message,) = to_third(s)
    assert message.append_entries is not None
    assert (message.append_entries.prev_log_index, len(message.append_entries.entries)) == (3, 1)


def test_an_answer_about_less_than_the_snapshot_does_not_end_its_sending() -> None:
    """One that was under way tells where the log ended before."""
    s = compacted()
    needs_snapshot(s)
    begins_within(s, 1)
    p = progress_of(s)
    p.match_index = 3
    s.io.finish_get()
    s.recv(msg.append_entries_result(3, 2, 2))
    assert p.state == PROGRESS__SNAPSHOT


@pytest.mark.parametrize("how", ["later", "at once"])
def test_snapshots_that_cannot_be_stored_are_tried_again_with_growing_pauses(how: str) -> None:
    """All of the state was taken, and written to a full disk, with each entry."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 8)
    take, begun = s.fsm.snapshot, []

    def noting(fsm: Any) -> Any:
        begun.append(raft_last_applied(s.r))
        return take(fsm)

    def go_on_to(end: int) -> None:
        for index in range(raft_last_index(s.r) + 1, end + 1):
            if how == "at once":
                s.io.faults["snapshot_put"] = [RAFT_IOERR]
            command(s)
            s.io.finish_appends()
            s.recv(msg.append_entries_result(2, 2, index))
            while s.io.puts:
                s.io.finish_put(RAFT_IOERR)

    s.fsm.snapshot = noting
    go_on_to(40)
    assert begun == [8, 9, 11, 15, 23, 31, 39]
    s.fsm.snapshot = take
    s.io.faults.clear()
    for index in range(41, 48):
        command(s)
        s.io.finish_appends()
        s.recv(msg.append_entries_result(2, 2, index))
    s.io.finish_put()
    assert s.r.log.snapshot.last_index == 47
    s.fsm.snapshot = noting
    go_on_to(57)
    assert begun[7:] == [55, 56], "a success ends the row"


def test_a_state_machine_that_is_busy_is_asked_again_with_the_next_entry() -> None:
    """That costs nothing."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 4)
    asked: list[int] = []
    s.fsm.snapshot = lambda fsm: (asked.append(raft_last_applied(s.r)), (RAFT_BUSY, []))[1]
    for index in range(3, 11):
        command(s)
        s.io.finish_appends()
        s.recv(msg.append_entries_result(2, 2, index))
    assert asked == list(range(4, 11))


@pytest.mark.parametrize("features", [0, OURS])
def test_time_for_installing_a_snapshot_begins_when_it_is_on_its_way(features: int) -> None:
    """Not when it is about to be read, as in C: each of reading and sending it may take as long."""
    s = compacted(features)
    (p,) = [p for server, p in zip(s.r.configuration.servers, s.r.leader_state.progress, strict=True) if server.id == 3]
    most = s.r.install_snapshot_timeout
    s.recv(msg.append_entries_result(3, 2, 0, rejected=3))
    s.tick()
    assert p.state == PROGRESS__SNAPSHOT
    s.tick(most - 1)
    s.io.finish_get()
    s.tick(1)
    if features == 0:
        assert p.state == PROGRESS__PROBE
        return
    s.tick(most - 2)
    s.io.finish_sends()
    s.tick(most - 1)
    assert p.state == PROGRESS__SNAPSHOT
    assert s.io.names().count("snapshot_get") == 1
    s.tick(1)
    assert p.state == PROGRESS__PROBE
