"""RPC messages in one line each, for tests that play the part of another server.

Duty: every function returns a RaftMessage that comes from server `src`, whose address is its id in decimal.
"""

import sys
from collections.abc import Sequence

import pytest

from pyraft import (
    RAFT_COMMAND,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    RAFT_IO_INSTALL_SNAPSHOT,
    RAFT_IO_REQUEST_VOTE,
    RAFT_IO_REQUEST_VOTE_RESULT,
    RAFT_IO_TIMEOUT_NOW,
    RaftAppendEntries,
    RaftAppendEntriesResult,
    RaftConfiguration,
    RaftEntry,
    RaftInstallSnapshot,
    RaftMessage,
    RaftRequestVote,
    RaftRequestVoteResult,
    RaftTimeoutNow,
)
from pyraft.types import Entries
from tests.lib import fsm


def fields_of(struct: object) -> list[str]:
    """Return the names of a struct's fields; a compiled class has no __slots__ to ask."""
    return [name for name in dir(struct) if name[0] != "_"]


def four_gib() -> bytes:
    """Return a payload whose length has no room in 32 bits; it takes no memory until somebody looks at it."""
    if sys.flags.dev_mode:
        pytest.skip("development mode writes into all memory that is freed, here 4 GiB")
    try:
        return bytes(1 << 32)
    except MemoryError:
        pytest.skip("no 4 GiB of address space")


def message(src: int, type: int) -> RaftMessage:
    """Return a message of a type without a member set."""
    m = RaftMessage()
    m.type = type
    m.server_id = src
    m.server_address = str(src)
    return m


def commands(terms: Sequence[int], payloads: Sequence[bytes] | None = None) -> list[RaftEntry]:
    """Return one command entry per term, with the given payloads or commands that add 0 to x."""
    if payloads is None:
        payloads = [fsm.add_x(0)] * len(terms)
    return [RaftEntry(term, RAFT_COMMAND, buf) for term, buf in zip(terms, payloads, strict=True)]


def append_entries(
    src: int, term: int, prev: int, prev_term: int, commit: int = 0, entries: Entries = ()
) -> RaftMessage:
    """Return an AppendEntries."""
    m = message(src, RAFT_IO_APPEND_ENTRIES)
    m.append_entries = args = RaftAppendEntries()
    args.term = term
    args.prev_log_index = prev
    args.prev_log_term = prev_term
    args.leader_commit = commit
    args.entries = entries
    return m


def append_entries_result(src: int, term: int, last: int, rejected: int = 0) -> RaftMessage:
    """Return an AppendEntriesResult."""
    m = message(src, RAFT_IO_APPEND_ENTRIES_RESULT)
    m.append_entries_result = args = RaftAppendEntriesResult()
    args.term = term
    args.last_log_index = last
    args.rejected = rejected
    return m


def request_vote(
    src: int,
    term: int,
    last: int = 0,
    last_term: int = 0,
    *,
    disrupt: bool = False,
    pre_vote: bool = False,
    candidate: int = 0,
) -> RaftMessage:
    """Return a RequestVote of candidate `src` (or another one)."""
    m = message(src, RAFT_IO_REQUEST_VOTE)
    m.request_vote = args = RaftRequestVote()
    args.term = term
    args.candidate_id = candidate or src
    args.last_log_index = last
    args.last_log_term = last_term
    args.disrupt_leader = disrupt
    args.pre_vote = pre_vote
    return m


def request_vote_result(
    src: int, term: int, granted: bool = True, *, pre_vote: bool = False, version: int = 2
) -> RaftMessage:
    """Return a RequestVoteResult."""
    m = message(src, RAFT_IO_REQUEST_VOTE_RESULT)
    m.request_vote_result = args = RaftRequestVoteResult()
    args.version = version
    args.term = term
    args.vote_granted = granted
    args.pre_vote = pre_vote
    return m


def install_snapshot(
    src: int, term: int, index: int, last_term: int, conf: RaftConfiguration, conf_index: int, data: bytes
) -> RaftMessage:
    """Return an InstallSnapshot."""
    m = message(src, RAFT_IO_INSTALL_SNAPSHOT)
    m.install_snapshot = args = RaftInstallSnapshot()
    args.term = term
    args.last_index = index
    args.last_term = last_term
    args.conf = conf
    args.conf_index = conf_index
    args.data = data
    return m


def timeout_now(src: int, term: int, last: int, last_term: int) -> RaftMessage:
    """Return a TimeoutNow."""
    m = message(src, RAFT_IO_TIMEOUT_NOW)
    m.timeout_now = args = RaftTimeoutNow()
    args.term = term
    args.last_log_index = last
    args.last_log_term = last_term
    return m
