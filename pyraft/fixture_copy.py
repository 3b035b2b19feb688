"""Copies of what leaves a server of a fixture: snapshots for its disk, messages for its peers.

Duty: on a real disk and a real network two servers share no memory; the copies made here share nothing that anybody
changes either. Buffers are read-only by contract, so they are not copied.

Failure modes: none.
"""

from pyraft import configuration
from pyraft.types import RAFT_IO_INSTALL_SNAPSHOT, RaftInstallSnapshot, RaftMessage, RaftSnapshot


def of_snapshot(original: RaftSnapshot) -> RaftSnapshot:
    """Return a copy of a snapshot; the buffers, read-only by contract, are joined into one."""
    fresh = RaftSnapshot()
    fresh.index = original.index
    fresh.term = original.term
    fresh.configuration = configuration.copy(original.configuration)
    fresh.configuration_index = original.configuration_index
    fresh.bufs = [original.bufs[0] if len(original.bufs) == 1 else b"".join(original.bufs)]
    return fresh


def received(message: RaftMessage, id: int, address: str) -> RaftMessage:
    """Return a message of server `id` as the receiver sees it: it names the sender and shares nothing mutable."""
    fresh = RaftMessage()
    fresh.type = message.type
    fresh.server_id = id
    fresh.server_address = address
    fresh.request_vote = message.request_vote
    fresh.request_vote_result = message.request_vote_result
    fresh.append_entries = message.append_entries
    fresh.append_entries_result = message.append_entries_result
    fresh.timeout_now = message.timeout_now
    if message.type == RAFT_IO_INSTALL_SNAPSHOT:
        assert message.install_snapshot is not None
        fresh.install_snapshot = _copy_install_snapshot(message.install_snapshot)
    return fresh


def _copy_install_snapshot(args: RaftInstallSnapshot) -> RaftInstallSnapshot:
    fresh = RaftInstallSnapshot()
    fresh.version = args.version
    fresh.term = args.term
    fresh.last_index = args.last_index
    fresh.last_term = args.last_term
    fresh.conf = configuration.copy(args.conf)
    fresh.conf_index = args.conf_index
    fresh.data = args.data
    return fresh
