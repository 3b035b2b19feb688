"""Tests of one's own machine: a cluster in virtual time with faults by seed, and a search for what differs by member.

from pyraft.node.testing import simulate

def test_stock_survives_faults():
    async def scenario(cluster):
        load = asyncio.ensure_future(cluster.faults(60))
        ...

    simulate(scenario, Shop, seed=7)
"""

from pyraft.node.testing.cluster import CLIENTS, Cluster, simulate
from pyraft.node.testing.determinism import Execution, call, check_deterministic
from pyraft.node.testing.timeline import Standstill, Timeline

__all__ = ["CLIENTS", "Cluster", "Execution", "Standstill", "Timeline", "call", "check_deterministic", "simulate"]
