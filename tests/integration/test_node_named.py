"""Sessions under a name: a program that is killed in the middle of a call makes it again, and it counts once."""

import asyncio
import random
import sys
from pathlib import Path

from pyraft.node import Node, init
from tests.integration.test_node_processes import environment
from tests.lib.nodes import QUICK, Shop, run
from tests.lib.uvnode import free_addresses

CLIENT = """
import asyncio
import sys

from pyraft.node import connect
from tests.lib.nodes import QUICK, Shop

async def main(address, number):
    async with connect([address], Shop(), settings=QUICK) as client:
        session = client.session("order-service")
        while True:  # each number is an order; a restart begins with the last one that it may have made
            print(number, flush=True)
            assert await session.call(number, client.machine.put, "apple") == number
            number += 1

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_calls_of_a_program_that_is_killed_count_once(tmp_path: Path) -> None:
    """It is killed anywhere in its calls, and begins again with the number that it had told last."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    (tmp_path / "client.py").write_text(CLIENT)

    async def main() -> None:
        (address,) = free_addresses(1).values()
        await init(tmp_path / "1", address)
        async with Node(tmp_path / "1", Shop(), settings=QUICK) as node:
            number = 1
            for _ in range(4):
                number = await killed_after(tmp_path, address, number, rng.randrange(1, 30))
            left = await node.machine.left("apple")
            assert left in (number - 1, number)  # the last one was told, and made or not
            assert await node.session("order-service").call(number, node.machine.put, "apple") == number
            assert await node.machine.left("apple") == number

    run(main)


async def killed_after(directory: Path, address: str, number: int, calls: int) -> int:
    """Have the program make so many calls, from a number on, and kill it; return the number that it told last."""
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        sys.executable, "client.py", address, str(number), cwd=directory, env=environment(), stdout=pipe
    )
    assert program.stdout is not None
    for _ in range(calls):
        told = await program.stdout.readline()
        assert told, "the program has ended by itself"
    program.kill()
    rest = (await program.stdout.read()).split()
    await program.wait()
    return int(rest[-1] if rest else told)
