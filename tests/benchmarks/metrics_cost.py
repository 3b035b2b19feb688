"""The processor time that metrics cost: `python -m tests.benchmarks.metrics_cost`.

Throughput on a shared machine moves by more than the two per cent in question. So this takes the time that the process
itself had of a processor: for a reading of the metrics, and for a command on a cluster of one, with 64 under way, where
what is noted for the histograms of metrics is left out in every other load.

It prints the milliseconds of a reading, and the median of the pairs' differences in per cent.
"""

import argparse
import asyncio
import contextlib
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from unittest import mock

from io_uv.histogram import Histogram
from pyraft import metrics
from pyraft.node import Node, init
from tests.benchmarks.node_server import SETTINGS, Counter
from tests.lib.ports import free_addresses

UNDER_WAY = 64
READINGS = 200


def _note_nothing(histogram: Histogram, seconds: float) -> None:
    pass


@contextlib.contextmanager
def without_notes(wanted: bool) -> Iterator[None]:
    """Have histograms note nothing in the block, if that is wanted."""
    with mock.patch.object(Histogram, "observe", _note_nothing) if wanted else contextlib.nullcontext():
        yield


async def reading(node: Node[Counter]) -> float:
    """Return the seconds of processor time of a reading."""
    collector = metrics.of(node)
    await metrics.render(collector)
    began = time.process_time()
    for _ in range(READINGS):
        await metrics.render(collector)
    return (time.process_time() - began) / READINGS


async def load(node: Node[Counter], commands: int) -> float:
    """Return the seconds of processor time of a command."""
    left = [commands]

    async def caller() -> None:
        while left[0] > 0:
            left[0] -= 1
            await node.machine.put(bytes(64))

    gc.collect()
    began = time.process_time()
    await asyncio.gather(*[caller() for _ in range(UNDER_WAY)])
    return (time.process_time() - began) / commands


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The processor time that metrics cost.")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--commands", type=int, default=6000, help="commands of a load")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        await init(directory, free_addresses(1)[1])
        async with Node(directory, Counter(), settings=SETTINGS) as node:
            gc.freeze()
            await load(node, options.commands)
            pairs = []
            for _ in range(options.pairs):
                with without_notes(True):
                    bare = await load(node, options.commands)
                pairs.append(await load(node, options.commands) / bare - 1)
            seconds = await reading(node)
    print(f"a reading: {seconds * 1e3:.2f} ms of a processor")
    print(f"a command, {UNDER_WAY} under way: {statistics.median(pairs):+.1%} in the median of {len(pairs)} pairs")


if __name__ == "__main__":
    asyncio.run(main())
