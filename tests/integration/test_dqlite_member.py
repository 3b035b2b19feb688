"""Members of dqlite among themselves: joining, snapshots, handing leadership on, and what clients are answered.

The founder of a cluster leads here and applies transactions as a node with SQL would; real nodes are in interop/dqlite.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from io_uv.dqlite import machine, requests, responses
from io_uv.dqlite.requests import Request
from io_uv.dqlite.responses import Failed, Response
from pyraft import RAFT_LEADER, RAFT_VOTER, RaftConfiguration, raft_configuration_add, raft_set_election_timeout
from pyraft.dqlite import Cluster, DqliteError, Member, Peer, Refused, Settings, find_leader, store
from pyraft.node import identity
from tests.lib.dqlite import Source
from tests.lib.ports import free_port

FAST = Settings(snapshot_threshold=8, snapshot_trailing=8).at_latency(40)
DEADLINE = 300.0


class Founder(Member):
    """The first member of a cluster; it keeps the leadership."""

    async def start(self) -> None:
        """Begin, as the only voter where the directory is new."""
        self.founds = not Path(self.directory, "info.yaml").exists()
        await super().start()

    def _make_server(self) -> None:
        super()._make_server()
        if self.founds:
            conf = RaftConfiguration()
            assert raft_configuration_add(conf, self.id, self.address, RAFT_VOTER) == 0
            self.server.bootstrap(conf)
            os.unlink(Path(self.directory, "join"))

    async def _lead(self) -> None:
        return


def address() -> str:
    """Return an address for a member."""
    return f"127.0.0.1:{free_port()}"


class World:
    """A founder, and members that join it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.founder = Founder(folder / "1", address(), id=1, settings=FAST)
        self.source = Source(folder)
        self.made: list[Member] = [self.founder]

    async def member(self, id: int, **options: Any) -> Member:
        """Start a member and wait until it is in the cluster; then nobody is deposed for a slow moment any more."""
        made = Member(self.folder / str(id), address(), [self.founder.address], id=id, settings=FAST, **options)
        self.made.append(made)
        await made.start()
        await made.joined()
        for one in self.made:
            raft_set_election_timeout(one.server.raft, 3_600_000)
        return made

    async def write(self, *statements: str) -> None:
        """Have the leader run statements."""
        while not (leaders := [one for one in self.made if one.server.state == RAFT_LEADER]):
            await asyncio.sleep(0.005)
        [leader] = leaders
        for entry in self.source.run(*statements):
            await leader.server.apply(entry)

    async def equal(self, *members: Member) -> None:
        """Wait until members have the pages that were written."""
        expected = self.source.content()
        for one in members:
            await one.server.wait_until(
                lambda one=one: "test.db" in one.fsm.databases and one.fsm.databases["test.db"].image() == expected
            )

    async def close(self) -> None:
        """Close all members."""
        for one in self.made:
            await one.close()
        self.source.close()


def in_world(tmp_path: Path, test: Callable[[World], Coroutine[Any, Any, None]], seconds: float = DEADLINE) -> None:
    """Run a test in a world whose founder leads."""

    async def run() -> None:
        world = World(tmp_path)
        try:
            await world.founder.start()
            await world.founder.server.wait_until(lambda: world.founder.server.state == RAFT_LEADER)
            await test(world)
        finally:
            await world.close()

    asyncio.run(asyncio.wait_for(run(), seconds))


async def answers(address: str, *asked: Request) -> list[Response]:
    """Ask a member on one connection."""
    found: list[Response] = []
    async with await Peer.open(address) as peer:
        for request in asked:
            try:
                found.append(await peer.ask(request))
            except DqliteError as exc:
                found.append(Failed(exc.code, exc.message))
    return found


