"""`pyraft dir readdress`: new addresses, or new ids, for all members of a cluster that is stopped.

Duty: addresses are a configuration that the voter whose log goes furthest gets, and leads to the others
(`io_uv.datadir.recover`); in the directories of the others only files are changed. Ids are put in the place of old ones
in every directory (`io_uv.datadir.renumber`). The files that say who a member is come along: node.json of pyraft.node,
info.yaml and cluster.yaml of go-dqlite.

Happy path: `pyraft dir readdress data/1 --id 1=11 --id 2=12 --other data/2 --apply`.

Failure modes: those of `dirs`: what would lose something, or could fork, is refused in a line, exit code 1.
"""

import dataclasses
from pathlib import Path
from typing import Final

import click

from io_uv import datadir
from pyraft import configuration
from pyraft.command import decoding, text
from pyraft.command.dirs import (
    APPLY,
    DIRECTORY,
    OTHER,
    POSITION,
    SCRATCH,
    held,
    owners,
    positions_of,
    say_steps,
)
from pyraft.command.reach import id_and_address, is_number, json_option
from pyraft.dqlite import store
from pyraft.node import identity
from pyraft.types import RAFT_VOTER, RaftConfiguration

_AFTERWARDS: Final = (
    "When it is done in every member's directory, start the members, each under its new id: a program that calls "
    "raft_init gives that. Certificates that name ids have to name the new ones. A directory, a copy or a backup of "
    "one that has the old ids must not be started any more."
)


@click.command(
    epilog="Example: pyraft dir readdress data/1 1=10.1.0.1:9001 2=10.1.0.2:9001 --position 7:7:1200, and on each "
    "machine: pyraft dir readdress data/1 --id 1=11 --id 2=12 --elsewhere 2"
)
@DIRECTORY
@click.argument("addresses", metavar="[ID=HOST:PORT]...", nargs=-1)
@click.option("--id", "ids", metavar="OLD=NEW", multiple=True, help="A new id for a server; may be repeated.")
@click.option(
    "--elsewhere",
    metavar="ID",
    multiple=True,
    type=int,
    help="With --id: a member, by its old id, whose directory is on another machine; may be repeated.",
)
@OTHER
@POSITION
@APPLY
@SCRATCH
@json_option
def readdress(
    directory: str,
    addresses: tuple[str, ...],
    ids: tuple[str, ...],
    elsewhere: tuple[int, ...],
    others: tuple[str, ...],
    positions: tuple[str, ...],
    apply: bool,
    scratch: str | None,
    as_json: bool,
) -> None:
    """Give the members of a stopped cluster new addresses, or new ids with --id.

    Addresses: how far each voter has come is given. The voter whose log goes furthest gets a new configuration. On
    machines apart the same is done on each, with what `pyraft dir position` said on the others before.

    Ids: the same is done in the directory of every member, here (DIR, each --other) or on its machine, and can be
    repeated, also where it was interrupted. A new id is one that no server of the cluster has ever had.

    Files in DIR, and in each --other, that say who a member is are changed too.
    """
    if bool(addresses) == bool(ids) or (elsewhere and not ids) or (positions and ids):
        raise click.UsageError("either ID=HOST:PORT …, and --position, or --id OLD=NEW …, and --elsewhere")
    directories = (directory, *others)
    if ids:
        renamed = dict(map(_two_ids, ids))
        if len(renamed) < len(ids):
            raise click.UsageError("an id is given two new ones")
        with held(*directories):
            seats = [_seat(path, renamed) for path in directories]
            steps = datadir.renumber(seats, renamed, elsewhere, apply=apply, scratch=scratch)
        if not say_steps(steps, apply, as_json):
            text.say(text.wrap(_AFTERWARDS, ""))
        return
    moved = dict(map(id_and_address, addresses))
    with held(*directories):
        servers = _moved(directory, moved, scratch)
        near = positions_of(tuple(path for path in others if _votes(path, servers)), (), scratch)
        far = positions_of((), positions, scratch)
        steps = _left_to(directory, servers, near, far, scratch)
        if not steps:
            steps = datadir.recover(directory, servers, [*near, *far], apply=apply, scratch=scratch)
        for path in directories:
            steps += _move_identity(path, servers, apply)
    say_steps(steps, apply, as_json)


