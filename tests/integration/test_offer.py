"""Servers of the C-style API that offer their status by one call: asked with the command, on loops of both kinds."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyraft import RAFT_VOTER, RaftConfiguration, raft_configuration_add
from pyraft.node import Refused, Unavailable, connect, offer_status
from pyraft.node.ground import Ground
from pyraft.node.identity import Identity
from pyraft.node.operate import Operator
from tests.integration.test_command import run
from tests.lib import nodes
from tests.lib.fsm import PairFsm, add_x
from tests.lib.nodes import Shop
from tests.lib.uvnode import free_addresses

ROOT = Path(__file__).resolve().parents[2]

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


def test_on_the_loop_of_an_asyncio_program(tmp_path: Path) -> None:
    """A cluster of two; a follower names the leader, and calls of a node's clients are not taken."""

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
        (leader,) = [server for _, server in servers if server.is_leader]
        await leader.apply(add_x(1))
        async with Operator([addresses[1], addresses[2]]) as operator:
            survey = await operator.survey()
            assert survey.leader is not None
            assert (survey.leader.id, len(survey.members), survey.cluster) == (leader.raft.id, 2, "")
            assert all(one.status is not None and one.status.segments for one in survey.members)
            assert [one.leads for one in await operator.members()].count(True) == 1
        async with connect([addresses[1], addresses[2]], Shop()) as client:
            with client.timeout(0.5), pytest.raises(Exception, match=r"not in 0\.5|no answer|in time"):
                await client.machine.put("apple")
        for ground, _ in servers:
            await ground.close()
        async with Operator([addresses[1]]) as operator:
            with pytest.raises(Unavailable):
                await operator.survey()

    nodes.run(main)
