"""A replica: a member of a cluster of dqlite whose databases any program on its machine reads with SQLite, live.

Duty: `Replica` is a `Member`, a stand-by if nothing else is said, with a folder of live files (`publish`): each is a
database at the state behind a transaction of the cluster, always, also when this process is killed.

    async with Replica("data/4", "10.0.0.4:9001", join=["10.0.0.1:9001"]) as replica:
        async for change in replica.changes():
            rows = sqlite3.connect(replica.databases()[change.database]).execute("…")

Happy path: as a member's. A program that wants to miss nothing takes `changes()` first, then reads the database, and
then goes through the changes, of which it may know the first ones already.

Failure modes: those of `Member`, and Overrun for a consumer of changes that is too slow. A replica shows what has come
to it, which is later than on the leader. Nobody else can write into its files while it runs, and what somebody wrote
meanwhile is undone at the next start.
"""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from io_uv.dqlite import responses
from pyraft.dqlite.member import Member
from pyraft.dqlite.publish import CHANGES, POSITION, Changes, Publisher

FOLDER: Final = "replica"
"""The folder of the live files in the data directory, if no other one is given."""
_SETTLED_TIMEOUTS: Final = 3
"""Election timeouts under a leader after which there is no more to come than what is applied."""


class Replica(Member):
    """A member with live files in the folder `files`, by default one in its data directory."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        address: str,
        join: Iterable[str] = (),
        *,
        files: str | os.PathLike[str] = "",
        role: int = responses.STANDBY,
        **options: Any,
    ) -> None:
        """Nothing happens before `start`; see Member for the rest."""
        super().__init__(directory, address, join, role=role, **options)
        self.files = os.fspath(files) or os.path.join(self.directory, FOLDER)
        self._publisher = Publisher(self.files, self.fsm, lambda: self.server.raft.last_applied, self._tell)

    def databases(self) -> dict[str, Path]:
        """Return the live files of the databases by name, as far as they have come to this member."""
        return {name: Path(one.path) for name, one in self._publisher.files.items()}

    def changes(self, limit: int = CHANGES) -> Changes:
        """Return the changes from now on; up to `limit` of them wait for the consumer."""
        return self._publisher.subscribe(limit)

    # Beginning and end.

    def _begun_with(self) -> list[Path]:
        files = Path(self.files)
        return [files / POSITION, files, *files.parents, *super()._begun_with()]

    def _open_machine(self) -> None:
        super()._open_machine()
        self._publisher.open()

    async def start(self) -> None:
        """Take part; the live files follow what is applied. Raises as Member.start does."""
        await super().start()
        self._begin(self._come_up())

    async def close(self) -> None:
        """Stop taking part; the live files stay as they are."""
        await self._publisher.close()
        await super().close()

    def _failed(self, cause: BaseException) -> None:
        super()._failed(cause)
        self._publisher.fail(cause)

    async def _come_up(self) -> None:
        """See that the files follow the log even if that is shorter than it was, as after the loss of a majority."""
        server, publisher = self.server, self._publisher
        while publisher.behind:
            await server.wait_until(lambda: not publisher.behind or self._settled())
            index = server.raft.last_applied
            await asyncio.sleep(_SETTLED_TIMEOUTS * self.settings.election_msecs / 1000)
            if publisher.behind and self._settled() and index == server.raft.last_applied:
                self._tell("the cluster's log is shorter than it was: the live files show an earlier state again")
                publisher.release()

    def _settled(self) -> bool:
        raft = self.server.raft
        return self.server.leader[0] != 0 and raft.last_applied == raft.commit_index
