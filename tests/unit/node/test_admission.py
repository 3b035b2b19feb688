"""Commands get into the log as long as all members have them, however often they did before."""

import asyncio
from types import SimpleNamespace
from typing import Any

from pyraft import RAFT_VOTER
from pyraft.node.admission import REGISTERS, Admission
from pyraft.node.machine import Machine, command
from pyraft.node.registry import REGISTRY, Registry, offer
from pyraft.node.replica import NO_SESSION, Replica
from pyraft.types import RaftServer


class Bank(Machine):
    """Two commands."""

    @command
    def pay(self) -> None:
        """Do nothing."""

    @command
    def close(self) -> None:
        """Do nothing."""


class Path:
    """Takes the calls that are let in."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def send(self, calls: list[Any], done: Any) -> None:
        """Note the commands."""
        self.taken += [call[4] for call in calls]


def call(name: str, *, session: bytes = b"session", machine: str = "") -> list[Any]:
    return [session, 1, 0, machine, name, 1, b"\x92\x90\x80"]


def admission_of(replica: Replica, path: Path) -> Any:
    """Return the admission of member 1, which leads 2; both have told that they have all commands."""
    servers = [RaftServer(1, "a", RAFT_VOTER), RaftServer(2, "b", RAFT_VOTER)]
    raft = SimpleNamespace(
        id=1,
        configuration=SimpleNamespace(servers=servers),
        configuration_committed_index=1,
        configuration_uncommitted_index=0,
        leader_state=SimpleNamespace(progress=[SimpleNamespace(features=REGISTERS) for _ in servers]),
    )
    offers = [offer(*key) for key in replica.offers()]
    registry: Any = SimpleNamespace(revision=1, facts={2: SimpleNamespace(offers=offers)})
    server: Any = SimpleNamespace(raft=raft)
    return Admission(server, replica, registry, path)


def test_a_command_is_refused_once_a_member_lacks_it_though_it_was_welcome_before() -> None:
    """A member with an older program, which has come back from a snapshot, has told what it has."""

    async def scenario() -> None:
        path = Path()
        admission = admission_of(Replica({"": Bank()}), path)
        registry = admission.registry
        all_offers = registry.facts[2].offers
        answers: list[Any] = []
        for _ in range(2):
            admission.send([call("close"), call("pay"), call("close")], answers.append)
        assert path.taken == ["close", "pay", "close"] * 2
        registry.revision += 1
        registry.facts[2].offers = [name for name in all_offers if name != offer("", "close", 1)]
        admission.send([call("close"), call("pay")], answers.append)
        admission.send([call("close")], answers.append)
        assert path.taken[6:] == ["pay"]
        await asyncio.sleep(0)
        assert [len(outcomes) for outcomes in answers] == [1]
        assert b"MissingCommand" in answers[0][0]
        registry.revision += 1
        registry.facts[2].offers = all_offers
        admission.send([call("close")], answers.append)
        assert path.taken[7:] == ["close"]
        admission.send([call("close", session=NO_SESSION)], answers.append)
        assert path.taken[8:] == []

    asyncio.run(scenario())


def test_the_registry_is_refused_where_a_member_has_none_though_it_was_welcome_before() -> None:
    """It counts only what members have told, and not what they announce in their answers."""

    async def scenario() -> None:
        path = Path()
        admission = admission_of(Replica({"": Bank(), REGISTRY: Registry()}), path)
        admission.registry.revision = 0
        rest = call("rest", machine=REGISTRY)
        admission.send([rest], lambda outcomes: None)
        assert path.taken == ["rest"]
        admission._server.raft.leader_state.progress[1].features = 0
        admission.send([rest], lambda outcomes: None)
        assert path.taken == ["rest"]

    asyncio.run(scenario())
