"""A lost majority, and new addresses: a configuration that is put into a stopped cluster from outside.

Duty: `position` says how far the log of a stopped member goes; `recover` appends a configuration to the log of the one
that goes furthest, which then leads it to the others. It refuses where that would lose what the cluster has
acknowledged although somebody has it, or could make two clusters of one.

Happy path: all members are stopped. `position` is asked on each; the one with the highest last term, and among those
with the highest last index, has every committed entry if any survivor has (dissertation 3.6.1), so only there
`recover` works. The entry gets a term above all terms of the survivors, so no other log has an entry of that index and
term (log matching, 3.5). The others are started as they are: they vote for the one with the longer log, which sends
them the rest. raft_recover does less: it appends to the log that it is given.

Failure modes: `Refused` with the reason, nothing touched; Failure if the disk refuses. The term is stored before the
entry, so a kill between the two, or over the entry, leaves a directory with which the same call can go on.
Nobody can know here: whether a member that is said to be lost still runs somewhere. If one comes back with a
majority of the old configuration, there are two clusters, and only people can know that.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from io_uv import disk, marker, metadata
from io_uv.datadir.rehearsal import Rehearsal, rehearse
from io_uv.failure import Failure
from io_uv.state import Metadata
from pyraft import configuration
from pyraft.errors import RAFT_CORRUPT
from pyraft.types import RAFT_VOTER, RaftConfiguration

_BLOCK_SIZE: Final = 4096


class Refused(Exception):
    """The recovery that was asked for would lose acknowledged entries, or split the cluster; the text says why, and
    what helps."""


@dataclass(frozen=True)
class Position:
    """How far a member's log goes. The higher (last_term, last_index) is the more complete one."""

    where: str
    """The directory, or whatever else says to people which member this is."""
    term: int
    """Its current term."""
    last_term: int
    last_index: int

    @property
    def end(self) -> tuple[int, int]:
        """The measure that positions are compared by."""
        return self.last_term, self.last_index


def position(path: str | os.PathLike[str], scratch: str | None = None) -> Position:
    """Return the position of a stopped member by its directory, whose lock the caller holds.

    Raises Failure with what a start would say if the directory does not load: repair it first. RAFT_CORRUPT: it loads,
    and has no configuration.
    """
    found = _loadable(path, scratch)
    return Position(os.fspath(path), found.term, found.last_term, found.last_index)


def recover(
    path: str | os.PathLike[str],
    servers: RaftConfiguration,
    others: Sequence[Position],
    *,
    survivors: Collection[int] = (),
    apply: bool = False,
    scratch: str | None = None,
) -> list[str]:
    """Make `servers` the configuration of the cluster, by the log in `path`; return what was done, or would be done.

    `others` are the positions of all other survivors, `survivors` the ids of those that are known, whether `servers`
    has them or not. There must be a position of each of `servers`, or of each voter of the configuration in force if
    all of these stay, as for new addresses. The member that `path` is of has to be a voter among `servers`: nobody else
    has the entry, so nobody else could lead by it. Raises Refused: another survivor's log goes further; the voters that
    survive are a majority, which needs no recovery; files of this one were set aside; `servers` has no voter, or a
    stranger; a position is not given. Raises Failure as `position`, with the code of configuration.check for `servers`,
    or of the disk.
    """
    found = _loadable(path, scratch)
    own = Position(os.fspath(path), found.term, found.last_term, found.last_index)
    _refuse_shorter(own, others)
    if found.recovering:
        raise Refused(
            f"{own.where}: files of its log were set aside, so entries that the cluster acknowledged may be missing "
            f"here. If no other member survives, remove {marker.NAME} there and repeat this: what is missing is lost "
            "then"
        )
    _refuse_needless(found, servers, survivors)
    _refuse_untold(found, servers, len(others) + 1)
    term = max(one.term for one in (own, *others))
    term = max(term, own.last_term) + 1
    index = own.last_index + 1
    steps = [
        f"term {term}, above that of every survivor, is stored",
        f"entry {index}, the new configuration, is appended in that term",
    ]
    if apply:
        _append(own.where, servers, term)
    return steps


def _loadable(path: str | os.PathLike[str], scratch: str | None) -> Rehearsal:
    found = rehearse(path, scratch)
    if not found.starts and not found.forgotten:  # a term above those of all survivors takes the place of a lost one
        raise Failure(found.code, f"{os.fspath(path)}: a start is refused: {found.problem}")
    if found.configuration is None:
        raise Failure(RAFT_CORRUPT, f"{os.fspath(path)}: there is no configuration in it, so it was never a member")
    return found


def _refuse_shorter(own: Position, others: Sequence[Position]) -> None:
    best = max((own, *others), key=lambda one: one.end)
    if best.end > own.end:
        raise Refused(
            f"{best.where} has the log that goes furthest (term {best.last_term}, index {best.last_index}), "
            f"{own.where} ends at term {own.last_term}, index {own.last_index}: recover there, or acknowledged entries "
            "are lost"
        )


def _voters(found: Rehearsal) -> set[int]:
    assert found.configuration is not None
    return {server.id for server in found.configuration.servers if server.role == RAFT_VOTER}


def _refuse_needless(found: Rehearsal, servers: RaftConfiguration, survivors: Collection[int]) -> None:
    assert found.configuration is not None
    if not any(server.role == RAFT_VOTER for server in servers.servers):
        raise Refused("the new configuration has no voter, so nobody could lead it")
    members = {server.id for server in found.configuration.servers}
    strangers = sorted({server.id for server in servers.servers} - members)
    if strangers:
        known = ", ".join(map(str, sorted(members)))
        raise Refused(
            f"server {strangers[0]} is not a member, and has no log to go on with: these are {known}. New servers are "
            "added when the cluster runs again"
        )
    voters = _voters(found)
    kept = voters & {server.id for server in servers.servers}
    alive = kept | voters & set(survivors)
    if kept != voters and 2 * len(alive) > len(voters):
        names = ", ".join(map(str, sorted(alive)))
        raise Refused(
            f"servers {names} are a majority of the {len(voters)} voters: start them, and have their leader remove the "
            "others. A recovery could lose what they have acknowledged"
        )


def _refuse_untold(found: Rehearsal, servers: RaftConfiguration, told: int) -> None:
    """Refuse what may leave out the newest log: the position of a member that goes on is not among those `told`."""
    voters = _voters(found)
    if voters <= {server.id for server in servers.servers}:
        wanted, what = len(voters), f"it keeps all {len(voters)} voters"
    else:
        wanted, what = len(servers.servers), f"the new configuration has {len(servers.servers)} servers"
    if told < wanted:
        raise Refused(
            f"{what}, and says how far {told} of them have come: one that was left out may have the newest log"
        )


def _append(dir: str, servers: RaftConfiguration, term: int) -> None:
    rv = configuration.check(servers)
    if rv != 0:
        raise Failure(rv, "the new configuration is not valid")
    disk.clean_up(dir)  # of the segment that a call before was killed over, as a start would remove it
    stored = metadata.load(dir)
    metadata.store(dir, Metadata(stored.version + 1, term, 0))
    disk.recover(dir, servers, _BLOCK_SIZE, term, auto_recovery=True)
