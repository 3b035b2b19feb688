"""Sessions, which make a command count once, however often it had to be sent (dissertation, section 6.3).

Duty: `Sessions` is the machine that remembers, for each session, the outcomes of its calls until they are acknowledged.
A call carries the session, its number in it, and the number up to which the caller has all outcomes.

Happy path: `open`, then for each call `find` (not there), the command is executed, `store`; later calls acknowledge it,
and its outcome is forgotten.

Failure modes: a call that comes again gets the outcome of its first execution. In sessions under a name callers choose
the numbers: `differs` tells that one has come again with something else. A session that has done nothing for `ttl` of
shared time is forgotten on all servers by the same entry; calls of a session that is not known are refused, never
executed: they might have been before.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from pyraft.node.containers import TrackedDict
from pyraft.node.machine import Machine, command
from pyraft.node.tracked import Record

TTL: Final = 3600 * 1_000_000
"""How long a session lives without a call, in microseconds of shared time."""

MAX_NAME: Final = 64
"""How long ids and names of sessions may be."""

NAMED: Final = b"="
"""The ids of sessions under a name begin with it. Others may by chance, which costs them some memory."""

MAX_OPEN: Final = 65_536
"""Outcomes that one session may leave unacknowledged. The one after is refused, so a caller cannot fill the memory."""


@dataclass
class Session(Record):
    """The memory of one session."""

    name: str
    seen: int
    """The shared time of its last call, in microseconds."""
    acknowledged: int = 0
    outcomes: dict[int, bytes] = field(default_factory=dict)
    marks: dict[int, bytes] = field(init=False, repr=False, compare=False)
    """The marks of those calls (`mark`); an attribute only of sessions under a name. Older versions pass it on as it is
    in snapshots, and keep outcomes without marks: whatever comes again under such a number passes for the same call."""

    def differs(self, number: int, machine: str, command: str, arguments: bytes) -> str:
        """Return how a call that comes again differs from that of its number, an empty text if it does not."""
        kept = self.__dict__.get("marks", {}).get(number)
        made = mark(machine, command, arguments)
        if kept is None or kept == made:
            return ""
        return "another command" if kept[:_NAME_BYTES] != made[:_NAME_BYTES] else "other arguments"


_NAME_BYTES: Final = 4
_ARGUMENT_BYTES: Final = 8


def mark(machine: str, command: str, arguments: bytes) -> bytes:
    """Return what stands for a call, short enough to be kept: digests of the command's name and of its arguments.

    The version is left out: a program that was upgraded makes the same call in the next one.
    """
    name = hashlib.blake2b(f"{machine}\0{command}".encode(), digest_size=_NAME_BYTES)
    return name.digest() + hashlib.blake2b(arguments, digest_size=_ARGUMENT_BYTES).digest()


class Sessions(Machine):
    """The sessions of a cluster, by id; those without a call for longest come first."""

    types = (Session,)

    def __init__(self, ttl: int = TTL) -> None:
        self.ttl = ttl
        self.sessions: dict[bytes, Session] = {}

    @command
    def open(self, id: bytes, name: str = "") -> bool:
        """Begin a session; returns whether it is new. To open one that is open already changes nothing."""
        if type(id) is not bytes or not 0 < len(id) <= MAX_NAME or type(name) is not str or len(name) > MAX_NAME:
            raise ValueError(f"the id of a session is 1 to {MAX_NAME} bytes, its name a text of up to {MAX_NAME}")
        if id in self.sessions:
            return False
        self.sessions[id] = Session(name, self._context().microseconds)
        return True

    @command
    def close(self, id: bytes) -> bool:
        """Forget a session; returns whether it was known."""
        return self.sessions.pop(id, None) is not None

    # The replica calls the methods below for each entry, inside a checkpoint. Their changes are never taken back: they
    # tell the journal once for each container, for a snapshot that is being taken, and then go around it.

    def touch(self, id: bytes, acknowledged: int, now: int) -> Session | None:
        """Return a session that a call has come from, or None if it is not known."""
        sessions = self.sessions
        session = sessions.get(id)
        if session is None:
            return None
        assert self._node is not None
        journal, state = self._node.journal, session.__dict__
        outcomes = session.outcomes
        if journal.frozen is not None:
            journal.changing_unseen(session)
            journal.changing_unseen(outcomes)  # type: ignore[arg-type]
        if state["seen"] != now:  # behind all that had no call since
            if journal.frozen is not None:
                journal.changing(sessions)  # type: ignore[arg-type]
                journal.changing_key(sessions, id)  # type: ignore[arg-type]
            dict.__delitem__(sessions, id)
            dict.__setitem__(sessions, id, session)
            state["seen"] = now
        former = state["acknowledged"]
        if acknowledged > former:
            if acknowledged == former + 1:
                dict.pop(outcomes, acknowledged, None)
            else:
                _forget(outcomes, former, acknowledged)
            if "marks" in state:
                _forget(self._marks(session), former, acknowledged)
            state["acknowledged"] = acknowledged
        return session

    def keep_mark(self, session: Session, number: int, kept: bytes) -> None:
        """Keep the mark of a call whose outcome is kept, behind `touch`."""
        if "marks" not in session.__dict__:
            assert self._node is not None
            session.marks = TrackedDict({}, self._node.journal)
        dict.__setitem__(self._marks(session), number, kept)

    def _marks(self, session: Session) -> dict[int, bytes]:
        """Return the marks of a session, which are about to change."""
        assert self._node is not None
        journal, marks = self._node.journal, session.marks
        if journal.frozen is not None:
            journal.changing_unseen(marks)  # type: ignore[arg-type]
        return marks

    def expire(self, now: int) -> list[bytes]:
        """Forget the sessions whose time is over; return their ids."""
        over: list[bytes] = []
        for id, session in self.sessions.items():
            if session.seen + self.ttl >= now:
                break
            over.append(id)
        for id in over:
            del self.sessions[id]
        return over


def _forget(outcomes: dict[int, bytes], former: int, acknowledged: int) -> None:
    """Drop the outcomes that have been acknowledged now."""
    if acknowledged - former <= len(outcomes):
        for number in range(former + 1, acknowledged + 1):
            if number in outcomes:
                dict.__delitem__(outcomes, number)
    else:
        for number in [n for n in outcomes if n <= acknowledged]:
            dict.__delitem__(outcomes, number)


def taken(name: str, number: int, command: str, how: str) -> str:
    """Return why a call under a number that was used is not executed."""
    return (
        f"call {number} of session {name!r} was made before with {how}, and {command}() was not executed now: give "
        "each call a number of its own, and make it again as it was"
    )
