"""Replay a scenario on the fixture and print the same trace as the C library's cluster did for the same script.

Duty: the script language (one command a line, missing numbers are 0; servers count from 0, ids from 1), the trace
language, and, where a trace differs, the story of the difference. Both are described at the end of this head.

Happy path: `run(script)` returns the lines of the trace. `story(script, expected)` is "" if they are the ones
expected; otherwise it replays once more, up to the line that differs, with the tables of all servers watched, and
says where the two part, under which command, and what the servers concerned did last.

Failure modes: ValueError for a command that does not exist; an AssertionError of the fixture or the core passes.

Commands: `init n`, `grow`, `bootstrap voters`, `start`, `startone i`, `step n`; `prevote i b`, `threshold i n`,
`trailing i n`; `netlat i ms`, `disklat i ms`, `sendlat i j ms`, `rndelection i ms`; `apply i n v` (n buffers with the
numbers v, v+1, ... in one raft_apply), `barrier i`, `add i id`, `assign i id role`, `remove i id`, `transfer i id`;
`disconnect`, `reconnect`, `saturate`, `desaturate i j`; `kill`, `revive i`; `appendfault`, `sendfault`, `termfault`,
`votefault i delay`. The FSM is a 64-bit counter c that becomes 31 c + v.

Lines: `<command> a b c -> rv`; `cb <kind> <number of the command> ...` when a callback fires; and after each step
`ev <type> s<server> t<time> L<leader's id>` with ` | <x if dead><state> <term> v<vote> <last>/<commit>/<applied> #<c>`
for each server.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import pyraft
from pyraft import RaftApply, RaftBarrier, RaftChange, RaftFsm, RaftIo, RaftMessage, RaftTransfer, fixture
from pyraft.types import MESSAGE_NAMES

MASK: Final = (1 << 64) - 1
MAX_BUFS: Final = 8
TOLD_LINES: Final = 6
TOLD_EVENTS: Final = 14


class Counter(RaftFsm):
    """The FSM of all scenarios: c = 31 c + v, modulo 2**64."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 1
        self.c = 0
        self.apply = self._apply
        self.snapshot = self._snapshot
        self.restore = self._restore

    def _apply(self, _: RaftFsm, buf: bytes) -> tuple[int, int]:
        self.c = (self.c * 31 + int.from_bytes(buf[:8], "little")) & MASK
        return 0, self.c

    def _snapshot(self, _: RaftFsm) -> tuple[int, list[bytes]]:
        return 0, [self.c.to_bytes(8, "little")]

    def _restore(self, _: RaftFsm, buf: Any) -> int:
        self.c = int.from_bytes(bytes(buf)[:8], "little")
        return 0


