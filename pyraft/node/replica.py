"""The machines of a node as one state machine for raft: entries in, outcomes out.

Duty: `Replica` executes the calls of each committed entry on its machines, once per session and number, keeps the time
that all servers share, and takes and restores snapshots of it all. It is the RaftFsm of a node, and pure: the same
entries give the same state and outcomes on every server.

An entry is a frame (`codec`) of [time, [call, …]], a call [session, number, acknowledged, machine, command, version,
arguments]; time is the leader's clock in microseconds since 1970, arguments are packed by themselves. An outcome is
packed [RESULT, value], [RAISED, class, args], [FAILED, class, text], [EXPIRED] or [FULL].

Happy path: `apply(entry)` -> (0, [outcome, …]). The log's clock takes the entry's time unless that is earlier.

Failure modes: a command that raises is rolled back, and that is its outcome, on all servers. MemoryError,
KeyboardInterrupt, and what is outside of Exception and is not raised again when the command is tried once more say
nothing about the command: they stop this server, whose state is then not used any more. So do a frame of a later
version and a command that the program does not have (MissingCommand), until the server is started with code that has
it. A snapshot that cannot be read leaves the state as it was.
"""

import builtins
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pyraft import RAFT_MALFORMED, Buffer, RaftFsm
from pyraft.node import snapshot
from pyraft.node.codec import Codec, frame, unframe
from pyraft.node.errors import CommandFailed, Malformed, MissingCommand, SessionExpired
from pyraft.node.machine import Context, Machine, bind, commands_of, queries_of
from pyraft.node.sessions import MAX_OPEN, Sessions
from pyraft.node.tracked import adopt, arrive

RESULT, RAISED, FAILED, EXPIRED, FULL = range(5)

OWN: Final = "pyraft."
"""The names of this layer's own machines begin with it."""

SESSIONS: Final = "pyraft.sessions"
"""The name of the machine that is always there."""

NO_SESSION: Final = b""
"""The session of calls that may be executed more than once: to open a session, for one."""

MAX_OUTCOME: Final = 4 << 20
"""How large a packed result may be: it is kept until it is acknowledged, and travels. Larger ones fail the command."""

_MAGIC: Final = "pyraft.node"
_FORMAT: Final = 1


