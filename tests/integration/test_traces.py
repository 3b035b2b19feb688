"""Traces of OpenTelemetry through nodes: one trace from the call to each member, and nothing for older members."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from io_uv import datadir
from pyraft.command import decoding
from pyraft.node import Node, connect, things, traces
from pyraft.node.codec import Codec
from pyraft.node.registry import offer
from pyraft.node.replica import Replica
from tests.lib import nodes
from tests.lib.nodes import Nodes, Shop, until

NOTE = offer(traces.TRACES, "note", 1)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A program that has set up a provider; here are the spans that have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def of_trace(spans: InMemorySpanExporter, id: int) -> dict[str, list[ReadableSpan]]:
    """Return the spans of a trace, by name."""
    found: dict[str, list[ReadableSpan]] = {}
    for span in spans.get_finished_spans():
        assert span.context is not None
        if span.context.trace_id == id:
            found.setdefault(span.name, []).append(span)
    return found


async def all_told(cluster: Nodes, n: int) -> None:
    """Wait until each member knows that all n have the machine."""

    def told(node: "Node[Shop]") -> bool:
        facts = node._registry.facts.values()
        return len(facts) == n and all(NOTE in one.offers for one in facts)

    await until(lambda: all(told(node) for node in cluster.nodes.values()))


async def traced(call: Any) -> int:
    """Make a call within a span of the program; return the id of the trace."""
    with trace.get_tracer("test").start_as_current_span("the program") as span:
        await call()
        return span.get_span_context().trace_id


def test_one_trace_from_the_call_to_all_members(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """A call on a follower: the program's span, submit below it, commit and the applies of both below that."""

    async def main() -> None:
        async with Nodes(tmp_path) as cluster:
            await cluster.grow(2)
            await all_told(cluster, 2)
            (follower,) = cluster.followers()
            id = await traced(lambda: follower.machine.put("apple"))
            await until(lambda: len(of_trace(spans, id).get("pyraft apply", [])) == 2)
            found = of_trace(spans, id)
            assert {name: len(all) for name, all in found.items()} == {
                "the program": 1,
                "pyraft submit Shop.put": 1,
                "pyraft commit": 1,
                "pyraft apply": 2,
            }
            (program,), (submit,) = found["the program"], found["pyraft submit Shop.put"]
            assert submit.parent is not None
            assert program.context is not None
            assert submit.context is not None
            assert submit.parent.span_id == program.context.span_id
            for span in (*found["pyraft commit"], *found["pyraft apply"]):
                assert span.parent is not None
                assert span.parent.span_id == submit.context.span_id
            commit = found["pyraft commit"][0]
            assert commit.start_time is not None
            assert commit.end_time is not None
            assert submit.start_time is not None
            assert submit.end_time is not None
            assert submit.start_time <= commit.start_time <= commit.end_time <= submit.end_time
            with pytest.raises(LookupError):
                await traced(lambda: follower.machine.take("pear"))
            (failed,) = [span for span in spans.get_finished_spans() if span.name == "pyraft submit Shop.take"]
            assert failed.status.status_code is trace.StatusCode.ERROR

    nodes.run(main)


