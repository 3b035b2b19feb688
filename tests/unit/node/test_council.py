"""The council of a server that does not lead."""

import asyncio
from typing import Any, cast

import pytest

from pyraft import RAFT_VOTER, RaftConfiguration, aio, raft_configuration_add
from pyraft.node.council import Council
from pyraft.node.link import Elsewhere
from pyraft.node.settings import Settings


class Follower:
    """A server that follows another one, as far as a council looks."""

    def __init__(self) -> None:
        self.raft = self
        self.id = 1
        self.configuration = RaftConfiguration()
        assert raft_configuration_add(self.configuration, 1, "here", RAFT_VOTER) == 0
        self.is_leader = False
        self.leader = (2, "there")


class Absent:
    """Stands for parts of a node that a council does not ask before it leads."""

    def __getattr__(self, name: str) -> Any:
        return None


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("members", ()),
        ("join", (1, "here")),
        ("promote", (1,)),
        ("demote", (1,)),
        ("remove", (9,)),
        ("transfer", (1,)),
    ],
)
def test_who_does_not_lead_sends_all_to_the_leader(what: str, arguments: tuple[Any, ...]) -> None:
    """Also what seems to be the case already: its configuration may be an old one."""
    absent: Any = Absent()
    council = Council(cast(aio.Server, Follower()), Settings(), "c", absent, absent, absent, lambda: 0.0)
    with pytest.raises(Elsewhere) as raised:
        asyncio.run(council.answers[what](*arguments))
    assert raised.value.leader == "there"