class Replica(RaftFsm):
    """The machines of a node, by name."""

    __slots__ = (
        "_arguments",
        "_commands",
        "_count",
        "_errors",
        "_frozen",
        "_queries",
        "codec",
        "machines",
        "microseconds",
        "sessions",
    )

    def __init__(self, machines: Mapping[str, Machine]) -> None:
        """Tie `machines` to this replica. Raises as `machine.bind` does."""
        super().__init__()
        self.codec = Codec()
        self._arguments = self.codec.arguments()
        self.sessions = Sessions()
        self.machines: dict[str, Machine] = {SESSIONS: self.sessions, **machines}
        self.microseconds = 0
        """The shared time: that of the last entry."""
        self._count = 0
        self._commands: dict[tuple[str, str], Any] = {}
        self._queries: dict[tuple[str, str], Any] = {}
        self._errors: dict[str, dict[str, type[Exception]]] = {}
        self._frozen: list[tuple[Machine, Any]] | None = None
        for name, machine in self.machines.items():
            bind(machine, name, self.codec)
            self._errors[name] = {cls.__name__: cls for cls in type(machine).errors}
            for command in commands_of(type(machine)).values():
                self._commands[name, command.name] = command
            for query in queries_of(type(machine)).values():
                self._queries[name, query.name] = query.function
        self.apply = Replica.do_apply
        self.snapshot = Replica.do_snapshot
        self.snapshot_async = Replica.do_snapshot_async
        self.snapshot_finalize = Replica.do_snapshot_finalize
        self.restore = Replica.do_restore

    # Entries.

    def entry(self, microseconds: int, calls: list[list[Any]]) -> bytes:
        """Return the command for the log that has `calls` executed."""
        return frame(self.codec.pack([microseconds, calls]))

    def do_apply(self, buf: Buffer) -> tuple[int, list[bytes]]:
        """Execute the calls of an entry; return their outcomes. Malformed and MissingCommand stop the server."""
        microseconds, calls = self.codec.unpack(unframe(bytes(buf)))  # type: ignore[arg-type]
        for call in calls:
            self._find(call[3], call[4], call[5])  # all of an entry or nothing
        self.microseconds = max(self.microseconds, microseconds)
        sessions = self.sessions
        checkpoint = sessions.checkpoint()  # one for all calls of the entry: what they change here is not taken back
        sessions.expire(self.microseconds)
        outcomes = []
        for call in calls:
            if call[3] != SESSIONS:
                outcomes.append(self._call(*call))
                continue
            sessions.keep(checkpoint)  # its own command has a checkpoint of its own
            outcomes.append(self._call_sessions(*call))
            checkpoint = sessions.checkpoint()
        sessions.keep(checkpoint)
        return 0, outcomes

    def _find(self, machine: str, command: str, version: int) -> Any:
        found = self._commands.get((machine, command))
        function = None if found is None else found.versions.get(version)
        if function is None:
            raise MissingCommand(machine, command, version)
        return function

    def _call(
        self, id: bytes, number: int, acknowledged: int, machine: str, command: str, version: int, arguments: bytes
    ) -> bytes:
        """Execute a call of a program's machine, or return the outcome of one that must not be executed."""
        self._count += 1
        if id == NO_SESSION:
            return self._execute(machine, command, version, arguments)
        session = self.sessions.touch(id, acknowledged, self.microseconds)
        if session is None or number <= session.acknowledged:
            return self.codec.pack([EXPIRED])  # it may have been executed, and nobody can know
        outcomes = session.outcomes
        outcome = outcomes.get(number)
        if outcome is None:
            if len(outcomes) >= MAX_OPEN:
                return self.codec.pack([FULL])
            outcome = outcomes[number] = self._execute(machine, command, version, arguments)
        return outcome

    def _call_sessions(
        self, id: bytes, number: int, acknowledged: int, machine: str, command: str, version: int, arguments: bytes
    ) -> bytes:
        """Execute a call of the sessions themselves: harmless when it comes again, so none of these is remembered."""
        self._count += 1
        return self._execute(machine, command, version, arguments)

    def _execute(self, name: str, command: str, version: int, arguments: bytes) -> bytes:
        return self._twice(name, lambda: self._attempt(name, command, version, arguments))

    def _twice(self, name: str, attempt: Callable[[], bytes]) -> bytes:
        """Return what an attempt returns. If it raises twice what is outside of Exception, that is its outcome.

        SystemExit, for one, comes from a command, on all servers, or from the handler of a signal, on this one. After
        an attempt that raises all is as it was before, and a signal does not come twice.
        """
        try:
            return attempt()
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as exc:
            try:
                attempt()
            except type(exc) as again:
                return self._raised(name, again)
            raise

    def _attempt(self, name: str, command: str, version: int, arguments: bytes) -> bytes:
        machine = self.machines[name]
        function = self._find(name, command, version)
        binding = machine._node
        assert binding is not None
        checkpoint = machine.checkpoint()
        binding.context = Context(self.microseconds, f"{self.microseconds} {self._count}")
        try:
            args, kwargs = self._arguments.unpack(arguments)
            outcome = self.codec.pack([RESULT, function(machine, *args, **kwargs)])
            if len(outcome) > MAX_OUTCOME:
                raise ValueError(f"the result takes {len(outcome)} bytes, more than {MAX_OUTCOME}")
            machine.keep(checkpoint)
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as exc:
            machine.rollback(checkpoint)
            return self._raised(name, exc)
        except BaseException:
            machine.rollback(checkpoint)
            raise
        finally:
            binding.context = None
        return outcome

    def knows(self, machine: str, command: str, version: int) -> bool:
        """Return whether this program has a command: one that it does not have must not get into the log."""
        found = self._commands.get((machine, command))
        return found is not None and version in found.versions

    def offers(self) -> Iterator[tuple[str, str, int]]:
        """Yield the commands of this program: machine, command, version."""
        for (machine, command), found in self._commands.items():
            for version in found.versions:
                yield machine, command, version

    def versions(self, machine: str, command: str) -> list[int]:
        """Return the versions of a command that this program has."""
        found = self._commands.get((machine, command))
        return [] if found is None else list(found.versions)

    def newest(self, machine: str, command: str) -> int:
        """Return the version of a command that calls take. Raises LookupError if this program does not have it."""
        found = self._commands.get((machine, command))
        if found is None:
            raise LookupError(f"no command {command!r}")
        return int(found.newest)

    def asks(self, machine: str, query: str) -> bool:
        """Return whether this program has a query."""
        return (machine, query) in self._queries

    def answer(self, machine: str, query: str, arguments: bytes) -> bytes:
        """Answer a query whose arguments have come packed; return an outcome, as of a command."""
        return self._twice(machine, lambda: self._answer(machine, query, arguments))

    def _answer(self, machine: str, query: str, arguments: bytes) -> bytes:
        try:
            args, kwargs = self._arguments.unpack(arguments)
            outcome = self.codec.pack([RESULT, self._queries[machine, query](self.machines[machine], *args, **kwargs)])
            if len(outcome) > MAX_OUTCOME:
                raise ValueError(f"the result takes {len(outcome)} bytes, more than {MAX_OUTCOME}")
        except MemoryError:
            raise
        except Exception as exc:
            return self._raised(machine, exc)
        return outcome

    def says_yes(self, machine: str, query: str, arguments: bytes) -> bool:
        """Return whether a query whose arguments have come packed is true now. Malformed, or what it raises."""
        args, kwargs = self._arguments.unpack(arguments)
        return bool(self._queries[machine, query](self.machines[machine], *args, **kwargs))

    def ask(self, machine: Machine, query: str, args: Any, kwargs: Any) -> Any:
        """Answer a query from the state as it is now; return a copy, which the machine's user may change."""
        assert machine._node is not None
        answer = self._queries[machine._node.name, query](machine, *args, **kwargs)
        return answer if self.codec.is_leaf(answer) else self.codec.unpack(self.codec.pack(answer))

    def _raised(self, name: str, exc: BaseException) -> bytes:
        cls = type(exc)
        if self._errors[name].get(cls.__name__) is cls or getattr(builtins, cls.__name__, None) is cls:
            try:
                return self.codec.pack([RAISED, cls.__name__, list(exc.args)])
            except (TypeError, ValueError):
                pass
        return self.codec.pack([FAILED, cls.__name__, _text(exc)])

    def result(self, machine: str, outcome: bytes) -> Any:
        """Return the value that an outcome of `machine` stands for, or raise its exception."""
        kind, *what = self.codec.unpack(outcome)
        if kind == RESULT:
            return what[0]
        if kind == RAISED:
            name, args = what
            cls = self._errors[machine].get(name) or getattr(builtins, name, None)
            if isinstance(cls, type) and issubclass(cls, Exception):
                raise cls(*args)
            raise CommandFailed(name, ", ".join(map(str, args)))
        if kind == FAILED:
            raise CommandFailed(*what)
        if kind == FULL:
            raise SessionExpired(f"the session has left {MAX_OPEN} outcomes unacknowledged")
        raise SessionExpired("the cluster does not know the session, or not any more: the call was not executed")

    # Snapshots: started on the loop, encoded in a thread, ended on the loop.

    def do_snapshot(self) -> tuple[int, list[bytes]]:
        """Keep the state as it is now, for `do_snapshot_async`; returns the head of the snapshot."""
        assert self._frozen is None
        self._frozen = []
        names = [name for name, machine in self.machines.items() if not _is_unused(machine)]
        for machine in map(self.machines.__getitem__, names):
            own = machine.snapshot()
            if own is None:
                assert machine._node is not None
                assert machine.is_tracked
                machine._node.journal.start_snapshot()
                own = snapshot.write(machine, self.codec, snapshot.Frozen(machine._node.journal))
            self._frozen.append((machine, own))
        head = [_MAGIC, _FORMAT, self.microseconds, self._count, names]
        return 0, [self.codec.pack(head)]

    def do_snapshot_async(self, bufs: Any) -> tuple[int, list[bytes]]:
        """Encode the state, in a thread."""
        assert self._frozen is not None
        pieces = list(bufs)
        for machine, own in self._frozen:
            if machine.is_tracked and machine._node is not None and machine._node.journal.frozen is not None:
                pieces.extend(own)
            else:
                pieces.extend(self.codec.pack(bytes(piece)) for piece in own)
                pieces.append(self.codec.pack(None))
        return 0, pieces

    def do_snapshot_finalize(self, bufs: Any) -> int:
        """Keep nothing any more of the state that was encoded."""
        for machine, _ in self._frozen or ():
            if machine._node is not None:
                machine._node.journal.end_snapshot()
        self._frozen = None
        return 0

    def do_restore(self, buf: Any) -> int:
        """Take over the state of a snapshot. Returns RAFT_MALFORMED, and changes nothing, if it is none."""
        try:
            objects = self.codec.objects(buf)
            microseconds, count, names = self._head(objects)
            loaded = [(self.machines[name], self._load(self.machines[name], objects)) for name in names]
        except Malformed:
            return RAFT_MALFORMED
        unused: list[tuple[Machine, Any]] = [
            (machine, {}) for name, machine in self.machines.items() if machine.optional and name not in names
        ]
        for machine, content in loaded + unused:
            if isinstance(content, dict):
                for attribute in machine.content():
                    del machine.__dict__[attribute]
                machine.__dict__.update({**_beginning(machine), **content})
            else:
                machine.restore(content)
        self.microseconds, self._count = microseconds, count
        return 0

    def _head(self, objects: Iterator[Any]) -> tuple[int, int, list[str]]:
        head = next(objects, None)
        if type(head) is not list or len(head) != 5 or head[0] != _MAGIC:
            raise Malformed("no snapshot of a node")
        if head[1] != _FORMAT:
            raise Malformed(f"a snapshot of format {head[1]}, written by a later program")
        if type(head[2]) is not int or type(head[3]) is not int or type(head[4]) is not list:
            raise Malformed("no snapshot of a node")
        missing = [str(name) for name in head[4] if type(name) is not str or name not in self.machines]
        if missing:
            raise Malformed(f"a snapshot with machines that this program does not have: {', '.join(missing)}")
        return head[2], head[3], head[4]

    def _load(self, machine: Machine, objects: Iterator[Any]) -> Any:
        if type(machine).restore is not Machine.restore:
            return list(itertools.takewhile(lambda piece: piece is not None, objects))
        assert machine._node is not None
        name, content = snapshot.read(objects, self.codec, machine._node.journal)
        if name != type(machine).__name__:
            raise Malformed(f"a snapshot of a {name}, not of a {type(machine).__name__}")
        return content


def _is_unused(machine: Machine) -> bool:
    """Return whether a snapshot does without a machine, since it has its first state."""
    return machine.optional and machine.content() == type(machine)().content()


def _beginning(machine: Machine) -> dict[str, Any]:
    """Return the first state of a machine of this layer: older snapshots do not have all of its attributes."""
    assert machine._node is not None
    if not machine._node.name.startswith(OWN):
        return {}
    journal = machine._node.journal
    return {name: arrive(adopt(value, journal), journal) for name, value in type(machine)().content().items()}


def _text(exc: BaseException) -> str:
    try:
        return str(exc)[:1000]
    except Exception:
        return ""