def test_many_calls_in_one_entry_and_a_client(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """Each call has spans of its own, and the results are those of the calls."""

    async def main() -> None:
        async with Nodes(tmp_path) as cluster:
            await cluster.grow(1)
            await all_told(cluster, 1)
            async with connect([cluster.addresses[1]], Shop()) as client:
                assert await client.machine.put("pear") == 1
                results = await asyncio.gather(*(client.machine.put("apple") for _ in range(50)))
                assert sorted(results) == list(range(1, 51))
            names = [span.name for span in spans.get_finished_spans()]
            assert names.count("pyraft submit Shop.put") == names.count("pyraft commit") == 51
            assert names.count("pyraft apply") == 51

    nodes.run(main)


def old(machines: Any) -> Replica:
    """Return the replica of a program that does not know the machine for contexts."""
    return Replica({name: machine for name, machine in machines.items() if name != traces.TRACES})


@pytest.mark.parametrize("leads", ["old", "new"])
def test_an_older_member_does_not_meet_them(
    leads: str, tmp_path: Path, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it leads or follows, calls go on, traces end where it begins, and nothing of them is in the log."""

    async def main() -> None:
        async with Nodes(tmp_path) as cluster:
            with monkeypatch.context() as patch:
                patch.setattr(things, "Replica", old)
                await cluster.start(1)
            await cluster.start(2)
            await until(lambda: all(cluster.roles(node) == ["voter"] * 2 for node in cluster.nodes.values()))
            await until(lambda: all(len(node._registry.facts) == 2 for node in cluster.nodes.values()))
            if leads == "new":
                await cluster.nodes[1].transfer(cluster.nodes[2].id)
                await until(lambda: cluster.nodes[2].is_leader)
            for node in cluster.nodes.values():
                id = await traced(lambda node=node: node.machine.put("apple"))
                assert set(of_trace(spans, id)) <= {"the program", "pyraft submit Shop.put", "pyraft commit"}
            assert await cluster.leader().machine.left("apple") == 2
            for node in cluster.nodes.values():
                await node.ready()
                assert node.server.raft.stuck_index == 0

    nodes.run(main)
    for number in (1, 2):
        with datadir.hold(tmp_path / str(number)):
            assert not any(b"traceparent" in one.data for one in datadir.entries(tmp_path / str(number)))


def test_a_member_that_has_told_nothing_counts_as_old(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """Before the only member has told of itself, a leader lets no context into its log."""

    async def main() -> None:
        async with Nodes(tmp_path) as cluster:
            node = await cluster.start(1)
            facts = dict(node._registry.facts)
            assert node._admission._without(NOTE) == (0 if facts else node.id)
            await all_told(cluster, 1)
            assert node._admission._without(NOTE) == 0
            assert node._admission._without(offer(traces.TRACES, "note", 2)) == node.id

    nodes.run(main)


def test_old_entries_make_no_spans(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """A member that starts applies its log again: nobody wants to see what is a minute old."""

    async def main() -> None:
        async with Nodes(tmp_path) as cluster:
            node = (await cluster.grow(1))[0]
            await all_told(cluster, 1)
            await traced(lambda: node.machine.put("apple"))
            tracing = node._calls.tracing
            assert tracing is not None
            now = node.outside.microseconds()
            await node.close()
            with datadir.hold(tmp_path / "1"):
                (entry,) = [one.data for one in datadir.entries(tmp_path / "1") if b"traceparent" in one.data]
            assert "pyraft.traces.note" in decoding.describe(1, entry)
            for later, wanted in ((1_000_000, 1), (61_000_000, 0)):
                spans.clear()
                assert tracing.around(lambda entry: 7, lambda later=later: now + later)(entry) == 7
                assert len(spans.get_finished_spans()) == wanted

    nodes.run(main)


def test_without_a_provider_nothing_travels(tmp_path: Path) -> None:
    """OpenTelemetry is installed, and the program has not set it up."""
    assert traces.find() is None

    async def main() -> None:
        async with Nodes(tmp_path) as cluster:
            node = (await cluster.grow(1))[0]
            await all_told(cluster, 1)
            assert node._calls.tracing is None
            await traced(lambda: node.machine.put("apple"))

    nodes.run(main)
    with datadir.hold(tmp_path / "1"):
        for one in datadir.entries(tmp_path / "1"):
            assert b"traceparent" not in one.data


def test_what_is_not_sampled_does_not_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that says no costs nothing in the log."""
    provider = TracerProvider(sampler=ALWAYS_OFF)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)

    async def main() -> None:
        async with Nodes(tmp_path) as cluster:
            node = (await cluster.grow(1))[0]
            await all_told(cluster, 1)
            assert node._calls.tracing is not None
            await traced(lambda: node.machine.put("apple"))

    nodes.run(main)
    provider.shutdown()
    with datadir.hold(tmp_path / "1"):
        assert not any(b"traceparent" in one.data for one in datadir.entries(tmp_path / "1"))


@pytest.mark.parametrize(
    "arguments",
    [
        b"",
        b"\xc1",
        Codec().pack([[], {}]),
        Codec().pack([[3], {}]),
        Codec().pack([[[3, {}, {"traceparent": 3}, {"traceparent": "nonsense"}]], {}]),
        Codec().pack([[[{"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"}]], {}]),
    ],
)
def test_contexts_of_strangers(arguments: bytes, spans: InMemorySpanExporter) -> None:
    """A client may send anything in their place: nothing is raised."""
    tracing = traces.find()
    assert tracing is not None
    tracing.commit([[b"", 0, 0, traces.TRACES, "note", 1, arguments], [b"", 0, 0, "", "put", 1, b""]])(False)
    entry = Replica({}).entry(5, [[b"", 0, 0, traces.TRACES, "note", 1, arguments]])
    assert tracing.around(lambda entry: 7, lambda: 6)(entry) == 7
    assert tracing.around(lambda entry: 8, lambda: 6)(traces.TRACES.encode()) == 8
