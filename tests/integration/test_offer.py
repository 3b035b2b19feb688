"""Servers of the C-style API that offer their status by one call: asked with the command, on loops of both kinds."""

import asyncio
import json
import os
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import io_uv
from io_uv import pyuv
from pyraft import (
    RAFT_VOTER,
    Raft,
    RaftConfiguration,
    RaftIo,
    aio,
    metrics,
    page,
    raft_configuration_add,
    raft_set_election_timeout,
)
from pyraft.node import Refused, Unavailable, backup, connect, offer_status
from pyraft.node.ground import Ground
from pyraft.node.identity import Identity, read
from pyraft.node.operate import Operator
from tests.integration.test_command import run
from tests.lib import nodes
from tests.lib.fsm import PairFsm, add_x
from tests.lib.nodes import Shop
from tests.lib.uvnode import free_addresses

ROOT = Path(__file__).resolve().parents[2]
SILENCE = "pyraft_member_silence_seconds{"
PATIENCE = 60_000
"""Milliseconds for which a leader stays one although the machine stands still; also for a transfer."""

PROGRAM = '''
"""One server in C's style, on a loop of its own, until its standard input ends."""
import sys
import threading

import io_uv
import pyraft
from io_uv import pyuv
from pyraft.node import offer_status

dir, address = sys.argv[1:]
loop = pyuv.Loop()
transport, io = io_uv.RaftUvTransport(), pyraft.RaftIo()
fsm = pyraft.RaftFsm()
fsm.apply = lambda fsm, buf: (0, None)
raft = pyraft.Raft()
assert io_uv.raft_uv_tcp_init(transport, loop) == 0
assert io_uv.raft_uv_init(io, loop, dir, transport) == 0
assert pyraft.raft_init(raft, io, fsm, 1, address) == 0
assert offer_status(transport, io, raft) == 0
conf = pyraft.RaftConfiguration()
pyraft.raft_configuration_add(conf, 1, address, pyraft.RAFT_VOTER)
assert pyraft.raft_bootstrap(raft, conf) == 0
assert pyraft.raft_start(raft) == 0


def stop(_):
    ended.close()
    pyraft.raft_close(raft, lambda raft: (io_uv.raft_uv_close(io), io_uv.raft_uv_tcp_close(transport)))


ended = pyuv.Async(loop, stop)
threading.Thread(target=lambda: (sys.stdin.read(), ended.send()), daemon=True).start()
print("started", flush=True)
loop.run()
loop.close()
'''


def test_on_a_loop_of_its_own(tmp_path: Path) -> None:
    """Status, members, ping and check, while it runs; and it ends with the connection of one who stays."""
    (tmp_path / "data").mkdir()
    where = free_addresses(1)[1]
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", PROGRAM, os.fspath(tmp_path / "data"), where],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"

        async def main() -> None:
            async with Operator([where]) as operator:
                while (await operator.survey()).leader is None:
                    await asyncio.sleep(0.01)
                assert (await operator.status(where)).visitors == [["127.0.0.1", 0]]
                for words in (["status"], ["members"], ["ping"], ["check"]):
                    result = await asyncio.to_thread(run, *words, "--via", where)
                    assert (result.exit_code, where in result.output) == (0, True), result.output
                with pytest.raises(Refused, match="nobody here knows what 'snapshot' is"):
                    await operator.snapshot(where)
                _, err = await asyncio.to_thread(process.communicate, "", 60)
                assert (process.returncode, err) == (0, "")

        nodes.run(main)
    finally:
        process.kill()
        process.communicate()


def test_arguments_of_another_type_are_refused() -> None:
    """They are looked at before anybody connects, when nobody would see the mistake."""
    any_offer: Any = offer_status
    loop = pyuv.Loop()
    transport, io, raft = io_uv.RaftUvTransport(), RaftIo(), Raft()
    assert io_uv.raft_uv_tcp_init(transport, loop) == 0
    mistakes: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((io, io, raft), {}, "the transport cannot be <"),
        ((transport, transport, raft), {}, "io cannot be <"),
        ((transport, io, 3), {}, "raft cannot be 3"),
        ((transport, io, raft), {"commits": []}, r"commits cannot be \[\]"),
        ((transport, io, raft), {"backups": 1}, "backups cannot be 1"),
        ((transport, io, raft), {"voters": True}, "voters must be a whole number, not True"),
        ((transport, io, raft), {"voters": -1}, "the number of voters must be 0 or more, not -1"),
    ]
    for given, named, match in mistakes:
        with pytest.raises((TypeError, ValueError), match=match):
            any_offer(*given, **named)
    io_uv.raft_uv_tcp_close(transport)
    loop.run()
    loop.close()


