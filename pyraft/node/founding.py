"""How a data directory becomes a member's: `init` begins a cluster, `join` adds a member to one.

Duty: `init` makes a cluster with one member, once. Nothing else ever bootstraps: a node that is started on a directory
without a member in it is refused, so a member that lost its disk cannot begin a second cluster under the old address.

Happy path: `await init("data/1", "10.0.0.1:9001")`; once a node runs there, `await join("data/2", "10.0.0.2:9001",
"10.0.0.1:9001")`. The directory is made if there is none, and its identity durable before anything else happens.

Failure modes: a directory that holds anything else, or another member, is Refused. A call that is refused, or reaches
no cluster, leaves nothing behind. A founding that was interrupted anywhere is completed by the next call with the same
address, under the same ids; no node starts on the directory until then.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from io_uv import fs
from io_uv.datadir import newdir
from io_uv.failure import Failure
from pyraft import RAFT_CANTBOOTSTRAP, RAFT_VOTER, RaftConfiguration, aio, raft_configuration_add
from pyraft.node.errors import Refused
from pyraft.node.given import check_directory, check_options, check_seconds
from pyraft.node.ground import Ground
from pyraft.node.identity import (
    FOUNDING,
    JOINED,
    JOINING,
    LEFT,
    MEMBER,
    NODE_FILE,
    Directory,
    Identity,
    new_cluster,
    new_id,
    read,
    write,
)
from pyraft.node.link import Elsewhere, require_form
from pyraft.node.replica import Replica
from pyraft.node.route import Route, persist
from pyraft.node.tls import Tls


async def init(directory: Directory, address: str) -> Identity:
    """Begin a cluster with one member, which others reach at `address` (HOST:PORT). Returns who that is.

    Raises Refused if the directory is not empty, another process has it, or the address is of no use; OSError if it
    cannot be written, or aio.RaftError with the code where that happens to a file of raft's.
    """
    with making(directory):
        return await _found(directory, address)


async def _found(directory: Directory, address: str) -> Identity:
    """Begin a cluster in a directory that is there."""
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


async def join(
    directory: Directory, address: str, *via: str, timeout_seconds: float = 30.0, tls: Tls | None = None
) -> Identity:
    """Make a directory that of a new member of the cluster that is found at one of the addresses `via`.

    Others reach the member at `address` (HOST:PORT). Until a node is started on the directory it has no part in
    anything; then it catches up, and becomes a voter or stands by. Returns who the member is; if it has joined already,
    nothing is done.

    Raises Refused if the directory is another member's, another process has it, or it is not empty; if something in
    `via` is not an address, or no member there will have us. Unavailable if the time passes first; ValueError without
    any address in `via`; OSError and aio.RaftError as `init`. Joining again, with the same address, goes on.
    """
    check_seconds("timeout_seconds", timeout_seconds, 0.001, 86_400)
    check_options(None, tls)
    with making(directory):
        return await _join(directory, address, via, timeout_seconds, tls)


async def _join(directory: Directory, address: str, via: tuple[str, ...], seconds: float, tls: Tls | None) -> Identity:
    """Have a directory that is there join."""
    found = read(directory)
    if found is not None and found.phase in (JOINED, MEMBER) and found.address == address:
        return found
    if not via:
        raise ValueError("join needs the address of a member of the cluster")
    for member in via:
        try:
            require_form(member)
        except ValueError as exc:
            raise Refused(str(exc)) from None
    if found is None:
        require_empty(directory)
        identity = Identity(new_id(), address, "", JOINING, via)
    elif found.phase != JOINING:
        raise Refused(describe(directory, found))
    elif found.address != address:
        raise Refused(
            f"'{os.fspath(directory)}' was joining with address {found.address}, and that was interrupted: run join "
            "again with that address, or empty the directory"
        )
    else:
        identity = found.at(JOINING, members=via)
    ground = Ground(directory, tls)
    try:
        check_address(ground, address)
        ground.server(Replica({}), identity)
        take_over(directory, found, identity)
        asked = _Asking(identity)
        try:
            cluster, members = await asked.join(seconds, None if tls is None else tls.context())
        except BaseException:
            if found is None and not asked.in_doubt:
                os.unlink(os.path.join(directory, NODE_FILE))
            raise
        identity = identity.at(JOINED, cluster=cluster, members=members)
        write(directory, identity)
    finally:
        await ground.close()
    return identity


class _Asking:
    """Asks a cluster's leader for a place."""

    def __init__(self, identity: Identity) -> None:
        self.in_doubt = False
        """Whether it may have been given although no answer says so: then the id is to be kept for the next call."""
        self._identity = identity

    async def join(self, seconds: float, secure: ssl.SSLContext | None) -> tuple[str, tuple[str, ...]]:
        """Have the leader add us; return the cluster's id and where its members are."""
        identity = self._identity
        route = Route(lambda: None, lambda: list(identity.members), lambda: None, id=identity.id, secure=secure)
        try:
            answer = await persist(lambda: self._attempt(route), seconds, route.refusal)
        finally:
            await route.close()
        match answer:
            case [str(cluster), [*members]] if all(type(member) is str for member in members):
                return cluster, tuple(members)
        self.in_doubt = True
        raise Refused(f"an answer that names no cluster and members: {answer!r:.200}")

    async def _attempt(self, route: Route) -> Any:
        asked = route.ask("join", self._identity.id, self._identity.address)
        was_sent = not asked.done()
        try:
            return await asked
        except (Refused, Elsewhere):
            raise
        except BaseException:
            self.in_doubt = self.in_doubt or was_sent
            raise


@contextmanager
def making(directory: Directory) -> Iterator[None]:
    """Make the directory and those above it, where there are none, durably; they go again if the block raises."""
    check_directory(directory)
    if not os.fspath(directory):
        raise Refused("the name of the directory is empty")
    try:
        with newdir.making(directory):
            yield
    except Failure as failure:
        raise OSError(failure.message) from None


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
    if not isinstance(address, str):
        raise Refused(f"{address!r} is not an address: HOST:PORT, a string")
    check = ground.transport.check_address
    if check is not None and check(ground.transport, address) != 0:
        raise Refused(ground.transport.errmsg)
    try:
        # raft takes the name of a service for a port. Members and clients of this layer do not.
        require_form(address)
    except ValueError as exc:
        raise Refused(f"no member can be reached at {exc}") from None


def describe(directory: Directory, identity: Identity) -> str:
    """Return what is in a directory that has an identity."""
    where = f"'{os.fspath(directory)}'"
    if identity.phase == FOUNDING:
        return f"the init of {where} was interrupted: run it again, with --address {identity.address}"
    if identity.phase == JOINING:
        return f"the join of {where} was interrupted: run it again, with --address {identity.address}"
    if identity.phase == LEFT:
        return f"member {identity.id}, in {where}, has left cluster {identity.cluster}: take an empty directory"
    return f"{where} belongs to member {identity.id} at {identity.address} of cluster {identity.cluster} already"
