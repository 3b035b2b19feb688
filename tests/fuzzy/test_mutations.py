"""The simulation bites: each of these ways to break the core is found within a few dozen seeds.

A mutation is an edit of the source (file, old text, new text), or several, made in a copy. If the text that it changes
is no longer there, the test says so: then the mutation has to be written anew against the code of today.

Not here are rules that a second one covers, so that 400 clusters end well without them. Tests of their own fail then:
a follower's bound on what it commits (the leader's message has it too: test_fixes_core), the patience of a server that
does not know that it votes (test_withheld_votes), and with entries that its snapshot has replaced (the leader goes on
from the end of such a log: test_core_edges_snapshot, test_progress).
"""

from pathlib import Path

import pytest

from tests.lib.explorer.broken import run_module, write_copy

SEEDS = 400
STEPS = 2000

MUTATIONS: dict[str, tuple[str, ...]] = {
    "votes twice in a term": (
        "election.py",
        "    if not args.pre_vote and r.voted_for not in (0, args.candidate_id):\n",
        "    if False:\n",
    ),
    "does not store its vote": (
        "election.py",
        "    rv = calls.set_vote(r, args.candidate_id)\n",
        "    rv = 0\n",
    ),
    "does not store its own vote": (
        "election.py",
        "        rv = calls.set_vote(r, r.id)\n",
        "        rv = 0\n",
    ),
    "does not store a term that it adopts": (
        "term.py",
        "    rv = calls.set_term(r, term)\n",
        "    rv = 0\n",
    ),
    "votes for a shorter log": (
        "election.py",
        "    if not _is_up_to_date(r, args):\n",
        "    if False:\n",
    ),
    "takes half of the votes for a majority": (
        "quorum.py",
        "    return votes > n_voters // 2\n",
        "    return votes >= n_voters // 2\n",
    ),
    "counts pre-votes as votes": (
        "recv_request_vote_result.py",
        "    if result.version > 1 and result.pre_vote != candidate.in_pre_vote:\n",
        "    if False:\n",
    ),
    "goes on leading in a higher term": (
        "term.py",
        "    if r.state != RAFT_FOLLOWER:\n",
        "    if r.candidate_state is not None:\n",
    ),
    "a single voter leads without a new term": (
        "election.py",
        "        term = r.current_term + 1\n        rv = calls",
        "        term = r.current_term + (configuration.voter_count(r.configuration) > 1)\n        rv = calls",
    ),
    "commits what one voter has stored": (
        "quorum.py",
        "    return descending[len(descending) // 2]\n",
        "    return descending[0]\n",
    ),
    "commits an entry of an old term by counting": (
        "stored.py",
        "    if term != r.current_term and not election.is_only_voter(r):\n",
        "    if False:\n",
    ),
    "counts stand-bys as voters": (
        "stored.py",
        "        if server.role == RAFT_VOTER:\n",
        "        if server.role >= 0:\n",
        "stored.py",
        " if s.role == RAFT_VOTER]\n    lg = r.log\n    index = min(quorum",
        "]\n    lg = r.log\n    index = min(quorum",
    ),
    "acknowledges entries before they are written": (
        "recv_append_entries.py",
        "    last = r.last_stored\n",
        "    last = log.last_index(r.log)\n",
    ),
    "counts its own entries before they are written": (
        "progress.py",
        "        array[own].match_index = array[own].proven_index = last_stored\n",
        "        array[own].match_index = array[own].proven_index = last_index + 1\n",
    ),
    "does not check that the logs match": (
        "accept.py",
        "    if term == args.prev_log_term and term != 0:\n",
        "    if term != 0:\n",
    ),
    "keeps conflicting entries": (
        "accept.py",
        "        if local_term == term or (local_term == 0 and index <= log.snapshot_index(lg)):\n",
        "        if local_term != 0 or index <= log.snapshot_index(lg):\n",
    ),
    "leaves conflicting entries on disk": (
        "accept.py",
        "    rv = calls.truncate(r, index)\n",
        "    rv = 0\n",
    ),
    "counts a write whose entries were cut off the log": (
        "writes.py",
        "        req.standing = max(0, min(req.standing, index - req.index))\n",
        "        req.standing = len(req.entries.bufs)\n",
    ),
    "writes deferred commands in the place of failed ones": (
        "replicate.py",
        "        leader.deferred_index = 0\n        for i",
        "        flush(r)\n        for i",
    ),
    "allows two configuration changes at a time": (
        "membership.py",
        "    if r.configuration_uncommitted_index != 0 or leader.promotee_id",
        "    if leader.promotee_id",
    ),
    "does not restore the state machine from a snapshot": (
        "snapshot.py",
        "    rv = calls.fsm_restore(r, snapshot.bufs[0])\n",
        "    rv = 0\n",
    ),
    "forgets requests when leadership is lost": (
        "convert.py",
        "            request.fail_all(r, leader)\n",
        "            leader.requests.clear()\n",
    ),
    "votes although its disk has lost entries": (
        "election.py",
        "    if r.recovering and args.last_log_term <= r.recovery_term:\n",
        "    if False:\n",
    ),
    "stands although its disk has lost entries": (
        "tick.py",
        "        recovering.waiting(r)\n        return 0\n",
        "        recovering.waiting(r)\n",
    ),
    "thinks too early that it has its entries back": (
        "recovering.py",
        "    return 0 < r.recovery_end <= min(r.last_stored, r.recovery_matched)\n",
        "    return r.recovery_matched > 0\n",
    ),
    "takes the commit index for the end of what it may have acknowledged": (
        "recovering.py",
        "    return 0 < r.recovery_end <= min(r.last_stored, r.recovery_matched)\n",
        "    return 0 < r.commit_index <= min(r.last_stored, r.recovery_matched)\n",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_core_that_is_caught(name: str, tmp_path: Path) -> None:
    """The simulation of a mutated copy of the core ends with a broken invariant."""
    write_copy(tmp_path, MUTATIONS[name])
    result = run_module(tmp_path, "tests.fuzzy", ["--n", str(SEEDS), "--steps", str(STEPS)], 300)
    assert result.returncode == 1, f"not caught in {SEEDS} seeds: {result.stdout[-500:]}{result.stderr[-2000:]}"
    assert "repeat: make sim SEED=" in result.stdout, result.stdout + result.stderr
