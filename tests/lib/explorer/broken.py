"""Faults that the explorer has to find by itself, as edits of the source: (file, old text, new text), or several.

Duty: `FAULTS` says what each is, the scenario that finds it, and the edits; `write_copy` makes a copy of pyraft with
them, and `python -m tests.lib.explorer.broken NAME …` explores that copy.

Failure modes: AssertionError if a text to be replaced is not there once: then the edit has to be written anew.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import io_uv
import pyraft

ROOT: Final = Path(__file__).resolve().parent.parent.parent.parent


class Fault:
    """`scenario` finds it within `states`, and says `shows`, a regular expression; `without` are checks left out."""

    def __init__(self, scenario: str, states: int, shows: str, *edits: str, without: tuple[str, ...] = ()) -> None:
        self.scenario = scenario
        self.states = states
        self.shows = shows
        self.edits = edits
        self.without = without

    def arguments(self) -> list[str]:
        """Return the command line of the explorer."""
        left_out = [word for name in self.without for word in ("--without", name)]
        return [self.scenario, "--states", str(self.states), "--jobs", "1", *left_out]


_UNSTORED_VOTE: Final = ("election.py", "    rv = calls.set_vote(r, args.candidate_id)\n", "    rv = 0\n")
_EARLY: Final = (
    "recv_append_entries.py",
    "    if rv != 0 or later:\n        return rv\n    last = r.last_stored\n",
    "    if rv != 0:\n        return rv\n    last = log.last_index(r.log)\n",
)
_STALE: Final = r"answers a read with \d+, and \d+ entries were committed when it was asked"
_CONSEQUENCES: Final = ("promises", "commitment", "dead-ends")


FAULTS: Final = {
    "B8: a server like C's acknowledges all that it has stored, and the leader believes it": Fault(
        "left-overs",
        20_000,
        r"dead end|which is on the disks of",
        "stored.py",
        "            if leader.progress[i].proven_index > r.commit_index:\n",
        "            if leader.progress[i].match_index > r.commit_index:\n",
        "stored.py",
        "[leader.progress[i].proven_index for i",
        "[leader.progress[i].match_index for i",
        "proof.py",
        "    if p.next_index < target and not is_announced(p):\n",
        "    if False:\n",
        "proof.py",
        "    if p.state != PROGRESS__PROBE or is_announced(p) or p.sure:\n",
        "    if True:\n",
        "proof.py",
        "    if end >= leader.first_index or is_announced(p):\n",
        "    if True:\n",
    ),
    "B11: the target of a transfer gets a second vote in a term": Fault(
        "transfers",
        20_000,
        r"votes for server \d in term \d as well",
        "election.py",
        "    if not args.pre_vote and r.voted_for not in (0, args.candidate_id):\n",
        "    target = 0 if r.transfer is None else r.transfer.id\n"
        "    if not args.pre_vote and r.voted_for not in (0, args.candidate_id) and target != args.candidate_id:\n",
    ),
    "B34: a single voter leads in the term that it has": Fault(
        "alone",
        20_000,
        r"Log Matching",
        "election.py",
        "        term = r.current_term + 1\n        rv = calls",
        "        term = r.current_term + (configuration.voter_count(r.configuration) > 1)\n        rv = calls",
    ),
    "an entry of an old term is committed because most voters have it": Fault(
        "old-terms",
        150_000,
        r"commits entry 3 of term 2 in term \d",
        "stored.py",
        "    if term != r.current_term and not election.is_only_voter(r):\n",
        "    if False:\n",
        without=("dead-ends",),
    ),
    "entries are acknowledged before they are written": Fault(
        "elections", 5_000, r"acknowledges entry 2, which is not on its disk", *_EARLY
    ),
    "entries are acknowledged before they are written, by what comes of it": Fault(
        "elections", 60_000, r"Leader Completeness", *_EARLY, without=_CONSEQUENCES
    ),
    "a vote is not stored": Fault(
        "elections", 5_000, r"grants server \d a vote that is not on its disk", *_UNSTORED_VOTE
    ),
    "a vote is not stored, by what comes of it": Fault(
        "elections", 20_000, r"Election Safety: servers \d and \d lead term 2", *_UNSTORED_VOTE, without=_CONSEQUENCES
    ),
    "B46: a leader changes the configuration before it has committed an entry of its term": Fault(
        "two-changes",
        100_000,
        r"Leader Completeness|State Machine Safety|contradicts",
        "replicate.py",
        "    return log.term_of(r.log, r.commit_index) == r.current_term or election.is_only_voter(r)\n",
        "    return True\n",
    ),
    "B47: a leader is elected while a transfer of its own is pending": Fault(
        "transfers",
        20_000,
        r"stops although nothing has failed: server is not the leader",
        "convert.py",
        "        membership.transfer_close(r)\n        if r.leader_state is not leader:\n            return 0\n",
        "        r.errmsg = 'server is not the leader'\n        return 1\n",
    ),
    "a read is answered without a round": Fault(
        "reads",
        20_000,
        _STALE,
        "reads.py",
        "    begin(r, leader)\n    _send_questions(r, leader)\n",
        "    begin(r, leader)\n    _confirm(r, leader, reads.index)\n",
    ),
    "a read is answered when the questions of the round before were": Fault(
        "reads",
        60_000,
        _STALE,
        "reads.py",
        "answered == leader.reads.number",
        "answered >= leader.reads.number - 1",
    ),
}


def write_copy(folder: Path, edits: tuple[str, ...]) -> None:
    """Write a copy of pyraft with these edits below `folder`, and one of io_uv, whose codec simulated messages pass."""
    package = folder / "pyraft"
    for one in (pyraft.__file__, io_uv.__file__):
        assert one is not None
        source = Path(one).parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for file, old, new in zip(*[iter(edits)] * 3, strict=True):
        text = (package / file).read_text()
        assert text.count(old) == 1, f"{file} has changed: write this edit anew: {old!r}"
        (package / file).write_text(text.replace(old, new))


def run_module(
    folder: Path, module: str, arguments: list[str], timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module of the tests on the copy below `folder`, and see that it is the copy that is imported."""
    program = (
        "import runpy, sys; sys.path[:0] = sys.argv.pop(1).split(); import pyraft; "
        f"assert pyraft.__file__.startswith({str(folder)!r}); runpy.run_module({module!r}, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", program, f"{folder} {ROOT}", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def explore(folder: Path, arguments: list[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run the explorer on the copy below `folder`."""
    return run_module(folder, "tests.lib.explorer", arguments, timeout)


def main() -> int:
    """Explore all faults whose names begin as the arguments say; return how many were not found."""
    missed = 0
    for name, fault in FAULTS.items():
        if sys.argv[1:] and not any(name.startswith(word) for word in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_copy(Path(folder), fault.edits)
            done = explore(Path(folder), fault.arguments())
            print(f"{name}\n{done.stdout}{done.stderr}", flush=True)
            missed += done.returncode != 1 or re.search(fault.shows, done.stdout.split("\n")[1]) is None
    return missed


if __name__ == "__main__":
    sys.exit(main())
