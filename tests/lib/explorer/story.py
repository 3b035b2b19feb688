"""A schedule as a story: done again on servers that live on from step to step, and told.

Duty: `Replay` does steps without anything that makes the search fast: the servers are never frozen and thawed, their
clocks go on, their configurations keep their order, nobody gets another name. After every step the server concerned is
compared with what the search took it to be, so a story is also a test of the search. `tell` returns the whole text;
`write` and `read` turn steps into words and back, for the command line.

Words: `2>1` server 1 receives the next message of server 2 (`2>1#1` the one behind that, `2>1+` and it stays, `2>1-` it
is lost); `timeout1`, `heartbeat1`, `contact1`, `expire1`, `write1`, `fail1`, `read1`, `apply1`, `ask1/3` (for a read,
with three entries committed), `crash1/2` (two entries or writes reach the disk), `transfer1:2`, `add1:4`, `remove1:3`,
`assign1:3=v` (v voter, s stand-by, x spare). At the end of a word: `~` its writes go on, `!2` what it sends to 2 fails,
`?` its term or vote is not stored, `^1` the power goes when it has stored one thing.

Failure modes: ValueError for an unknown word, or a step that is not possible there.
"""

import re
from typing import Any, Final

from pyraft import RAFT_BARRIER, RAFT_CHANGE, RAFT_COMMAND, configuration
from pyraft.types import MESSAGE_NAMES, STATE_NAMES, RaftConfiguration
from tests.lib.explorer.fair import PROBE
from tests.lib.explorer.freeze import NOW, name, thaw
from tests.lib.explorer.local import Facts, Outcome
from tests.lib.explorer.scenario import ROLES
from tests.lib.explorer.search import Search
from tests.lib.explorer.server import MEMBERS, Server
from tests.lib.explorer.world import State, Step

LETTERS: Final = {ROLES[letter]: letter for letter in "vsx"}
_MODES: Final = {"slow": "~", "cut": "!", "meta": "?", "power": "^"}
_WORD: Final = re.compile(
    r"(?:(?P<source>\d)>(?P<target>\d)(?:#(?P<position>\d+))?(?P<fate>[+-])?"
    r"|(?P<kind>[a-z]+)(?P<server>\d)(?::(?P<other>\d)(?:=(?P<role>[vsx]))?)?(?:/(?P<number>\d+))?)"
    r"(?:(?P<mode>[~!?^])(?P<argument>\d*))?"
)


def write(step: Step) -> str:
    """Return a step as one word."""
    i, event, mode = step
    kind = event[0]
    if kind == "lose":
        word = f"{event[1] + 1}>{i + 1}-"
    elif kind == "take":
        word = f"{event[1] + 1}>{i + 1}" + (f"#{event[2]}" if event[2] else "") + ("+" if event[3] else "")
    elif kind in ("transfer", "add", "remove"):
        word = f"{kind}{i + 1}:{event[1] + 1}"
    elif kind == "assign":
        word = f"{kind}{i + 1}:{event[1] + 1}={LETTERS[event[2]]}"
    else:
        word = f"{kind}{i + 1}" + (f"/{event[1]}" if len(event) > 1 and event[1] else "")
    if mode is not None:
        argument = {"cut": mode[1] + 1, "power": mode[1]}.get(mode[0], "")
        word += f"{_MODES[mode[0]]}{argument}"
    return word


def read(word: str) -> Step:
    """Return the step that a word stands for."""
    match = _WORD.fullmatch(word)
    if match is None:
        raise ValueError(f"{word!r} is no step")
    parts = match.groupdict()
    mode = None
    if parts["mode"]:
        kind = next(kind for kind, sign in _MODES.items() if sign == parts["mode"])
        argument = int(parts["argument"] or 0)
        mode = (kind, argument - 1 if kind == "cut" else argument)
    if parts["source"]:
        source, target = int(parts["source"]) - 1, int(parts["target"]) - 1
        if parts["fate"] == "-":
            return target, ("lose", source), mode
        return target, ("take", source, int(parts["position"] or 0), parts["fate"] == "+"), mode
    kind, i = parts["kind"], int(parts["server"]) - 1
    event: tuple[Any, ...] = (kind,)
    if parts["other"]:
        event = (kind, int(parts["other"]) - 1)
        if parts["role"]:
            event = (*event, ROLES[parts["role"]])
    elif kind in ("crash", "apply", "ask"):
        event = (kind, int(parts["number"] or 0))
    return i, event, mode


