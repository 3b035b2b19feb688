"""Servers as values: `freeze` turns a graph of objects into nested tuples that hash and compare, `thaw` makes it again.

Duty: a frozen graph keeps what a step can depend on and nothing else. It is generic over slots, so that it knows no
field of the core by name but those listed below. An object that is met again, in another place or in a cycle, is a
back reference, so that sharing survives.

These are left out or made equal, as no behaviour depends on them:

* `Raft.io`, `fsm`, `tracer`: the same for all servers, put back by `thaw`; `flush`: see io.defer; `errmsg`: a text;
* what was logged last, so that it is not logged again, and counts for metrics (see `_LEFT_OUT`);
* points in time, which are the numbers from `EPOCH` to `NOBODYS`: only how long ago they were, and of that only
  whether it was at the same moment, below `LONG` ms ago or longer. Clocks jump by 1 or by `LONG`, and every timeout of
  a scenario is one of the two, so no comparison in the core can tell more;
* the order of the servers in a configuration. Everything that runs parallel to it is stored with the server's ID and
  thawed in the order of the IDs. The core sends and counts in the order of the configuration, but messages to
  different servers do not meet, and counting does not depend on it.

Renaming: IDs are the numbers from `FIRST_ID` on, addresses start with "@", configurations in entries are decoded. So
`freeze` can give the servers other names wherever these stand; `masked` gives all the same one.

Failure modes: an object of a class without slots raises TypeError; a list that does not run parallel to the
configuration any more raises ValueError, as then the rules above have to be written anew.
"""

import sys
from collections import deque
from types import BuiltinFunctionType, CellType, FunctionType
from typing import Any, Final

from pyraft import configuration
from pyraft.state import CandidateState, LeaderState, Raft, Said
from pyraft.tracing import NoopTracer
from pyraft.types import NOBODYS, RAFT_VOTER, RaftConfiguration, RaftServer

FIRST_ID: Final = 1 << 40
EPOCH: Final = 1 << 50
NOW: Final = EPOCH + (1 << 20)
"""The time of every clock in a frozen server, so that the times in it are values too."""
LONG: Final = 1000
MASK: Final = FIRST_ID - 1
"""The one ID that everybody has in a masked graph."""

_ATOMS: Final = {type(None), bool, str, float, BuiltinFunctionType}
_LEFT_OUT: Final[dict[type, set[str]]] = {
    Raft: {
        *("io", "fsm", "tracer", "flush", "errmsg", "data", "counts", "thread"),
        *("told", "told_removed", "told_uncommitted_index"),
    },
    Said: {
        *("leader_id", "leader_term", "rounds", "short", "elsewhere"),
        *("stalled", "unread", "unstored_at", "write", "write_since"),
    },
}
_CONFIGURATION_FORMAT: Final = b"\x01"

_slots: dict[type, tuple[str, ...]] = {}
_payloads: dict[tuple[bytes, tuple[int, ...]], bytes] = {}


class _Reference:
    """Tag of a back reference."""


def server_id(i: int) -> int:
    """Return the ID of the i'th server, from 0."""
    return FIRST_ID + i


def address(id: int) -> str:
    """Return the address of a server."""
    return f"@{id - FIRST_ID}"


def name(id: int) -> int:
    """Return what people call a server: a number from 1."""
    return id - FIRST_ID + 1


def slots_of(cls: type) -> tuple[str, ...]:
    """Return the names of all slots of a class that a frozen object keeps, inherited ones first."""
    names = _slots.get(cls)
    if names is None:
        found: list[str] = []
        for base in reversed(cls.__mro__[:-1]):
            if "__slots__" not in vars(base):
                raise TypeError(f"{cls.__name__} cannot be frozen: {base.__name__} has no slots")
            own = vars(base)["__slots__"]
            found += [own] if isinstance(own, str) else list(own)
        left_out = _LEFT_OUT.get(cls, set())
        assert left_out <= set(found), f"{cls.__name__} has changed: write anew what can be left out of it"
        names = _slots[cls] = tuple(name for name in found if name not in left_out)
    return names


