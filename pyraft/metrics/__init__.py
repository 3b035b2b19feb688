"""Metrics of a server for Prometheus: counters that the parts keep anyway, read when somebody asks.

Duty: `Collector` yields them as prometheus_client's families. OPERATING.md beside pyraft's core says what to
alert on; `examples/monitoring` has the rules, and a dashboard.

    from prometheus_client import REGISTRY
    from pyraft import metrics

    async with Node("data/1", Shop()) as node:
        REGISTRY.register(metrics.of(node))         # or metrics.of_server(raft, io) for the C-style API
        ...

Failure modes: it needs prometheus_client (`pip install 'pyraft-uv[metrics]'`), and is an ImportError without.
"""

from pyraft.metrics.families import CONTENT_TYPE, Collector, of, of_server, render

__all__ = ["CONTENT_TYPE", "Collector", "of", "of_server", "render"]
