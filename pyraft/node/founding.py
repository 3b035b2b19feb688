"""How a data directory becomes a member's: `init` begins a cluster.

Duty: `init` makes a cluster with one member, once. Nothing else ever bootstraps: a node that is started on a directory
without a member in it is refused, so a member that lost its disk cannot begin a second cluster under the old address.

Happy path: `identity = await init("data/1", "10.0.0.1:9001")`; the directory is made if there is none. The identity is
durable in phase FOUNDING, then the log's first entry, then phase MEMBER.

Failure modes: a directory that holds anything else, or a member, is Refused. An init that was interrupted anywhere is
completed by the next one with the same address, under the same ids; the node refuses to start on it until then.
"""

import os
from pathlib import Path

from io_uv import fs
from pyraft import RAFT_CANTBOOTSTRAP, RAFT_VOTER, RaftConfiguration, aio, raft_configuration_add
from pyraft.node.errors import Refused
from pyraft.node.ground import Ground
from pyraft.node.identity import (
    FOUNDING,
    JOINING,
    MEMBER,
    NODE_FILE,
    Directory,
    Identity,
    new_cluster,
    new_id,
    read,
    write,
)
from pyraft.node.replica import Replica


async def init(directory: Directory, address: str) -> Identity:
    """Begin a cluster with one member, which others reach at `address` (HOST:PORT). Returns who that is.

    Raises Refused if the directory is not empty, or the address of no use; OSError if it cannot be written.
    """
    make_directory(directory)
    found = read(directory)
    if found is None:
        require_empty(directory)
        identity = Identity(new_id(), address, new_cluster(), FOUNDING, (address,))
    elif found.phase != FOUNDING:
        raise Refused(describe(directory, found))
    else:
        identity = found
    if identity.address != address:
        raise Refused(
            f"'{os.fspath(directory)}' was being initialised for {identity.address}, and that was interrupted: "
            "run init again with that address, or empty the directory"
        )
    ground = Ground(directory)
    try:
        check_address(ground, address)
        server = ground.server(Replica({}), identity)
        take_over(directory, found, identity)
        conf = RaftConfiguration()
        rv = raft_configuration_add(conf, identity.id, address, RAFT_VOTER)
        if rv != 0:
            raise aio.RaftError(rv)
        try:
            server.bootstrap(conf)
        except aio.RaftError as exc:
            if exc.code != RAFT_CANTBOOTSTRAP:  # it was, by an init that got no further
                raise
        identity = identity.at(MEMBER)
        write(directory, identity)
    finally:
        await ground.close()
    return identity


def make_directory(directory: Directory) -> None:
    """Make the directory and those above it, where there are none, durably."""
    path = Path(directory)
    missing = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        try:
            fs.sync_dir(os.fspath(made.parent))
        except fs.Failure as failure:
            raise OSError(f"{made.parent}: {failure.message}") from None


def require_empty(directory: Directory) -> None:
    """Raise Refused if there is anything in the directory but what an interrupted write has left."""
    found = sorted(name for name in os.listdir(directory) if not name.startswith((fs.TMP_PREFIX, ".probe")))
    if found:
        raise Refused(
            f"'{os.fspath(directory)}' has no {NODE_FILE}, and is not empty ({', '.join(found[:3])}"
            f"{', …' if len(found) > 3 else ''}): take a new directory"
        )


def take_over(directory: Directory, found: Identity | None, identity: Identity) -> None:
    """Write the identity into a directory whose lock this process has by now; it was `found` before that."""
    if read(directory) != found:
        raise Refused(f"another process has changed '{os.fspath(directory)}' meanwhile")
    write(directory, identity)


def check_address(ground: Ground, address: str) -> None:
    """Raise Refused for an address at which no other member could reach this one."""
    check = ground.transport.check_address
    if check is not None and check(ground.transport, address) != 0:
        raise Refused(ground.transport.errmsg)


def describe(directory: Directory, identity: Identity) -> str:
    """Return what is in a directory that has an identity."""
    where = f"'{os.fspath(directory)}'"
    if identity.phase == FOUNDING:
        return f"the init of {where} was interrupted: run it again, with --address {identity.address}"
    if identity.phase == JOINING:
        return f"the join of {where} was interrupted: run it again, with --address {identity.address}"
    return f"{where} belongs to member {identity.id} at {identity.address} of cluster {identity.cluster} already"