class _Freezer:
    """One pass over one graph. `names[i]` is the new number of server i; None masks all."""

    def __init__(self, now: int, names: tuple[int, ...] | None) -> None:
        self.now = now
        self.names = names
        self.met: dict[int, int] = {}
        self.alive: list[Any] = []
        self.members = RaftConfiguration()

    def freeze(self, x: Any) -> Any:
        cls = type(x)
        if cls is int:
            return x if x < FIRST_ID else self.number(x)
        if cls is str:
            return x if x[:1] != "@" else self.place(x)
        if cls is bytes:
            return x if x[:1] != _CONFIGURATION_FORMAT else self.payload(x)
        if cls in _ATOMS:
            return x
        if cls is FunctionType and x.__closure__ is None:
            return x
        if cls is tuple:
            return (tuple, *map(self.freeze, x))
        number = self.met.get(id(x))
        if number is not None:
            return (_Reference, number)
        self.met[id(x)] = len(self.met)
        self.alive.append(x)
        return self.node(cls, x)

    def node(self, cls: type, x: Any) -> Any:
        if cls is list or cls is deque:
            return (cls, *map(self.freeze, x))
        if cls is set:
            return (set, *sorted(map(self.freeze, x)))
        if cls is dict:
            return (dict, *((self.freeze(k), self.freeze(v)) for k, v in x.items()))
        if cls is FunctionType:
            cells = (self.freeze(cell.cell_contents) for cell in x.__closure__)
            return (cls, x.__module__, x.__code__, *cells)
        if cls is RaftConfiguration:
            return (cls, *self.servers(x))
        if cls is Raft:
            self.members = x.configuration
        if cls is LeaderState:
            return (cls, *(self.parallel(x, name, False) for name in slots_of(cls)))
        if cls is CandidateState:
            return (cls, *(self.parallel(x, name, True) for name in slots_of(cls)))
        return (cls, *(self.freeze(getattr(x, name)) for name in slots_of(cls)))

    def parallel(self, x: Any, name: str, voters_only: bool) -> Any:
        """Freeze a field; a list of as many items as there are servers, or voters, with their IDs."""
        value = getattr(x, name)
        if name != ("votes" if voters_only else "progress"):
            return self.freeze(value)
        servers = [s for s in self.members.servers if s.role == RAFT_VOTER or not voters_only]
        if len(servers) != len(value):
            raise ValueError(f"{type(x).__name__}.{name} has {len(value)} items for {len(servers)} servers")
        pairs = sorted(zip([self.number(s.id) for s in servers], value, strict=True), key=lambda pair: pair[0])
        items = [self.freeze(item) for _, item in pairs]
        return tuple(items) if self.names is not None else tuple(sorted(items, key=repr))

    def servers(self, conf: RaftConfiguration) -> list[tuple[int, str, int]]:
        return sorted((self.number(s.id), self.place(s.address), s.role) for s in conf.servers)

    def number(self, x: int) -> int:
        if x >= NOBODYS:
            return x
        if x >= EPOCH:
            ago = self.now - x
            return NOW if ago == 0 else NOW - 1 if ago < LONG else NOW - LONG
        return MASK if self.names is None else FIRST_ID + self.names[x - FIRST_ID]

    def place(self, x: str) -> str:
        return x if x[:1] != "@" else "@" if self.names is None else f"@{self.names[int(x[1:])]}"

    def payload(self, buf: bytes) -> bytes:
        """Return an encoded configuration with the new names, its servers sorted."""
        key = (buf, self.names or ())
        found = _payloads.get(key)
        if found is None:
            rv, conf, problem = configuration.decode(buf)
            if rv != 0:
                raise ValueError(problem)
            renamed = RaftConfiguration()
            renamed.servers = [RaftServer(*server) for server in self.servers(conf)]
            found = _payloads[key] = configuration.encode(renamed)
        return found


def freeze(x: Any, now: int, names: tuple[int, ...]) -> Any:
    """Return a graph as a value, at the time `now` of its clock, server i named names[i]."""
    return _Freezer(now, names).freeze(x)


def masked(x: Any, now: int) -> Any:
    """Return a value that is the same for all graphs that differ by names only."""
    return _Freezer(now, None).freeze(x)


class _Thawer:
    def __init__(self, io: Any, fsm: Any) -> None:
        self.io = io
        self.fsm = fsm
        self.made: list[Any] = []

    def thaw(self, node: Any) -> Any:
        if type(node) is not tuple:
            return node
        cls = node[0]
        if cls is _Reference:
            return self.made[node[1]]
        if cls is tuple:
            return tuple(map(self.thaw, node[1:]))
        if cls is FunctionType:
            cells = tuple(CellType() for _ in node[3:])
            x = FunctionType(node[2], vars(sys.modules[node[1]]), closure=cells)
            self.made.append(x)
            for cell, value in zip(cells, node[3:], strict=True):
                cell.cell_contents = self.thaw(value)
            return x
        x = cls() if cls in _LEFT_OUT else cls.__new__(cls)
        self.made.append(x)
        if cls is list or cls is deque:
            x.extend(map(self.thaw, node[1:]))
        elif cls is set:
            x.update(map(self.thaw, node[1:]))
        elif cls is dict:
            x.update((self.thaw(k), self.thaw(v)) for k, v in node[1:])
        elif cls is RaftConfiguration:
            x.servers = [RaftServer(*server) for server in node[1:]]
        else:
            self.fill(cls, x, node)
        return x

    def fill(self, cls: type, x: Any, node: Any) -> None:
        parallel = "progress" if cls is LeaderState else "votes" if cls is CandidateState else ""
        for name, value in zip(slots_of(cls), node[1:], strict=True):
            if name == parallel:
                setattr(x, name, [self.thaw(item) for item in value])
            elif type(value) is tuple:
                setattr(x, name, self.thaw(value))
            else:
                setattr(x, name, value)
        if cls is Raft:
            x.io, x.fsm, x.tracer = self.io, self.fsm, NoopTracer


def thaw(node: Any, io: Any = None, fsm: Any = None) -> Any:
    """Make a frozen graph again, its clock at `NOW`; a Raft in it gets this table and state machine."""
    return _Thawer(io, fsm).thaw(node)