class Replay:
    """A cluster in person. `lines` is the story so far, `problem` what was broken."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.world = search.world
        self.servers: list[Server] = self.world.boot()
        self.clocks = [NOW] * self.world.n
        self.state: State = self.world.first(self.servers)
        self.lines: list[str] = []
        self.problem = ""
        self.steps: list[Step] = []

    def do(self, step: Step) -> None:
        """Do a step, tell of it, and compare."""
        world, table = self.world, self.world.table
        i, event, mode = step
        locals, links, past = self.state
        self.steps.append(step)
        self.lines.append(f"{len(self.steps):4}. {write(step):<14} {self.words(step)}")
        new_locals, new_links, outcome = world.move(locals, links, step)
        if outcome is None:
            self.state = new_locals, new_links, past
            return
        if event[0] == "take":
            event = ("deliver", event[1], links[event[1] * world.n + i][event[2]])
        table.perform(self.servers[i], event, mode, self.clocks[i])
        self.clocks[i] = world.stage.now
        live = table.outcome(self.servers[i], -1)
        self.tell(i, live)
        if (live.local, live.sends, live.problem) != (outcome.local, outcome.sends, outcome.problem):
            self.problem = f"a server that lives on does otherwise than one that was thawed: {live.problem!r}"
            return
        past, problem = world.invariants.judge(past, new_locals, i, locals[i], outcome)
        self.problem = self.problem or problem
        self.state = new_locals, new_links, past

    def words(self, step: Step) -> str:
        """Say what happens."""
        i, event, mode = step
        kind = event[0]
        me = f"server {i + 1}"
        if kind in ("take", "lose"):
            link = self.state[1][event[1] * self.world.n + i]
            position = 0 if kind == "lose" else event[2]
            if position >= len(link):
                raise ValueError(f"{write(step)} is not possible: that many messages are not on the link")
            message = f"{self.message(link[position])} from {event[1] + 1}"
            text = f"{message} is lost" if kind == "lose" else f"{me} receives {message}"
            if kind == "take" and event[3]:
                text += ", which will arrive once more"
        else:
            text = {
                "timeout": f"the election timeout of {me} passes",
                "heartbeat": f"{me} sends what is due",
                "contact": f"an election timeout passes on {me}, which counts who has answered",
                "expire": f"the transfer of {me} has taken too long",
                "write": f"a write of {me} ends",
                "fail": f"a write of {me} fails",
                "read": f"{me} has read its snapshot",
                "apply": f"a client submits a command to {me}",
                "crash": f"{me} is killed, {event[-1]} of what its disk had to do is done, and starts again",
                "ask": f"a client asks {me} for a read",
                "transfer": f"{me} is asked to hand over to {event[-1] + 1 if kind == 'transfer' else ''}",
                "add": f"{me} is asked to add {event[-1] + 1 if kind == 'add' else ''}",
                "remove": f"{me} is asked to remove {event[-1] + 1 if kind == 'remove' else ''}",
                "assign": f"{me} is asked for another role",
            }[kind]
            if kind == "assign":
                role = {"v": "a voter", "s": "a stand-by", "x": "a spare"}[LETTERS[event[2]]]
                text = f"{me} is asked to make {event[1] + 1} {role}"
        if mode is not None:
            text += {
                "slow": "; its writes take longer",
                "cut": f"; what it sends to {mode[1] + 1} does not get through",
                "meta": "; its term or vote cannot be stored",
                "power": f"; the power goes when it has stored {mode[1]} things, and it starts again",
            }[mode[0]]
        return text

    def tell(self, i: int, live: Outcome) -> None:
        """Say what came of it."""
        if live.rv:
            self.lines.append(f"{'':20} is refused: {self.servers[i].raft.errmsg or live.rv}")
        for note in live.notes:
            what = f"leads term {note[1]}" if note[0] == "leads" else f"acknowledges entry {note[1]}"
            self.lines.append(f"{'':20} {i + 1} {what}")
        if live.local >= 0:
            self.lines.append(f"{'':20} {self.server(i, self.world.table.facts(live.local))}")
        for target, message in live.sends:
            self.lines.append(f"{'':20} sends {target + 1} {self.message(message)}")

    def server(self, i: int, facts: Facts) -> str:
        """Return a server in one line."""
        raft, disk = self.servers[i].raft, self.servers[i].disk
        entries = ", ".join(f"{facts.first + k}: {entry(*e)}" for k, e in enumerate(facts.entries))
        vote = f" vote {name(disk.vote)}" if disk.vote else ""
        more = f", {facts.pending} writes under way" if facts.pending else ""
        return (
            f"{i + 1} is {STATE_NAMES[raft.state]} in term {raft.current_term}{vote}, log [{entries}] stored to "
            f"{raft.last_stored}, committed to {raft.commit_index}{more}"
        )

    def message(self, number: int) -> str:
        """Return a message in one line."""
        member, frozen = self.world.table.messages[number]
        args = thaw(frozen)
        text = f"{MESSAGE_NAMES[MEMBERS[member]]} of term {args.term}"
        if member == "append_entries":
            if args.question:
                return f"{text}, question {args.question}"
            first = args.prev_log_index + 1
            entries = ", ".join(f"{first + k}: {entry(e.term, e.type, e.buf)}" for k, e in enumerate(args.entries))
            return (
                f"{text} [{entries}] after {args.prev_log_index} of term {args.prev_log_term}, committed to "
                f"{args.leader_commit}"
            )
        if member == "append_entries_result" and args.question:
            return f"{text}: yes to question {args.question}"
        if member == "append_entries_result":
            return f"{text}: " + (f"no to {args.rejected}" if args.rejected else f"yes up to {args.last_log_index}")
        if member == "install_snapshot":
            return f"{text} up to {args.last_index} of term {args.last_term}"
        if member == "request_vote_result":
            return f"{text}: {'yes' if args.vote_granted else 'no'}{' to a pre-vote' if args.pre_vote else ''}"
        kind = " (pre-vote)" if getattr(args, "pre_vote", False) else ""
        return f"{text}{kind}, last entry {args.last_log_index} of term {args.last_log_term}"


def entry(term: int, type: int, buf: bytes) -> str:
    """Return an entry in a few words."""
    if type == RAFT_COMMAND:
        n = int.from_bytes(buf[1:], "big")
        what = "the probe" if n == PROBE else f"command {n + 1}"
    elif type == RAFT_BARRIER:
        what = "barrier"
    else:
        assert type == RAFT_CHANGE
        what = roles(configuration.decode(buf)[1])
    return f"{what} of term {term}"


def roles(conf: RaftConfiguration) -> str:
    """Return a configuration in a few letters."""
    return "{" + " ".join(f"{name(s.id)}{LETTERS[s.role]}" for s in sorted(conf.servers, key=lambda s: s.id)) + "}"


def tell(search: Search, path: list[Step], goes_on: list[Step]) -> tuple[str, str]:
    """Return (what is broken at the end of a path or in a fair run that goes on from there, or ""; the story)."""
    replay = Replay(search)
    first, before = search.start()
    for step in before:
        replay.do(step)
    assert replay.state[:2] == first[:2]
    del replay.lines[:]
    del replay.steps[:]
    for step in path:
        replay.do(step)
        if replay.problem:
            break
    fairness = search.fairness
    if not replay.problem and fairness is not None and (goes_on or not fairness.reaches(replay.state)):
        replay.lines.append("      From here on nothing fails any more.")
        for step in goes_on or fairness.steps:
            replay.do(step)
            if replay.problem:
                path = replay.steps
                break
        if not replay.problem and not fairness.reaches(replay.state):
            replay.problem = fairness.problem
    scenario = search.scenario
    start = "server 1 leads and everybody has everything" if scenario.led else "everybody has just started"
    replayed = f"{scenario.name} {' '.join(write(step) for step in path)}"
    story = "\n".join(
        (
            replay.problem or "nothing is broken",
            f"  scenario {scenario.name}, servers {scenario.servers}: {start}",
            *replay.lines,
            f"  again: make explore REPLAY='{replayed}'",
        )
    )
    return replay.problem, story