def test_a_member_joins_and_stores(tmp_path: Path) -> None:
    """It gets entries and a snapshot, comes back with all of it, and writes the node store of go-dqlite's app."""

    async def test(world: World) -> None:
        await world.write("create table t(a)")
        for n in range(30):
            await world.write(f"insert into t values(zeroblob({n * 300}))")
        witness = await world.member(2)
        standby = await world.member(3, role=responses.STANDBY)
        assert list(Path(standby.directory).glob("snapshot-*")), "its log begins behind that"
        await world.equal(world.founder, witness, standby)
        assert (witness.own_role, standby.own_role) == (responses.VOTER, responses.STANDBY)
        assert not Path(witness.directory, "join").exists()
        assert store.read_info(witness.directory) == store.Info(2, witness.address, responses.VOTER)
        assert [one.id for one in store.read_cluster(standby.directory)] == [1, 2, 3]
        await standby.close()
        await world.write("vacuum", "insert into t values(7)")
        again = Member(standby.directory, standby.address, settings=FAST)
        world.made[2] = again
        await again.start()
        await again.joined()
        assert again.id == 3
        await world.equal(again, witness)
        assert {name: path.name for name, path in again.databases().items()} == {"test.db": "test.db"}

    in_world(tmp_path, test)


def test_a_start_checks_the_snapshot_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's check takes a second for each hundred megabytes; it runs once, and the loop goes on meanwhile."""
    threads: list[threading.Thread] = []
    fault_of = machine.fault_of

    def noting(path: str, check: str) -> str:
        threads.append(threading.current_thread())
        return fault_of(path, check)

    async def test(world: World) -> None:
        founder = world.founder
        await world.write("create table t(a)", *[f"insert into t values({n})" for n in range(20)])
        await founder.server.wait_until(lambda: founder.server.raft.snapshot.pending is None)
        assert list(Path(founder.directory).glob("snapshot-*"))
        await founder.close()
        again = Founder(founder.directory, founder.address, id=1, settings=FAST)
        world.made = [again]
        monkeypatch.setattr(machine, "fault_of", noting)
        await again.start()
        assert [one is threading.main_thread() for one in threads] == [False]
        await world.equal(again)

    in_world(tmp_path, test)


def test_what_cannot_join_is_refused(tmp_path: Path) -> None:
    """A directory in use or of another node at once, an address of another member for good."""

    async def test(world: World) -> None:
        founder = world.founder
        with pytest.raises(Refused, match="in use by another node of dqlite"):
            await Member(founder.directory, founder.address).start()
        standby = await world.member(2, role=responses.STANDBY)
        await standby.close()
        for changed in ({"id": 9, "address": standby.address}, {"address": address()}):
            with pytest.raises(Refused, match="is that of node 2"):
                await Member(standby.directory, settings=FAST, **changed).start()
        impostor = Member(tmp_path / "9", standby.address, [founder.address], id=9, settings=FAST)
        world.made.append(impostor)
        await impostor.start()
        for waiting in (impostor.joined(), impostor.wait_closed()):
            with pytest.raises(Refused, match="is node 2's: remove that one first"):
                await waiting

    in_world(tmp_path, test)


def test_a_directory_of_a_bare_node_needs_its_id(tmp_path: Path) -> None:
    """Nothing in it says which one it has, and a new one would be another member on the log of this one."""
    (tmp_path / "metadata1").write_bytes(bytes(32))
    with pytest.raises(Refused, match="says which id it has"):
        asyncio.run(Member(tmp_path, address()).start())
    assert os.listdir(tmp_path) == ["metadata1"]


def test_a_directory_of_another_kind_of_node_is_left_alone(tmp_path: Path) -> None:
    """Whether an id is given or not."""
    identity.write(tmp_path, identity.Identity(7, "127.0.0.1:1", "0" * 32, identity.MEMBER))
    for id in (0, 7):
        with pytest.raises(Refused, match="belongs to member 7 of a cluster that is not dqlite's"):
            asyncio.run(Member(tmp_path, address(), id=id).start())
    assert os.listdir(tmp_path) == [identity.NODE_FILE]


