"""The council of a server that does not lead."""

import asyncio
from typing import Any, cast

import pytest

from pyraft import RAFT_VOTER, RaftConfiguration, aio, raft_configuration_add
from pyraft.node.asking import Asking
from pyraft.node.council import Council
from pyraft.node.errors import Refused
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
    """It sends what seems to be the case already, too: its configuration may be an old one."""
    absent: Any = Absent()
    council = Council(cast(aio.Server, Follower()), Settings(), "c", absent, absent, absent, lambda: 0.0)
    with pytest.raises(Elsewhere) as raised:
        asyncio.run(council.answers[what](*arguments))
    assert raised.value.leader == "there"


WRONG = [
    ("remove", ("9",)),
    ("remove", ("there",)),
    ("remove", (None,)),
    ("promote", ("1",)),
    ("demote", (1.0,)),
    ("replace", ("9",)),
    ("replace", (1, "9")),
    ("transfer", ("1",)),
]


@pytest.mark.parametrize(("what", "arguments"), WRONG)
def test_an_id_of_another_type_is_refused_by_the_leader(what: str, arguments: tuple[Any, ...]) -> None:
    """The removal of "9" would remove nobody, and be answered as done: the leader says what an id is."""
    absent: Any = Absent()
    leader = Follower()
    leader.is_leader = True
    council = Council(cast(aio.Server, leader), Settings(), "c", absent, absent, absent, lambda: 0.0)
    with pytest.raises(Refused, match="the id of a member must be a whole number"):
        asyncio.run(council.answers[what](*arguments))


@pytest.mark.parametrize(("what", "arguments"), WRONG)
def test_an_id_of_another_type_is_not_sent(what: str, arguments: tuple[Any, ...]) -> None:
    """An older leader would take it for somebody who is gone already."""
    with pytest.raises(TypeError, match="id of a member must be a whole number"):
        asyncio.run(getattr(Asking(), what)(*arguments))
