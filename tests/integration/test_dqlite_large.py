"""Databases that are larger than a window of memory among members of ours, and logs that are bounded by their bytes."""

import asyncio
import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from io_uv import spool
from pyraft import log
from pyraft.dqlite import Cluster, Member, Refused, Settings, dialer
from pyraft.node.tls import Tls
from tests.integration.test_dqlite_member import FAST, Founder, World, address
from tests.lib.tlstest import Authority

SIZE = spool.WINDOW + (3 << 20)


def entries_bytes(member: Member) -> int:
    """Return the bytes of the entries that a member has in memory."""
    return sum(map(len, member.server.raft.log.bufs))


@pytest.mark.parametrize("secure", [False, True])
def test_a_snapshot_of_many_windows_is_sent_received_and_loaded(tmp_path: Path, secure: bool) -> None:
    """The database is dumped while it is taken and after; no file is left of it."""
    options: dict[str, Any] = {}
    if secure:
        certificate, key = Authority(tmp_path).issue("node", "cluster")
        options["tls"] = Tls(str(certificate), str(key), str(tmp_path / "ca.pem"))

    async def run() -> None:
        world = World(tmp_path)
        world.founder = Founder(tmp_path / "1", address(), id=1, settings=FAST, **options)
        world.made = [world.founder]
        try:
            await world.founder.start()
            await world.founder.server.wait_until(lambda: world.founder.server.is_leader)
            await world.write("create table t(a)", f"insert into t values(randomblob({SIZE}))")
            await world.write(*[f"insert into t values({n})" for n in range(20)])
            while world.founder.server.raft.log.offset == 0:  # the snapshot is still being taken
                await world.write("insert into t values(0)")
            other = await world.member(2, **options)
            await world.equal(world.founder, other)
            assert log.snapshot_index(other.server.raft.log) > 0, "it came by snapshot"
            await other.close()
            world.made.remove(other)
            again = Member(tmp_path / "2", other.address, id=2, settings=FAST, **options)
            world.made.append(again)
            await again.start()
            await world.equal(again)
            found = await Cluster([again.address], dial=dialer(options.get("tls"))).dump("test.db", again.address)
            assert found == {"test.db": world.source.content(), "test.db-wal": b""}
            assert sorted(os.listdir(tmp_path / "2" / "databases")) == ["test.db"]
            assert not list((tmp_path / "2").glob("tmp-*"))
        finally:
            await world.close()

    asyncio.run(asyncio.wait_for(run(), 600))


def test_the_log_is_bounded_by_its_bytes(tmp_path: Path) -> None:
    """A snapshot is taken long before the threshold, and keeps what fits; small entries are kept by their number."""
    settings = dataclasses.replace(FAST, snapshot_threshold=1024, snapshot_trailing=8192, log_bytes=200_000)

    async def run() -> None:
        world = World(tmp_path)
        world.founder = Founder(tmp_path / "1", address(), id=1, settings=settings)
        world.made = [world.founder]
        try:
            await world.founder.start()
            raft = world.founder.server.raft
            await world.founder.server.wait_until(lambda: world.founder.server.is_leader)
            await world.write("create table t(a)")
            for n in range(40):
                await world.write(f"insert into t values(randomblob({20_000 + n}))")
            await world.founder.server.wait_until(
                lambda: raft.snapshot.put is None and world.founder.fsm.applied_bytes < 200_000
            )
            assert log.snapshot_index(raft.log) > 20
            assert entries_bytes(world.founder) < 450_000
            await world.equal(world.founder)
        finally:
            await world.close()

    asyncio.run(asyncio.wait_for(run(), 300))


def test_entries_that_are_kept_fit_into_the_bytes_and_the_number() -> None:
    """At least four of them are kept, whatever their size."""

    class Raft:
        """The log is all that is looked at."""

        def __init__(self, *sizes: int) -> None:
            self.log = log.RaftLog()
            self.log.bufs = [bytes(size) for size in sizes]

    settings = Settings(snapshot_threshold=4, snapshot_trailing=6, log_bytes=100)
    for sizes, expected in (((), 4), ([200] * 9, 4), ([10] * 9, 6), ([90, *[20] * 5], 5), ([20] * 9, 5)):
        raft: Any = Raft(*sizes)
        assert settings.trailing(raft) == expected
    with pytest.raises(Refused, match="every 0 bytes"):
        Settings(log_bytes=0)
