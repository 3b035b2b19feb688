"""The machines of a node as one state machine for raft: entries in, outcomes out.

Duty: `Replica` executes the calls of each committed entry on its machines, once per session and number, keeps the time
that all servers share, and takes and restores snapshots of it all. It is the RaftFsm of a node, and pure: the same
entries give the same state and outcomes on every server.

An entry is a frame (`codec`) of [time, [call, …]], a call [session, number, acknowledged, machine, command, version,
arguments]; time is the leader's clock in microseconds since 1970, arguments are packed by themselves. An outcome is
packed [RESULT, value], [RAISED, class, args], [FAILED, class, text], [EXPIRED] or [FULL]. A number that has come again,
in a session under a name, with another command or other arguments is FAILED, with a class that this layer means by it.

Happy path: `apply(entry)` -> (0, [outcome, …]). The log's clock takes the entry's time unless that is earlier.

Failure modes: a command that raises is rolled back, and the exception is its outcome, on all servers; a RecursionError
only if it is raised again on a thread of its own. MemoryError, KeyboardInterrupt, and exceptions outside of Exception
that are not raised again when the command is tried once more say nothing about the command: they stop this server,
whose state is then not used any more. So do a frame of a later version and a command that the program does not have
(MissingCommand), until the server is started with code that has it. A snapshot that cannot be read leaves the state as
it was, and the log has the reason.
"""

import copy
import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias

from pyraft import RAFT_MALFORMED, Buffer, RaftFsm
from pyraft.errors import printable
from pyraft.node import snapshot
from pyraft.node.codec import CLASS, SCALARS, Codec, Objects, frame, unframe
from pyraft.node.errors import Foreign, ForeignCall, Malformed, MissingCommand, OtherProgram
from pyraft.node.machine import (
    LOOKING,
    Binding,
    Context,
    Machine,
    beginning_of,
    bind,
    check_awaited,
    commands_of,
    is_unused,
    queries_of,
)
from pyraft.node.outcomes import (
    EXPIRED,
    FAILED,
    FULL,
    MAX_NESTED,
    MAX_OUTCOME,
    NOTHING,
    REFUSED,
    RESULT,
    Outcomes,
    check_depth,
    too_large,
)
from pyraft.node.registry import REGISTRY
from pyraft.node.sessions import MAX_OPEN, NAMED, Session, Sessions, mark, taken
from pyraft.node.signatures import Parameters
from pyraft.node.tracked import adopt, arrive

_logger: Final = logging.getLogger("pyraft")

OWN: Final = "pyraft."
"""The names of this layer's own machines begin with it."""

SESSIONS: Final = "pyraft.sessions"
"""The name of the machine that is always there."""

NO_SESSION: Final = b""
"""The session of calls that may be executed more than once: to open a session, for one."""

_MAGIC: Final = "pyraft.node"
_FORMAT: Final = 1

_State: TypeAlias = tuple[int, int, list[tuple[Machine, Any]]]
"""A snapshot as it was read: shared time, calls so far, of each machine its attributes, or where its pieces begin."""