def test_a_new_node_without_anybody_to_ask_says_so(tmp_path: Path) -> None:
    """It waits for a cluster that adds it by itself, and the log says why nothing happens."""

    async def main() -> None:
        async with Member(tmp_path / "1", address(), settings=FAST) as alone:
            while not alone._told:
                await asyncio.sleep(0)
            assert alone._told == "it is not taken into the cluster yet: it knows no other node: none was given to join"

    asyncio.run(main())


def test_joining_is_tried_until_the_cluster_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says once what is in the way."""

    async def test(world: World) -> None:
        await world.founder.close()
        late = Member(tmp_path / "2", address(), [world.founder.address], settings=FAST)
        await late.start()
        while "it is not taken into the cluster yet: no leader is found" not in caplog.text:
            await asyncio.sleep(0.01)
        world.made[0] = Founder(world.founder.directory, world.founder.address, settings=FAST)
        world.made.append(late)
        await world.made[0].start()
        await late.joined()
        assert late.own_role == responses.VOTER
        assert 0 < late.id < 1 << 53  # exact in JavaScript, too

    in_world(tmp_path, test)


def test_leadership_is_handed_on(tmp_path: Path) -> None:
    """Each time, to a voter that answers; meanwhile the witness says that nobody leads."""

    async def test(world: World) -> None:
        await world.write("create table t(a)")
        witness = await world.member(2)
        seen: list[Response] = []
        hand_on = witness._hand_on

        async def asked_first(id: int) -> None:
            seen.extend(await answers(witness.address, requests.Leader(), requests.Open("test.db")))
            await hand_on(id)

        witness._hand_on = asked_first
        for n in range(5):
            await world.write(f"insert into t values({n})")
            terms = world.founder.server.raft.current_term
            assert await answers(world.founder.address, requests.Transfer(2)) == [responses.Empty()]
            await world.founder.server.wait_until(
                lambda terms=terms: (
                    world.founder.server.state == RAFT_LEADER and world.founder.server.raft.current_term >= terms + 2
                )
            )
        nobody = [responses.Server(0, ""), Failed(responses.NOT_LEADER, "not leader")]
        assert seen == nobody * 5
        await world.equal(world.founder, witness)

    in_world(tmp_path, test)


def test_the_last_voter_leads_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A witness that no other voter answers goes on as the leader, says so, and takes changes of the configuration."""

    async def test(world: World) -> None:
        witness = await world.member(2)
        witness._voters_that_answer = list
        await world.founder.server.transfer(2)
        while "serves no statements" not in caplog.text:
            await asyncio.sleep(0.01)
        assert await answers(witness.address, requests.Leader()) == [responses.Server(2, witness.address)]
        async with await find_leader([world.founder.address, witness.address]) as peer:
            assert peer.address == witness.address
            assert await peer.ask(requests.Add(5, "127.0.0.1:5")) == responses.Empty()
            assert await peer.ask(requests.Remove(5)) == responses.Empty()
            assert await peer.ask(requests.Assign(1, responses.STANDBY)) == responses.Empty()

    in_world(tmp_path, test)


