"""A pretended cluster for the page: members who say what a test has them say, in the place of those behind a port.

Duty: `Members` stands for `pyraft.node.operate.Operator` where a test puts it there; `member` makes one.

Failure modes: a member whose status is an exception cannot be asked; one with a future answers when that is done.
"""

import asyncio
from typing import Any

from io_uv.histogram import BOUNDS
from pyraft.node.errors import NodeError, Unavailable
from pyraft.node.operate import Seen
from pyraft.node.status import Status


def member(number: int, n: int, leader: int = 1, **own: Any) -> Status:
    """Return what member `number` of n says, who are voters and know each other."""
    ids = range(1, n + 1)
    address = own.pop("addresses", lambda i: f"10.0.0.{i}:9001")
    leads = number == leader
    known: dict[str, Any] = {
        "id": number,
        "address": address(number),
        "cluster": "5f6c1d0e9b7a4c3d8e2f1a0b9c8d7e6f",
        "machine": "Shop",
        "version": "0.1.0",
        "state": "leader" if leads else "follower",
        "term": 7,
        "leader": leader,
        "leader_address": address(leader) if leader else "",
        "up_seconds": 7300.0,
        **dict.fromkeys(("last", "stored", "commit", "applied"), 51_200),
        "segment_bytes": 24 << 20,
        "snapshot_bytes": 3 << 20,
        "free": 40 << 30,
        "total": 100 << 30,
        "members": [[i, address(i), "voter", f"shop-{i}"] for i in ids],
        "matches": [[i, 51_200] for i in ids] if leads else [],
        "links": [[i, address(i), leads or i == leader] for i in ids if i != number],
        "commit_counts": [0] * (len(BOUNDS) + 1) if leads else [],
        "write_counts": [0] * (len(BOUNDS) + 1),
    }
    return Status(**{**known, **own})


class Members:
    """All members, by address; a test changes `said` as it goes."""

    def __init__(self, *statuses: Status) -> None:
        self.said: dict[str, Any] = {}
        self.say(*statuses)
        self.asked = 0
        self.done: list[tuple[Any, ...]] = []
        self.via: list[str] = []

    def __call__(self, via: list[str], **options: Any) -> "Members":
        """Take the place of the class."""
        self.via = list(via)
        return self

    async def __aenter__(self) -> "Members":
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def say(self, *statuses: Status) -> None:
        """Have these members say what they say from now on, and no others."""
        self.said = {one.address: one for one in statuses}

    async def look(self, address: str) -> Seen:
        """Ask one of them."""
        self.asked += 1
        said = self.said.get(address, Unavailable(f"{address} cannot be reached: Connection refused"))
        if isinstance(said, asyncio.Future):
            said = await said
        if isinstance(said, NodeError):
            raise said
        assert isinstance(said, Status)
        return Seen(said.id, address, "", said)

    def __getattr__(self, name: str) -> Any:
        async def change(*arguments: Any) -> None:
            self.done.append((name, *arguments))

        return change