def test_on_the_loop_of_an_asyncio_program(tmp_path: Path) -> None:
    """In a cluster of two a follower names the leader, and calls of a node's clients are not taken."""

    async def main() -> None:
        addresses = free_addresses(2)
        conf = RaftConfiguration()
        for id in (1, 2):
            raft_configuration_add(conf, id, addresses[id], RAFT_VOTER)
        servers = []
        for id in (1, 2):
            (tmp_path / str(id)).mkdir()
            ground = Ground(tmp_path / str(id))
            server = ground.server(PairFsm(), Identity(id, addresses[id], "", "member"))
            assert offer_status(ground.transport, ground.io, server.raft) == 0
            server.bootstrap(conf)
            await server.start()
            servers.append((ground, server))
        await servers[0][1].wait_until(lambda: any(server.is_leader for _, server in servers))
        for _, server in servers:
            raft_set_election_timeout(server.raft, PATIENCE)
        (leader,) = [server for _, server in servers if server.is_leader]
        await leader.apply(add_x(1))
        async with Operator([addresses[1], addresses[2]]) as operator:
            survey = await operator.survey()
            assert survey.leader is not None
            assert (survey.leader.id, len(survey.members), survey.cluster) == (leader.raft.id, 2, "")
            assert all(one.status is not None and one.status.segments for one in survey.members)
            assert [one.leads for one in await operator.members()].count(True) == 1
        async with connect([addresses[1], addresses[2]], Shop()) as client:
            with client.timeout(0.5), pytest.raises(Exception, match=r"not done in 0\.5|no answer|in time"):
                await client.machine.put("apple")
        for ground, _ in servers:
            await ground.close()
        async with Operator([addresses[1]]) as operator:
            with pytest.raises(Unavailable):
                await operator.survey()

    nodes.run(main)


def on_three(
    tmp_path: Path,
    voters: int,
    scenario: Callable[[dict[int, aio.Server], Operator], Awaitable[None]],
    backups: bool = False,
) -> None:
    """Run a scenario with three voters of the C-style API, by id, which offer changes where `voters` says so."""

    async def main() -> None:
        addresses = free_addresses(3)
        conf = RaftConfiguration()
        for id in (1, 2, 3):
            raft_configuration_add(conf, id, addresses[id], RAFT_VOTER)
        grounds, servers = [], {}
        for id in (1, 2, 3):
            (tmp_path / str(id)).mkdir()
            ground = Ground(tmp_path / str(id))
            servers[id] = ground.server(PairFsm(), Identity(id, addresses[id], "", "member"))
            offered = offer_status(ground.transport, ground.io, servers[id].raft, voters=voters, backups=backups)
            assert offered == 0
            servers[id].bootstrap(conf)
            await servers[id].start()
            grounds.append(ground)
        await servers[1].wait_until(lambda: servers[1].leader[0] != 0)
        for server in servers.values():
            raft_set_election_timeout(server.raft, PATIENCE)
        async with Operator(list(addresses.values()), seconds=120) as operator:
            await scenario(servers, operator)
        for ground in grounds:
            await ground.close()

    nodes.run(main)


def test_members_are_changed(tmp_path: Path) -> None:
    """Ids name them, through any server; the leader hands over before it is changed, and what cannot be is refused."""

    async def scenario(servers: dict[int, aio.Server], operator: Operator) -> None:
        def roles() -> dict[int, str]:
            return {one.id: one.role for one in found}

        assert await operator.transfer(2) == 2
        assert servers[2].is_leader
        await operator.demote(2)
        found = await operator.members()
        assert roles() == {1: "voter", 2: "standby", 3: "voter"}
        assert [one.leads for one in found if one.id == 2] == [False]
        assert await operator.promote(2) == "voter"
        assert await operator.promote(2) == "voter"
        await operator.add(7, "127.0.0.1:1")
        with pytest.raises(Refused, match="is the address of member 7"):
            await operator.add(8, "127.0.0.1:1")
        assert await operator.promote(7) == "standby"
        await operator.remove(7)
        with pytest.raises(Refused, match=r"9 is not a member$"):
            await operator.promote(9)
        (leader,) = [id for id, server in servers.items() if server.is_leader]
        await operator.remove(leader)
        found = await operator.members()
        assert set(roles()) == {1, 2, 3} - {leader}

    on_three(tmp_path, 3, scenario)


def test_a_page_has_buttons_for_such_servers(tmp_path: Path) -> None:
    """They are behind its token, as for nodes."""

    async def scenario(servers: dict[int, aio.Server], operator: Operator) -> None:
        async with page.watched(operator.via, "127.0.0.1:0", "open sesame") as where:
            headers = {"Authorization": "Bearer open sesame"}
            async with aiohttp.ClientSession(headers=headers) as session:
                async with session.get(f"http://{where}/cluster") as answer:
                    view = await answer.json()
                assert (view["why"], "transfer" in view["changes"]) == ("", True)
                (other, *_) = [id for id, server in servers.items() if not server.is_leader]
                asked = {"change": "transfer", "member": str(other)}
                async with session.post(f"http://{where}/change", json=asked) as answer:
                    assert (answer.status, await answer.json()) == (200, {"done": other})
                assert servers[other].is_leader

    on_three(tmp_path, 3, scenario)