class Replay:
    """One run of a script. `trace` grows line by line; `line` is the number of the command under way, from 1."""

    def __init__(self, watched: "Watch | None" = None) -> None:
        self.f = fixture.RaftFixture()
        self.fsms: list[Counter] = []
        self.trace: list[str] = []
        self.line = 0
        self.watched = watched

    def run(self, script: str, max_lines: int | None = None) -> list[str]:
        """Run all commands, or as many as it takes for `max_lines` lines; return the trace."""
        for number, text in enumerate(script.split("\n"), 1):
            if max_lines is not None and len(self.trace) >= max_lines:
                break
            words = text.split()
            if not words:
                continue
            self.line = number
            op = words[0]
            a, b, c = (int(w) for w in (*words[1:], "0", "0", "0")[:3])
            if op == "step":
                for _ in range(a):
                    if max_lines is None or len(self.trace) < max_lines:
                        self.step()
                continue
            command = COMMANDS.get(op)
            if command is None:
                raise ValueError(f"no command {op!r} in line {number}")
            rv = command(self, a, b, c) or 0
            self.trace.append(f"{op} {a} {b} {c} -> {rv}")
        return self.trace

    def step(self) -> None:
        """One raft_fixture_step, and its line."""
        f = self.f
        event = fixture.raft_fixture_step(f)
        parts = [f"ev {event.type} s{event.server_index} t{f.time} L{f.leader_id}"]
        for s, fsm in zip(f.servers, self.fsms, strict=True):
            r = s.raft
            parts.append(
                f"{'' if s.alive else 'x'}{r.state} {r.current_term} v{s.impl.voted_for} "
                f"{pyraft.raft_last_index(r)}/{r.commit_index}/{pyraft.raft_last_applied(r)} #{fsm.c:x}"
            )
        self.trace.append(" | ".join(parts))

    # Commands; each returns the code, None for a void function.

    def init(self, n: int, _b: int, _c: int) -> int:
        rv = fixture.raft_fixture_init(self.f)
        for _ in range(n):
            rv = rv or self.grow(0, 0, 0)
        return rv

    def grow(self, _a: int, _b: int, _c: int) -> int:
        self.fsms.append(Counter())
        rv = fixture.raft_fixture_grow(self.f, self.fsms[-1])
        if self.watched is not None:
            self.watched.server(self.f, self.f.n - 1)
        return rv

    def bootstrap(self, voters: int, _b: int, _c: int) -> int:
        rv, conf = fixture.raft_fixture_configuration(self.f, voters)
        return rv or fixture.raft_fixture_bootstrap(self.f, conf)

    def apply(self, i: int, n: int, v: int) -> int:
        n = min(max(n, 1), MAX_BUFS)
        bufs = [((v + k) & MASK).to_bytes(8, "little") for k in range(n)]
        return pyraft.raft_apply(self._raft(i), RaftApply(), bufs, n, self._tagged("apply", self.fsms[i]))

    def barrier(self, i: int, _b: int, _c: int) -> int:
        return pyraft.raft_barrier(self._raft(i), RaftBarrier(), self._tagged("barrier"))

    def add(self, i: int, id: int, _c: int) -> int:
        return pyraft.raft_add(self._raft(i), RaftChange(), id, str(id), self._tagged("change"))

    def assign(self, i: int, id: int, role: int) -> int:
        return pyraft.raft_assign(self._raft(i), RaftChange(), id, role, self._tagged("change"))

    def remove(self, i: int, id: int, _c: int) -> int:
        return pyraft.raft_remove(self._raft(i), RaftChange(), id, self._tagged("change"))

    def transfer(self, i: int, id: int, _c: int) -> int:
        return pyraft.raft_transfer(self._raft(i), RaftTransfer(), id, self._tagged("transfer"))

    def _raft(self, i: int) -> pyraft.Raft:
        return fixture.raft_fixture_get(self.f, i)

    def _tagged(self, kind: str, fsm: Counter | None = None) -> Callable[..., None]:
        tag = self.line

        def cb(req: Any, status: int | None = None, result: Any = None) -> None:
            text = f"cb {kind} {tag}"
            if status is not None:
                text += f" status {status}"
            if fsm is not None:
                text += f" result {fsm.c if status == 0 else 0}"
                assert status != 0 or result == fsm.c, "the result that the FSM returned was lost"
            self.trace.append(text)

        return cb


def _on_raft(function: Callable[[Any, int], Any]) -> Callable[[Replay, int, int, int], Any]:
    return lambda replay, i, b, _: function(fixture.raft_fixture_get(replay.f, i), b)


def _on_server(function: Callable[[Any, int], Any]) -> Callable[[Replay, int, int, int], Any]:
    return lambda replay, i, _b, _c: function(replay.f, i)


def _on_pair(function: Callable[[Any, int, int], Any]) -> Callable[[Replay, int, int, int], Any]:
    return lambda replay, i, b, _: function(replay.f, i, b)


COMMANDS: Final[dict[str, Callable[[Replay, int, int, int], Any]]] = {
    "init": Replay.init,
    "grow": Replay.grow,
    "bootstrap": Replay.bootstrap,
    "start": lambda replay, _a, _b, _c: fixture.raft_fixture_start(replay.f),
    "startone": lambda replay, i, _b, _c: pyraft.raft_start(fixture.raft_fixture_get(replay.f, i)),
    "prevote": _on_raft(lambda r, b: pyraft.raft_set_pre_vote(r, b != 0)),
    "threshold": _on_raft(pyraft.raft_set_snapshot_threshold),
    "trailing": _on_raft(pyraft.raft_set_snapshot_trailing),
    "netlat": _on_pair(fixture.raft_fixture_set_network_latency),
    "disklat": _on_pair(fixture.raft_fixture_set_disk_latency),
    "sendlat": lambda replay, i, j, ms: fixture.raft_fixture_set_send_latency(replay.f, i, j, ms),
    "rndelection": _on_pair(fixture.raft_fixture_set_randomized_election_timeout),
    "apply": Replay.apply,
    "barrier": Replay.barrier,
    "add": Replay.add,
    "assign": Replay.assign,
    "remove": Replay.remove,
    "transfer": Replay.transfer,
    "disconnect": _on_pair(fixture.raft_fixture_disconnect),
    "reconnect": _on_pair(fixture.raft_fixture_reconnect),
    "saturate": _on_pair(fixture.raft_fixture_saturate),
    "desaturate": _on_pair(fixture.raft_fixture_desaturate),
    "kill": _on_server(fixture.raft_fixture_kill),
    "revive": _on_server(fixture.raft_fixture_revive),
    "appendfault": _on_pair(fixture.raft_fixture_append_fault),
    "sendfault": _on_pair(fixture.raft_fixture_send_fault),
    "termfault": _on_pair(fixture.raft_fixture_term_fault),
    "votefault": _on_pair(fixture.raft_fixture_vote_fault),
}