def _two_ids(given: str) -> tuple[int, int]:
    old, equals, new = given.partition("=")
    if not equals or not all(map(is_number, (old, new))):
        raise click.UsageError(f"{given!r} is not of the form OLD=NEW")
    return int(old), int(new)


def _seat(path: str, ids: dict[int, int]) -> datadir.Seat:
    """Return whose directory it is, and the new contents of its files that name ids."""
    files = {}
    who = identity.read(path)
    info, cluster = store.read_info(path), store.read_cluster(path)
    if who is not None:
        files[identity.NODE_FILE] = identity.encode(dataclasses.replace(who, id=ids.get(who.id, who.id)))
    if info is not None:
        files[store.INFO] = store.info_text(_renamed(info, ids)).encode()
    if cluster:
        files[store.CLUSTER] = store.cluster_text([_renamed(one, ids) for one in cluster]).encode()
    owner = 0 if info is None else info.id
    return datadir.Seat(path, owner if who is None else who.id, files)


def _renamed(one: store.Info, ids: dict[int, int]) -> store.Info:
    return dataclasses.replace(one, id=ids.get(one.id, one.id))


def _moved(directory: str, moved: dict[int, str], scratch: str | None) -> RaftConfiguration:
    """Return the configuration in force with the new addresses."""
    current = datadir.rehearse(directory, scratch).configuration
    if current is None:
        raise click.ClickException(f"{directory}: there is no configuration in it, so it was never a member")
    unknown = sorted(set(moved) - {one.id for one in current.servers})
    if unknown:
        raise click.ClickException(f"there is no server {unknown[0]}: {decoding.servers(current)}")
    servers = configuration.copy(current)
    for one in servers.servers:
        one.address = moved.get(one.id, one.address)
    return servers


def _votes(path: str, servers: RaftConfiguration) -> bool:
    """Return whether a directory is a voter's; one that does not say whose it is passes for that.

    Where each voter has said how far its log goes, the others have nothing more that was acknowledged.
    """
    roles = {one.id: one.role for one in servers.servers}
    return all(roles.get(id) == RAFT_VOTER for id, _ in owners(path))


def _left_to(
    directory: str,
    servers: RaftConfiguration,
    near: list[datadir.Position],
    far: list[datadir.Position],
    scratch: str | None,
) -> list[str]:
    """Return, as a step, that another member gets the configuration; nothing where this one has to get it.

    A voter `near`, whose directory is here, gets it by a call for that directory, so then this one is refused.
    """
    voters = sum(one.role == RAFT_VOTER for one in servers.servers)
    told = [*near, *far]
    if not _votes(directory, servers):
        what = f"{directory} is of a member that does not vote"
    else:
        own = datadir.position(directory, scratch)
        told.append(own)
        best = max(told, key=lambda one: one.end)
        if best.end == own.end or best in near:
            return []
        what = f"{best.where} has a log that goes further"
    if len(told) < voters:
        raise click.ClickException(f"how far {len(told)} of the {voters} voters have come is given: give it of each")
    return [f"no entry is added here, as {what}: the same call where a voter's log goes furthest does that"]


def _move_identity(path: str, servers: RaftConfiguration, apply: bool) -> list[str]:
    """Have the files of a directory that say who its member is name the new addresses."""
    addresses = {one.id: one.address for one in servers.servers}
    steps = []
    who, info, cluster = identity.read(path), store.read_info(path), store.read_cluster(path)
    if who is not None and addresses.get(who.id, who.address) != who.address:
        address = addresses[who.id]
        if apply:
            identity.write(path, dataclasses.replace(who, address=address, members=tuple(addresses.values())))
        steps.append(f"{Path(path, identity.NODE_FILE)} says {address} instead of {who.address}")
    if info is not None and addresses.get(info.id, info.address) != info.address:
        address = addresses[info.id]
        if apply:
            store.write_info(path, dataclasses.replace(info, address=address))
        steps.append(f"{Path(path, store.INFO)} says {address} instead of {info.address}")
    known = [dataclasses.replace(one, address=addresses.get(one.id, one.address)) for one in cluster]
    if known != cluster:
        if apply:
            store.write_cluster(path, known)
        steps.append(f"{Path(path, store.CLUSTER)} has the new addresses")
    return steps