def test_changes_are_answered_with_dqlites_codes(tmp_path: Path) -> None:
    """They are done, refused, in the way of another one, or not done here."""

    async def test(world: World) -> None:
        witness = await world.member(2)
        founder = world.founder.address
        assert await answers(
            founder,
            requests.Add(2, witness.address),
            requests.Assign(2, 9),
            requests.Assign(9, 0),
            requests.Remove(9),
            requests.Transfer(9),
            requests.Add(3, "127.0.0.1:3"),
            requests.Cluster(0),
            requests.Remove(3),
        ) == [
            Failed(1, "server ID already in use"),
            Failed(1, "invalid role"),
            Failed(1, "Resource not found"),
            Failed(1, "server ID is not valid"),
            Failed(1, "leadership transfer failed"),
            responses.Empty(),
            responses.Servers(
                tuple(responses.Member(*one) for one in ((1, founder), (2, witness.address), (3, "127.0.0.1:3")))
            ),
            responses.Empty(),
        ]
        not_here = Failed(responses.NOT_LEADER, "not leader")
        assert await answers(witness.address, requests.Add(3, "127.0.0.1:3"), requests.Exec(0, 0)) == [not_here] * 2
        assert await answers(founder, requests.Dump("no"), requests.Interrupt(), requests.Cluster(5)) == [
            Failed(responses.NOT_FOUND, "database does not exists"),
            responses.Empty(),
            Failed(responses.PARSE, "unrecognized cluster format"),
        ]
        # A voter that never catches up keeps a change under way.
        adding = asyncio.ensure_future(answers(founder, requests.Add(4, "127.0.0.1:4"), requests.Assign(4, 0)))
        await world.founder.server.wait_until(lambda: world.founder.server.raft.leader_state.promotee_id == 4)
        assert await answers(founder, requests.Remove(4)) == [
            Failed(responses.BUSY, "a configuration change is already in progress")
        ]
        await world.founder.close()
        with pytest.raises(OSError):
            await adding

    in_world(tmp_path, test)


def test_a_stop_is_told(tmp_path: Path) -> None:
    """A state machine that fails stops the member, and whoever waits for it gets the reason."""

    async def test(world: World) -> None:
        witness = await world.member(2)
        entry = b"\1\1\0\0\0\0\0\0" + b"a" * 7 + b"\0"
        await world.founder.server.apply(entry)
        witness.fsm.apply = lambda fsm, buf: (12, None)
        await world.founder.server.apply(entry)
        with pytest.raises(Exception, match="apply entry 4: persisted data is corrupted"):
            await witness.wait_closed()

    in_world(tmp_path, test)


def test_the_command(tmp_path: Path) -> None:
    """It says when it is in the cluster, ends with SIGTERM, and tells what is refused in a line."""

    async def test(world: World) -> None:
        at = address()
        command = [sys.executable, "-m", "pyraft", "dqlite", "witness", str(tmp_path / "2"), f"--address={at}"]
        process = await asyncio.create_subprocess_exec(
            *command, f"--join={world.founder.address}", "--id=2", "--network-latency=40", stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == f"node 2 at {at} is in the cluster\n".encode()
        second = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
        _, said = await second.communicate()
        assert second.returncode == 1
        assert said.startswith(b"Error: directory '")
        assert said.endswith(b"in use by another node of dqlite\n")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        again = await asyncio.create_subprocess_exec(*command, "--network-latency=40", "--json", stdout=subprocess.PIPE)
        assert again.stdout is not None
        assert json.loads(await again.stdout.readline()) == {"id": 2, "address": at, "files": None}
        again.send_signal(signal.SIGTERM)
        assert await again.wait() == 0

    in_world(tmp_path, test)


def test_a_role_that_was_taken_away_is_asked_for_again(tmp_path: Path) -> None:
    """A member that keeps its role asks, not another one, nor one that was removed; the node store follows."""

    async def test(world: World) -> None:
        keeping, other, gone = [await world.member(id, keep_role=id != 3) for id in (2, 3, 4)]
        admin = Cluster([world.founder.address], timeout_seconds=DEADLINE)
        await admin.remove(gone.id)
        for member in (other, keeping):
            await admin.assign(member.id, responses.SPARE)
            # It is sent nothing any more, and sees after such a time that it has no leader.
            raft_set_election_timeout(member.server.raft, FAST.election_msecs)
        while {one.id: one.role for one in await admin.members()} != {1: 0, 2: 0, 3: 2}:
            await asyncio.sleep(0.02)
        while {one.id: one.role for one in store.read_cluster(keeping.directory)} != {1: 0, 2: 0, 3: 2}:
            await asyncio.sleep(0.02)

    in_world(tmp_path, test)