class Watch:
    """The last things that each server asked of its table or was told through it, for the story of a difference."""

    def __init__(self) -> None:
        self.events: list[deque[str]] = []

    def server(self, f: fixture.RaftFixture, i: int) -> None:
        """Watch server `i`, which was just added."""
        events: deque[str] = deque(maxlen=TOLD_EVENTS)
        self.events.append(events)
        io = f.servers[i].io

        def note(text: str) -> None:
            events.append(f"t{f.time} {text}")

        def wrap(name: str, describe: Callable[..., str]) -> None:
            inner = getattr(io, name)

            def watched(*args: Any) -> Any:
                rv = inner(*args)
                note(f"{name} {describe(*args[1:])}" + (f" -> {rv}" if rv else ""))
                return rv

            setattr(io, name, watched)

        wrap("set_term", str)
        wrap("set_vote", str)
        wrap("truncate", str)
        wrap("send", lambda req, message, cb: f"to {message.server_id}: {describe_message(message)}")
        wrap("append", lambda req, entries, n, cb: f"{n} of terms {[entries[k].term for k in range(min(n, 8))]}")
        wrap("snapshot_put", lambda trailing, req, snapshot, cb: f"index {snapshot.index}, trailing {trailing}")
        wrap("snapshot_get", lambda *_: "")
        wrap("async_work", lambda *_: "")
        start = io.start

        def watched_start(io: RaftIo, msecs: int, tick: Any, recv: Any) -> int:
            def watched_recv(io: RaftIo, message: RaftMessage) -> None:
                note(f"receives from {message.server_id}: {describe_message(message)}")
                recv(io, message)

            rv: int = start(io, msecs, tick, watched_recv)
            return rv

        io.start = watched_start


def describe_message(message: RaftMessage) -> str:
    """Return a message in one line: its type and the fields that matter."""
    for name in (
        "append_entries",
        "append_entries_result",
        "request_vote",
        "request_vote_result",
        "install_snapshot",
        "timeout_now",
    ):
        args = getattr(message, name)
        if args is not None:
            fields = []
            for field in (name for name in dir(args) if name[0] != "_"):  # a compiled class has no __slots__
                value = getattr(args, field)
                if field == "entries":
                    fields.append(f"entries={[(e.term, e.type) for e in value]}")
                elif field not in ("version", "data", "conf", "n_entries"):
                    fields.append(f"{field}={value}")
            return f"{MESSAGE_NAMES[message.type]}({', '.join(fields)})"
    return f"message of type {message.type}"


def run(script: str) -> list[str]:
    """Replay a script; return its trace."""
    return Replay().run(script)


def story(script: str, expected: list[str]) -> str:
    """Return "" if the script's trace is the expected one, else where and how they part."""
    first = Replay()
    failure = ""
    try:
        first.run(script)
    except Exception as exc:
        failure = f"{type(exc).__name__}: {exc}"
    got = first.trace
    if got == expected and not failure:
        return ""
    at = next((k for k, (g, e) in enumerate(zip(got, expected, strict=False)) if g != e), min(len(got), len(expected)))
    watch = Watch()
    again = Replay(watch)
    try:
        again.run(script, at + 1)
    except Exception as exc:
        failure = f"{type(exc).__name__}: {exc}"
    want = expected[at] if at < len(expected) else "(the end)"
    have = got[at] if at < len(got) else failure or "(the end)"
    command = script.split("\n")[again.line - 1]
    lines = [f"line {at + 1} of {len(expected)} differs, under command {again.line} ({command})"]
    lines += [f"  before   {text}" for text in expected[max(0, at - TOLD_LINES) : at]]
    lines += [f"  expected {want}", f"  got      {have}"]
    for i in concerned(want, have, len(watch.events)):
        lines.append(f"server {i} (id {i + 1}), last:")
        lines += [f"    {text}" for text in watch.events[i]]
    return "\n".join(lines)


def concerned(want: str, have: str, n: int) -> list[int]:
    """Return the servers that two differing lines are about: those whose part differs, or whose event it is."""
    if not (want.startswith("ev ") and have.startswith("ev ")):
        return list(range(n))
    w, h = want.split(" | "), have.split(" | ")
    servers = {k - 1 for k in range(1, min(len(w), len(h))) if w[k] != h[k]}
    servers |= {int(line.split()[2][1:]) for line in (want, have)}
    return sorted(i for i in servers if i < n)
