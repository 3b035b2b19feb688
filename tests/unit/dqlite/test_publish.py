"""Telling of changes: nothing that was visible in an earlier life, and all that is news."""

import asyncio
from pathlib import Path

import pytest

from io_uv.dqlite.machine import DqliteFsm
from pyraft.dqlite.publish import Change, Changes, Publisher
from tests.lib.dqlite import Source, taken


class Life:
    """A machine and its live files, from a start to a kill; `index` is that of the machine's last entry."""

    def __init__(self, dir: Path) -> None:
        self.index = 0
        self.told: list[object] = []
        self.fsm = DqliteFsm(str(dir / "databases"))
        self.publisher = Publisher(str(dir / "live"), self.fsm, lambda: self.index, self.told.append)
        self.publisher.open()
        self.fsm.open()
        self.changes = Changes(self.publisher, 100)
        self.publisher.subscribers.add(self.changes)

    def apply(self, entries: list[bytes]) -> None:
        """Apply entries."""
        for entry in entries:
            assert self.fsm.apply(self.fsm, entry) == (0, None)
            self.index += 1

    def restore(self, snapshot: bytes, index: int) -> None:
        """Put a snapshot in force, as raft does: its index is the machine's behind that."""
        assert self.fsm.restore(self.fsm, snapshot) == 0
        self.index = index

    async def end(self) -> list[Change]:
        """End, and return what was told."""
        await self.publisher.close()
        self.fsm.close()
        assert self.told == []
        return [change async for change in self.changes]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_snapshot_that_leads_beyond_what_was_visible_is_told(tmp_path: Path, at: int) -> None:
    """In a second life that begins with it, or has to go on behind it, entry by entry."""

    async def test() -> None:
        source = Source(tmp_path)
        entries = [source.run("create table t(a)"), source.run("insert into t values(1)")]
        entries.append(source.run("insert into t values(2)"))
        assert list(map(len, entries)) == [1, 1, 1]
        (tmp_path / "leader").mkdir()
        leader = Life(tmp_path / "leader")
        for one in entries[:at]:
            leader.apply(one)
        snapshot = taken(leader.fsm)
        await leader.end()
        (tmp_path / "replica").mkdir()
        first = Life(tmp_path / "replica")
        first.apply(entries[0] + entries[1])
        assert [change.index for change in await first.end()] == [1, 2]
        second = Life(tmp_path / "replica")
        assert second.publisher.behind
        second.restore(snapshot, at)
        for one in entries[at:]:
            second.apply(one)
        found = await second.end()
        assert [change.index for change in found] == [3]
        assert [change.whole for change in found] == [at == 3]
        source.close()

    asyncio.run(test())