def test_members_are_not_changed_where_the_program_does_not_want_that(tmp_path: Path) -> None:
    """The command and the page say so."""

    async def scenario(servers: dict[int, aio.Server], operator: Operator) -> None:
        with pytest.raises(Refused, match="nobody here knows what 'transfer' is"):
            await operator.transfer(2)
        async with (
            page.watched(operator.via, "127.0.0.1:0", "x") as where,
            aiohttp.ClientSession(headers={"Authorization": "Bearer x"}) as session,
            session.get(f"http://{where}/cluster") as answer,
        ):
            view = await answer.json()
        assert (view["changes"], "C-style API" in view["why"]) == ([], True)

    on_three(tmp_path, 0, scenario)


def test_the_leader_says_when_members_were_heard_of(tmp_path: Path) -> None:
    """The command and metrics; one that is gone falls silent, and one that never came was not heard of."""

    async def scenario(servers: dict[int, aio.Server], operator: Operator) -> None:
        async def silences() -> dict[int, float | None]:
            found = await operator.members()
            assert all(one.behind is not None for one in found if one.id != 7)  # which never came
            return {one.id: one.last_contact for one in found if not one.leads}

        await servers[1].wait_until(lambda: any(server.is_leader for server in servers.values()))
        (leader,) = [id for id, server in servers.items() if server.is_leader]
        first, second = {1, 2, 3} - {leader}
        await servers[leader].add(7, free_addresses(1)[1])
        await heard(silences, lambda found: None not in (found[first], found[second]))
        assert (await silences())[7] is None
        await servers[first].close()
        await heard(silences, lambda found: (found[first] or 0) > 0.5)
        later = await silences()
        assert (later[second] or 0) < (later[first] or 0)
        shown = await asyncio.to_thread(run, "members", "--via", servers[leader].raft.address)
        row = next(line for line in shown.output.splitlines() if f" {first} " in line)
        assert "s ago" in row
        text = (await metrics.render(metrics.of_server(servers[leader].raft, servers[leader].io))).decode()
        figures = {
            line.split('member="')[1].split('"')[0]: float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith(SILENCE)
        }
        assert set(figures) == {str(first), str(second)}
        assert figures[str(first)] > 0.5

    on_three(tmp_path, 0, scenario)


async def heard(ask: Callable[[], Awaitable[dict[int, float | None]]], test: Callable[[Any], bool]) -> None:
    """Ask until the answer is as it is to be."""
    while not test(await ask()):
        await asyncio.sleep(0.01)


def test_a_backup_comes_back_as_a_new_cluster(tmp_path: Path) -> None:
    """Of a follower, with all that was acknowledged before, and the configuration; the state is there again."""
    file = tmp_path / "pairs.backup"

    async def scenario(servers: dict[int, aio.Server], operator: Operator) -> None:
        (leader,) = [server for server in servers.values() if server.is_leader]
        for number in range(5):
            for _ in range(10):
                await leader.apply(add_x(1))
            follower = next(server for server in servers.values() if server is not leader)
            if number < 4:
                head = await backup.take(operator, tmp_path / str(number), follower.raft.address)
                assert pairs(tmp_path / str(number)) == (10 * (number + 1), 0)
                assert head.index >= leader.raft.commit_index
        result = await asyncio.to_thread(run, "backup", file, *[f"--via={via}" for via in operator.via])
        assert result.exit_code == 0, result.output
        result = await asyncio.to_thread(run, "snapshot", "take", *[f"--via={via}" for via in operator.via])
        assert (result.exit_code, result.output.count("has a snapshot up to entry")) == (0, 3), result.output

    (tmp_path / "data").mkdir()
    on_three(tmp_path / "data", 0, scenario, backups=True)
    facts = json.loads(run("dir", "backup", file, "--json").output)
    assert (facts["cluster"], sorted(row[0] for row in facts["members"])) == ("", [1, 2, 3])
    where = free_addresses(1)[1]
    new = tmp_path / "new"
    result = run("dir", "restore", file, new, "--address", where)
    assert (result.exit_code, "give the id of the first one" in result.output) == (1, True)
    result = run("dir", "restore", file, new, "--address", where, "--id", 21)
    assert result.exit_code == 0, result.output
    assert read(new) is None

    async def again() -> None:
        ground, fsm = Ground(new), PairFsm()
        server = ground.server(fsm, Identity(21, where, "", "member"))
        await server.start()
        assert fsm.x == 50
        await server.wait_until(lambda: server.is_leader)
        await server.apply(add_x(1))
        assert fsm.x == 51
        await ground.close()

    nodes.run(again)


def pairs(file: Path) -> tuple[int, int]:
    """Return the state that a backup of PairFsm has."""
    return struct.unpack("<QQ", file.read_bytes().split(b"\n", 1)[1][:16])


def test_nothing_is_given_out_where_the_program_does_not_want_that(tmp_path: Path) -> None:
    """The command says so."""

    async def scenario(servers: dict[int, aio.Server], operator: Operator) -> None:
        with pytest.raises(Refused, match="nobody here knows what 'backup' is"):
            await backup.take(operator, tmp_path / "b", servers[1].raft.address)
        assert not (tmp_path / "b").exists()

    (tmp_path / "data").mkdir()
    on_three(tmp_path / "data", 3, scenario)
