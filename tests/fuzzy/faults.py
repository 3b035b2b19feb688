"""Faults of the past, each as an edit that puts it back into a copy of the core, to see whether the simulation sees it.

Duty: `FAULTS` has the edits (file, old text, new text), what was done wrong, and a seed whose cluster shows it, under
the names of DEVIATIONS.md where there are such. `write_copy` makes the copy, `simulate` runs seeds on it.

Failure modes: an edit whose text is gone is an assertion; write it anew against the code of today, and see that it
still is what the fault was. Where a seed shows nothing any more, `python -m tests.fuzzy.seeds_needed` finds another.
"""

import subprocess
from pathlib import Path
from typing import Final

from tests.lib.explorer.broken import run_module, write_copy

STEPS: Final = 2000


class Fault:
    """One fault: its effect, the themes of seeds that may show it, a seed that does, the edits that bring it back."""

    def __init__(self, what: str, themes: str, seed: int, *edits: str) -> None:
        self.what = what
        self.themes = themes
        self.seed = seed
        self.edits = edits


_RECOVERED = """    r.recovery_matched = max(r.recovery_matched, args.prev_log_index + len(args.entries))
    rv = stored(r)
"""

FAULTS: Final[dict[str, Fault]] = {
    "B46": Fault(
        "a leader changes the configuration before it has committed an entry of its term",
        "changes",
        127,
        "replicate.py",
        "    return log.term_of(r.log, r.commit_index) == r.current_term or election.is_only_voter(r)\n",
        "    return True\n",
    ),
    "C follower": Fault(
        "a leader counts all that a server like C's acknowledges, behind short messages too",
        "like C",
        70,
        "proof.py",
        "    return p.lacking if p.lacking > 0 else leader.first_index\n",
        "    return 0\n",
        "proof.py",
        "    if end >= leader.first_index or is_announced(p):\n",
        "    if True:\n",
    ),
    "leader_commit": Fault(
        "a message names a commit index behind its end, and a server like C's believes it",
        "like C",
        2,
        "replicate.py",
        "    args.leader_commit = min(r.commit_index, end)\n",
        "    args.leader_commit = r.commit_index\n",
    ),
    "install_after_cut": Fault(
        "a snapshot that would give lost entries back passes for a contradiction",
        "snapshots",
        106,
        "snapshot.py",
        "    if term != 0 and args.last_index <= r.commit_index:\n",
        "    if args.last_index <= r.commit_index:\n",
    ),
    "renumbered_log": Fault(
        "the log is cut below a snapshot that is being stored, and written again from there",
        "snapshots",
        445,
        "writes.py",
        "    pending = r.snapshot.pending\n",
        "    return index - 1\n    pending = r.snapshot.pending\n",
        "snapshot.py",
        "        assert log.term_of(r.log, taken.index) == taken.term\n"
        "        log.snapshot(r.log, taken.index, r.snapshot.trailing)\n",
        "        if log.term_of(r.log, taken.index) == taken.term:\n"
        "            log.snapshot(r.log, taken.index, r.snapshot.trailing)\n",
    ),
    "B47": Fault(
        "a server that is elected while a transfer of its own is pending stops",
        "transfers",
        663,
        "convert.py",
        "        membership.transfer_close(r)\n        if r.leader_state is not leader:\n            return 0\n",
        "        r.errmsg = 'server is not the leader'\n        return 1\n",
    ),
    "B48, last index": Fault(
        "a heartbeat beside a snapshot that ends with the last entry is refused, and the snapshot sent again",
        "snapshots",
        520,
        "replicate.py",
        "        if last_index == p.snapshot_index:\n",
        "        if False:\n",
        "progress.py",
        "        if rejected != p.snapshot_index or was_streamed:\n",
        "        if rejected != p.snapshot_index:\n",
        "recv_append_entries_result.py",
        "    elif p.state == PROGRESS__SNAPSHOT and p.snapshot_sent < 0 and r.io.features != 0:\n",
        "    elif False:\n",
    ),
    "no pause": Fault(
        "a snapshot that has come to nothing is read and sent again without a pause",
        "snapshots",
        103,
        "progress.py",
        "    if p.snapshot_tries == 0 or r.io.features == 0:\n",
        "    if True:\n",
    ),
    "known snapshot": Fault(
        "an acknowledgment of a snapshot that tells nothing new is not heard",
        "snapshots",
        305,
        "recv_append_entries_result.py",
        "        progress.snapshot_was_superfluous(p, result.last_log_index)\n",
        "",
    ),
    "B48, other index": Fault(
        "the refusal of a snapshot is noticed only if it is the one that was decided on",
        "snapshots",
        334,
        "progress.py",
        "    p.snapshot_index = index\n    p.snapshot_sent = now\n",
        "    p.snapshot_sent = now\n",
    ),
    "B49": Fault(
        "TimeoutNow is forgotten by a server that is writing",
        "like C",
        228,
        "recv_timeout_now.py",
        "    follower.timeout_now = (id, args)\n",
        "    if accept.is_writing(r):\n        return 0\n    follower.timeout_now = (id, args)\n",
    ),
    "B50": Fault(
        "a write that fails late cuts what has taken the place of its entries",
        "snapshots",
        860,
        "accept.py",
        "    if status != 0 and req.standing > 0:\n",
        "    if status != 0:\n",
        "replicate.py",
        "        if req.standing > 0:\n            _append_failed(r, req.index, req.standing, status)\n",
        "        _append_failed(r, req.index, len(req.entries.bufs), status)\n",
    ),
    "B51": Fault(
        "the last voter can be removed",
        "shrinking,growing",
        50,
        "client.py",
        "    if configuration.voter_count(conf) == 0:\n",
        "    if not conf.servers:\n",
    ),
    "B52": Fault(
        "a leader steps back one entry for each refusal",
        "even",
        408,
        "progress.py",
        "    p.next_index = max(1, min(rejected + 1 - stride(p), last_index + 1))\n",
        "    p.next_index = max(1, min(rejected, last_index + 1))\n",
    ),
    "B53": Fault(
        "a snapshot that comes while an own one is stored is dropped",
        "snapshots",
        12,
        "recv.py",
        "            r.snapshot.afterwards = ",
        "            _ = ",
    ),
    "wiped voter": Fault(
        "a server without a configuration votes after a row of refusals",
        "wiped",
        171,
        "election.py",
        "        if not is_member(r):\n",
        "        if False:\n",
    ),
    "recovery": Fault(
        "a recovery ends with an idle leader's heartbeat only",
        "damaged",
        183,
        "recovering.py",
        "    if r.current_term > r.recovery_term and log.term_of(",
        "    if False and log.term_of(",
        "recovering.py",
        "    if r.recovery_end == 0 and end < NOBODYS and (args.whole or not (args.entries or args.partial)):\n",
        "    if False:\n",
        "recovering.py",
        _RECOVERED,
        "    if args.entries or args.prev_log_index == 0 or r.last_stored < args.prev_log_index:\n        return 0\n"
        "    r.recovery_end = r.recovery_matched = args.prev_log_index\n    rv = stored(r)\n",
    ),
    "empty member": Fault(
        "a member that comes back empty gets nothing from an idle leader",
        "wiped",
        37,
        "progress.py",
        "    p.denials += 1\n    if p.denials < MAX_DENIALS:\n",
        "    if True:\n",
    ),
    "going back": Fault(
        "an old snapshot takes the commit index and the state machine back",
        "snapshots",
        106,
        "snapshot.py",
        "    elif snapshot.index < r.last_applied:\n",
        "    elif False:\n",
    ),
    "left-overs": Fault(
        "what the only voter appends counts as sent where a server like C's has left-overs",
        "like C",
        95,
        "recv_append_entries_result.py",
        "    shown = proof.shown(leader, p, last)\n",
        "    shown = last\n",
    ),
}


def simulate(
    folder: Path, seed: int, n: int, themes: str = "", timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Simulate clusters `seed` to `seed` + `n` - 1 of these themes on the copy below `folder`, until one breaks."""
    arguments = ["--seed", str(seed), "--n", str(n), "--steps", str(STEPS), "--themes", themes]
    return run_module(folder, "tests.fuzzy", arguments, timeout)


__all__ = ["FAULTS", "STEPS", "Fault", "simulate", "write_copy"]
