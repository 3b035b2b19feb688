"""The registry of the members: what each of them has told of itself, on all members.

Duty: `Registry` is the machine behind `node.members()`, as far as that is about programs: a member's name, version and
own data, and which commands its program has. `admission` goes by these, and `council` by its list of those that rest.

Happy path: a member that has begun, and finds here something else about itself than is true, has `tell` executed.

Failure modes: older programs do not have this machine. They announce nothing in their answers (`leases`), and as long
as such a member is there nothing is told (`admission`). A machine that was never used is not in a snapshot, so a
snapshot does not stop them either.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgpack

from pyraft.node.machine import Machine, command
from pyraft.node.tracked import Record

REGISTRY: Final = "pyraft.members"
"""The name of the machine."""

MAX_DATA: Final = 4096
"""How many bytes the packed data of a member may have."""

MAX_TEXT: Final = 256
"""How long a name or version may be."""


@dataclass
class Facts(Record):
    """The things that a member has told of itself."""

    name: str
    version: str
    data: bytes
    """Packed, as `pack` does it."""
    offers: tuple[str, ...]
    """The commands of its program, as `offer` names them."""


class Registry(Machine):
    """The facts that members have told, by id; see the head of this module."""

    types = (Facts,)
    optional = True

    def __init__(self) -> None:
        self.revision = 0
        """Counts the changes."""
        self.facts: dict[int, Facts] = {}
        self.resting: dict[int, None] = {}
        """Members that are to stand by, whoever is gone."""

    @command
    def tell(self, id: int, name: str, version: str, data: bytes, offers: list[str]) -> None:
        """Say of a member what it is."""
        self.facts[id] = Facts(name, version, data, tuple(offers))
        self.revision += 1

    @command
    def rest(self, id: int, resting: bool) -> None:
        """Have a member stand by until it is promoted, or take that back."""
        if resting:
            self.resting[id] = None
        else:
            self.resting.pop(id, None)
        self.revision += 1

    @command
    def forget(self, ids: list[int]) -> None:
        """Forget members that are members no more."""
        for id in ids:
            self.facts.pop(id, None)
            self.resting.pop(id, None)
        self.revision += 1


class About:
    """The things that a member says of itself. Raises TypeError or ValueError for what cannot be told."""

    def __init__(self, name: str, version: str, data: Any) -> None:
        for text in (name, version):
            if type(text) is not str or len(text) > MAX_TEXT:
                raise ValueError(f"name and version of a member are texts of up to {MAX_TEXT}, not {text!r:.80}")
        self.name = name
        self.version = version
        self.data = pack(data)

    def facts(self, offers: list[str]) -> "Facts":
        """Return what the registry has of a member that has told this."""
        return Facts(self.name, self.version, self.data, tuple(offers))


def offer(machine: str, command: str, version: int) -> str:
    """Return how a command is named among those that a member offers."""
    return f"{machine} {command} {version}"


def pack(data: Any) -> bytes:
    """Return a member's own data as bytes. Raises TypeError or ValueError for what is not plain, or too much."""
    try:
        packed: bytes = msgpack.packb(data, strict_types=True)
        is_same = bool(msgpack.unpackb(packed) == data)
    except TypeError as exc:
        raise TypeError(f"the data of a member are plain values, as of JSON, and these are not: {exc}") from None
    except (ValueError, OverflowError, RecursionError, msgpack.UnpackException) as exc:
        raise ValueError(f"the data of a member are plain values, as of JSON, and these are not: {exc}") from None
    if not is_same:
        raise TypeError("the data of a member must come back as it was: maps with texts as keys, lists, no tuples")
    if len(packed) > MAX_DATA:
        raise ValueError(f"the data of a member takes {len(packed)} bytes, more than {MAX_DATA}")
    return packed


def unpack(packed: bytes) -> Any:
    """Return the data that `pack` has made bytes of."""
    return msgpack.unpackb(packed)