def _on_a_stack_of_its_own(attempt: Callable[[], bytes]) -> bytes:
    """Return what `attempt` returns where the stack is as deep on every member.

    Members execute a command at different depths, as they lead, follow or start. Without this a command that recurses
    into its data could have enough of the stack on one member and raise RecursionError on another.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(attempt).result()


class Replica(RaftFsm):
    """The machines of a node, by name."""

    __slots__ = (
        "_arguments",
        "_beginnings",
        "_commands",
        "_count",
        "_frozen",
        "_functions",
        "_look",
        "_outcomes",
        "_prepared",
        "_queries",
        "codec",
        "discard",
        "machines",
        "microseconds",
        "outgoing",
        "parameters",
        "problem",
        "sessions",
        "unreadable",
    )

    def __init__(self, machines: Mapping[str, Machine]) -> None:
        """Tie `machines` to this replica. Raises as `machine.bind` does."""
        super().__init__()
        self.codec = Codec()
        self._arguments = self.codec.arguments()
        self._look = self.codec.arguments()
        self._outcomes = Outcomes(self.codec)
        self.outgoing = self.codec.outgoing()
        """Packs the arguments of calls, and snapshots."""
        self.sessions = Sessions()
        self.machines: dict[str, Machine] = {SESSIONS: self.sessions, **machines}
        self.microseconds = 0
        """The shared time: that of the last entry."""
        self._count = 0
        self._commands: dict[tuple[str, str], Any] = {}
        self._functions: dict[tuple[str, str, int], tuple[Machine, Callable[..., Any], Binding]] = {}
        self._queries: dict[tuple[str, str], Any] = {}
        self._frozen: list[tuple[Machine, Any]] | None = None
        self._prepared: tuple[Any, _State | None] = (None, None)
        self.unreadable = ""
        """The part of the last snapshot that cannot be read, as a text."""
        self.problem: Exception | None = None
        """The error that keeps the state from being encoded, as of the last snapshot that was to be taken."""
        self.discard: Callable[[dict[str, Any]], None] = lambda content: None
        """Called with a state that was replaced, and that nobody uses any more."""
        self._beginnings: dict[str, dict[str, Any]] = {}
        for name, machine in self.machines.items():
            beginning = beginning_of(machine)
            binding = bind(machine, name, self.codec)
            self._beginnings[name] = beginning
            self._outcomes.errors[name] = {cls.__name__: cls for cls in type(machine).errors}
            for command in commands_of(type(machine)).values():
                self._commands[name, command.name] = command
                for version, function in command.versions.items():
                    self._functions[name, command.name, version] = machine, function, binding
            for query in queries_of(type(machine)).values():
                self._queries[name, query.name] = query.function
        own = [key for key in self._functions if not key[0].startswith(OWN)]
        registry: Any = self.machines.get(REGISTRY)
        self.parameters = Parameters(self._functions, own, registry, self.codec, self._arguments)
        self.apply = Replica.do_apply
        self.apply_batch = Replica.do_apply_batch
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
        return 0, self._run(*self._open(buf))

    def do_apply_batch(self, bufs: Sequence[Buffer]) -> tuple[int, list[list[bytes]]]:
        """Execute the calls of several entries; return the outcomes of each.

        The call ends in front of an entry for which `do_apply` would raise, with a code: the core has that one do it.
        """
        entries = []
        for buf in bufs:
            try:
                entries.append(self._open(buf))
            except Exception:
                break
        results: list[list[bytes]] = []
        for entry in entries:
            try:
                results.append(self._run(*entry))
            except OtherProgram as exc:
                exc.entry = len(results)  # behind the first one
                raise
        return 0 if len(entries) == len(bufs) else RAFT_MALFORMED, results

    def _open(self, buf: Buffer) -> tuple[int, list[Any]]:
        """Return time and calls of an entry whose commands are all here: all of an entry is executed, or nothing."""
        microseconds, calls = self.codec.unpack(unframe(bytes(buf)))  # type: ignore[arg-type]
        functions, known = self._functions, None
        for call in calls:
            key = (call[3], call[4], call[5])
            if key != known and key not in functions:
                raise MissingCommand(*key)
            known = key
        return microseconds, calls

    def _run(self, microseconds: int, calls: list[Any]) -> list[bytes]:
        now = self.microseconds = max(self.microseconds, microseconds)
        sessions, context = self.sessions, Context(now)
        assert sessions._node is not None
        journal = sessions._node.journal
        assert journal.undo is None
        journal.undo = []  # once for all calls of the entry: what they change of sessions is not taken back
        sessions.expire(now)
        outcomes = []
        caller: Any = None
        session: Session | None = None
        is_named = False
        kept: dict[int, bytes] = {}
        for id, number, acknowledged, machine, command, version, arguments in calls:
            context.number = self._count = self._count + 1
            if machine == SESSIONS:  # harmless when it comes again, so the outcome is not remembered
                journal.commit()  # its own command has a checkpoint of its own
                outcomes.append(self._execute(machine, command, version, arguments, context))
                journal.begin()
                caller = None
            elif id == NO_SESSION:
                outcomes.append(self._execute(machine, command, version, arguments, context))
            else:
                if caller != (id, acknowledged):  # those of a caller come one behind the other
                    caller = id, acknowledged
                    session = sessions.touch(id, acknowledged, now)
                    is_named = id[:1] == NAMED
                    kept = {} if session is None else session.outcomes
                if session is None or number <= session.acknowledged:
                    outcome = self.codec.pack([EXPIRED])  # it may have been executed, and nobody can know
                elif number in kept:
                    outcome = kept[number]
                    if is_named and (how := session.differs(number, machine, command, arguments)):
                        outcome = self.codec.pack([FAILED, REFUSED, taken(session.name, number, command, how)])
                elif len(kept) >= MAX_OPEN:
                    outcome = self.codec.pack([FULL])
                else:
                    outcome = self._execute(machine, command, version, arguments, context)
                    dict.__setitem__(kept, number, outcome)  # `touch` has told the journal that they change
                    if is_named:
                        sessions.keep_mark(session, number, mark(machine, command, arguments))
                outcomes.append(outcome)
            if machine == REGISTRY:
                self.parameters.agree()
        if journal.fresh:
            journal.commit()
        else:
            journal.undo = None
        return outcomes

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
            return self._again(name, exc, attempt)

    def _again(self, name: str, exc: BaseException, attempt: Callable[[], bytes]) -> bytes:
        """Return `exc` as an outcome if another attempt raises it as well, else raise it."""
        try:
            attempt()
        except type(exc) as again:
            return self._outcomes.raised(name, again)
        raise exc

    def _execute(
        self, name: str, command: str, version: int, arguments: bytes, context: Context, again: bool = False
    ) -> bytes:
        """Return the outcome of a command. `again` says that it was interrupted, and this is its second attempt."""
        machine, function, binding = self._functions[name, command, version]
        journal = binding.journal if binding.is_plain else None
        checkpoint = None
        if journal is None:
            checkpoint = machine.checkpoint()
        else:
            assert journal.undo is None, "a command runs inside another one"
            journal.undo = []
        context.generator = None
        binding.context = context
        try:
            args, kwargs = self._arguments.unpack(arguments)
            value = function(machine, *args, **kwargs)
            if value is None:
                outcome = NOTHING
            else:
                try:
                    outcome = self.codec.pack([RESULT, value])
                except TypeError:
                    check_awaited(command, value)
                    raise
                except ValueError:
                    check_depth(value)  # older versions of msgpack give up before it is packed
                    raise
                if len(outcome) > MAX_NESTED:  # else it is neither too large nor nested too deep
                    check_depth(value)
                    if len(outcome) > MAX_OUTCOME:
                        raise ValueError(too_large(len(outcome)))
            if journal is None:
                machine.keep(checkpoint)
            elif journal.fresh:
                journal.commit()
            else:
                journal.undo = None
            return outcome
        except (KeyboardInterrupt, MemoryError):
            raise
        except Foreign as exc:  # of the arguments: members whose programs have the class execute this
            raise ForeignCall(command, str(exc)) from None
        except Exception as exc:
            machine.rollback(checkpoint)
            if isinstance(exc, TypeError) and self.parameters.is_misfit((name, command, version), arguments):
                exc = TypeError(f"the arguments do not fit {command}()")  # Python's own words are its version's
            if again or not isinstance(exc, RecursionError):
                return self._outcomes.raised(name, exc)
            interruption: BaseException = exc
        except BaseException as exc:
            machine.rollback(checkpoint)
            if again:
                raise
            interruption = exc
        finally:
            binding.context = None

        def attempt() -> bytes:
            return self._execute(name, command, version, arguments, context, again=True)

        if isinstance(interruption, RecursionError):
            return _on_a_stack_of_its_own(attempt)
        return self._again(name, interruption, attempt)

    def knows(self, machine: str, command: str, version: int) -> bool:
        """Return whether this program has a command: one that it does not have must not get into the log."""
        return (machine, command, version) in self._functions

    def offers(self) -> Iterator[tuple[str, str, int]]:
        """Yield the commands of this program: machine, command, version."""
        yield from self._functions

    def classes(self) -> list[str]:
        """Return the classes of this program's values, with their fields and members (`codec.offers_of`)."""
        own = [cls for name, machine in self.machines.items() if name.startswith(OWN) for cls in type(machine).types]
        return [CLASS, *self.codec.offers(own)]

    def leave_out(self, fields: Collection[str]) -> None:
        """Leave out fields that other members lack, as `classes` names them, where an object has their default.

        They read the others then, and this member may go back to a program without these fields.
        """
        self.outgoing.left_out = fields

    def classes_in(self, arguments: bytes) -> set[str]:
        """Return the classes in packed arguments. Raises Foreign for what this program does not have."""
        met = self._look.met = set()
        try:
            self._look.unpack(arguments)
        except Foreign:
            raise
        except Malformed:
            pass  # all members come to the same
        return met

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
            outcome = self.codec.pack([RESULT, self._looked(self.machines[machine], query, args, kwargs)])
            if len(outcome) > MAX_OUTCOME:
                raise ValueError(too_large(len(outcome)))
        except MemoryError:
            raise
        except Exception as exc:
            return self._outcomes.raised(machine, exc)
        return outcome

    def _looked(self, machine: Machine, query: str, args: Any, kwargs: Any) -> Any:
        """Return what a query returns, which calls nothing else meanwhile."""
        binding = machine._node
        assert binding is not None
        binding.context = LOOKING
        try:
            answer = self._queries[binding.name, query](machine, *args, **kwargs)
        finally:
            binding.context = None
        if type(answer) not in SCALARS:
            check_awaited(query, answer)
        return answer

    def says_yes(self, machine: str, query: str, arguments: bytes) -> bool:
        """Return whether a query whose arguments have come packed is true now. Malformed, or what it raises."""
        args, kwargs = self._arguments.unpack(arguments)
        return bool(self._queries[machine, query](self.machines[machine], *args, **kwargs))

    def ask(self, machine: Machine, query: str, args: Any, kwargs: Any) -> Any:
        """Answer a query from the state as it is now; return a copy, which the machine's user may change."""
        answer = self._looked(machine, query, args, kwargs)
        if type(answer) in SCALARS or self.codec.is_leaf(answer):
            return answer
        return self.codec.unpack(self.codec.pack(answer))

    def result(self, machine: str, outcome: bytes) -> Any:
        """Return the value that an outcome of `machine` stands for, or raise its exception."""
        return self._outcomes.result(machine, outcome)

    # Snapshots: started on the loop, encoded in a thread, ended on the loop.

    def do_snapshot(self) -> tuple[int, list[bytes]]:
        """Keep the state as it is now, for `do_snapshot_async`; returns the head of the snapshot.

        An exception of a machine is kept as `problem`, and `pieces` raises it: nothing is stored then.
        """
        assert self._frozen is None
        self._frozen = []
        self.problem = None
        names = [name for name, machine in self.machines.items() if not is_unused(machine)]
        try:
            for machine in map(self.machines.__getitem__, names):
                self._frozen.append((machine, self._freeze(machine)))
        except Exception as exc:
            self.problem = exc
        head = [_MAGIC, _FORMAT, self.microseconds, self._count, names]
        return 0, [self.codec.pack(head)]

    def _freeze(self, machine: Machine) -> Iterable[bytes]:
        """Return the pieces of a machine's state as it is now."""
        own = machine.snapshot()
        if own is None:
            assert machine._node is not None
            assert machine.is_tracked
            machine._node.journal.start_snapshot()
            gone = self._beginnings[machine._node.name].keys() - machine.content()
            return snapshot.write(machine, self.outgoing, snapshot.Frozen(machine._node.journal), sorted(gone))
        return own

    def do_snapshot_async(self, bufs: Any) -> tuple[int, list[bytes]]:
        """Encode the state as a whole, in a thread. A node has it written as it is encoded instead (`streams`)."""
        return 0, [*bufs, *self.pieces()]

    def pieces(self) -> Iterator[bytes]:
        """Yield the state that `do_snapshot` has kept, behind its head, piece by piece; in a thread."""
        assert self._frozen is not None
        if self.problem is not None:
            raise self.problem
        for machine, own in self._frozen:
            if machine.is_tracked and machine._node is not None and machine._node.journal.frozen is not None:
                yield from own
            else:
                for piece in own:
                    yield self.codec.pack(bytes(piece))
                yield self.codec.pack(None)

    def do_snapshot_finalize(self, bufs: Any) -> int:
        """Keep nothing any more of the state that was encoded."""
        for machine in self.machines.values():
            if machine._node is not None:
                machine._node.journal.end_snapshot()
        self._frozen = None
        return 0

    def prepare(self, buf: Any) -> None:
        """Read a snapshot ahead, in a thread, while queries and commands go on: `do_restore` of it is short then."""
        self._prepared = buf, self._read(buf)

    def forget(self) -> None:
        """Keep nothing of a snapshot that was read ahead, restored or not."""
        self._prepared = None, None

    def do_restore(self, buf: Any) -> int:
        """Take over the state of a snapshot. Returns RAFT_MALFORMED, and changes nothing, if it cannot be read."""
        prepared, state = self._prepared
        self.forget()
        if prepared is not buf:
            state = self._read(buf)
        if state is None:
            return RAFT_MALFORMED
        microseconds, count, loaded = state
        names = [machine._node.name for machine, _ in loaded if machine._node is not None]
        unused: list[tuple[Machine, Any]] = [
            (machine, {}) for name, machine in self.machines.items() if machine.optional and name not in names
        ]
        for machine, content in loaded + unused:
            if isinstance(content, dict):
                former = machine.content()
                for attribute in former:
                    del machine.__dict__[attribute]
                machine.__dict__.update(self._completed(machine, content))
                self.discard(former)
            else:
                machine.restore(self._own(buf, content))
        self.microseconds, self._count = microseconds, count
        self.parameters.agree()
        return 0

    def _completed(self, machine: Machine, content: dict[str, Any]) -> dict[str, Any]:
        """Return the attributes of a snapshot with those that the program has got since, as they are at first.

        Members that were there all the time have them: without them commands would come to something else here.
        """
        assert machine._node is not None
        journal = machine._node.journal
        state = dict(content)
        for name, value in self._beginnings[machine._node.name].items():
            if name not in content:
                state[name] = arrive(adopt(copy.deepcopy(value), journal), journal)
        return {name: value for name, value in state.items() if not snapshot.is_gone(value)}

    def _read(self, buf: Any) -> _State | None:
        """Return what a snapshot holds, None if it cannot be read; for a machine with its own restore, its place."""
        try:
            objects = self.codec.objects(buf)
            microseconds, count, names = self._head(objects)
            return (
                microseconds,
                count,
                [(self.machines[name], self._load(self.machines[name], objects)) for name in names],
            )
        except Malformed as exc:
            self.unreadable = printable(str(exc))
            _logger.error("a snapshot cannot be taken over by this program: %s", self.unreadable)
            return None

    def _own(self, buf: Any, at: int) -> Iterator[bytes]:
        """Yield the pieces of a machine with a restore of its own; there is a None behind them (`_load`)."""
        return itertools.takewhile(lambda piece: piece is not None, self.codec.objects(buf, at))

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

    def _load(self, machine: Machine, objects: Objects) -> Any:
        if type(machine).restore is not Machine.restore:
            at = objects.at
            for piece in objects:
                if piece is None:
                    return at
                if type(piece) is not bytes:
                    raise Malformed(f"a snapshot with a {type(piece).__name__} where a piece should be")
            raise Malformed("a snapshot that ends in the pieces of a machine")
        assert machine._node is not None
        name, content = snapshot.read(objects, self.codec, machine._node.journal)
        if name != type(machine).__name__:
            raise Malformed(f"a snapshot of a {name}, not of a {type(machine).__name__}")
        return content
