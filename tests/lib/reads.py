"""Reads of a leader whose peers the test plays: requests that note their callback, questions and their answers."""

from typing import Any

from pyraft import RAFT_IO_APPEND_ENTRIES, RaftMessage, RaftReadIndex, raft_read_index
from pyraft.state import LeaderState, RaftProgress
from tests.lib import messages as msg
from tests.lib.solo import Solo, leader

FEATURES = 0xC000


class Read(RaftReadIndex):
    """A read, and what it was called back with."""

    def __init__(self, order: list[str] | None = None, name: str = "read") -> None:
        super().__init__()
        self.calls: list[tuple[int, int]] = []
        self.order = order
        self.name = name

    def ask(self, s: Solo) -> int:
        """Ask a server."""
        return raft_read_index(s.r, self, self.done)

    def done(self, req: Any, status: int, index: int) -> None:
        """Be called back."""
        assert req is self
        self.calls.append((status, index))
        if self.order is not None:
            self.order.append(self.name)


def asked(s: Solo) -> Read:
    """Return a read that the server has taken."""
    read = Read()
    assert read.ask(s) == 0
    return read


def answer(src: int, number: int, term: int = 2, features: int = FEATURES) -> RaftMessage:
    """Return an answer to a question."""
    message = msg.append_entries_result(src, term, 0)
    assert message.append_entries_result is not None
    message.append_entries_result.features = features
    message.append_entries_result.question = number
    return message


def result(src: int, last: int, term: int = 2, features: int = FEATURES) -> RaftMessage:
    """Return the answer of a server of ours to a message with entries."""
    message = msg.append_entries_result(src, term, last)
    assert message.append_entries_result is not None
    message.append_entries_result.features = features
    return message


def asking_leader(*roles: int, **options: Any) -> Solo:
    """Return a leader of term 2, entry 2 committed, whose peers have announced that they take questions."""
    s = leader(*roles, **options)
    for server in s.conf.servers[1:]:
        s.recv(result(server.id, 2))
    s.sent()
    return s


def questions(s: Solo) -> dict[int, int]:
    """Return the questions sent since the last time, by server; all other messages are forgotten."""
    found = {}
    for message in s.sent():
        args = message.append_entries
        if message.type == RAFT_IO_APPEND_ENTRIES and args is not None and args.question:
            assert (args.term, args.prev_log_index, args.prev_log_term) == (s.r.current_term, 0, 0)
            assert (args.leader_commit, len(args.entries), args.whole) == (0, 0, False)
            found[message.server_id] = args.question
    return found


def state_of(s: Solo) -> LeaderState:
    """Return what the server knows as a leader."""
    assert s.r.leader_state is not None
    return s.r.leader_state


def progress_of(s: Solo, id: int) -> RaftProgress:
    """Return what a leader knows of a server."""
    return state_of(s).progress[id - 1]
