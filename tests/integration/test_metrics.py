"""Metrics of nodes and of servers of the C-style API: names, units, right figures, and rules for them."""

import asyncio
import gc
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from io_uv import health
from io_uv.histogram import Histogram
from pyraft import RAFT_VOTER, RaftConfiguration, aio, log, metrics, raft_configuration_add
from pyraft.metrics import pauses
from pyraft.metrics.text import text as metrics_text
from pyraft.node.ground import Ground
from pyraft.node.identity import Identity
from tests.integration.test_command_clusters import MORTAL, Shell, on
from tests.lib import nodes
from tests.lib.fsm import PairFsm, add_x
from tests.lib.nodes import Nodes, until
from tests.lib.uvnode import free_addresses

MONITORING = Path(__file__).resolve().parents[2] / "examples" / "monitoring"


async def scraped(collector: metrics.Collector) -> dict[str, Any]:
    """Return the samples of a scrape, by name and labels, having looked at the text itself."""
    text = (await metrics.render(collector)).decode()
    promtool = shutil.which("promtool")
    if promtool is not None:
        done = await asyncio.to_thread(
            subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=300
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), done.stderr
    found: dict[str, Any] = {}
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("pyraft_"), family
        assert family.documentation.endswith("."), family
        assert not re.search(r"_(ms|msecs|kb|percent|count)$", family.name), family
        for sample in family.samples:
            labels = ",".join(sample.labels[name] for name in sorted(sample.labels))
            found[f"{sample.name} {labels}".rstrip()] = sample.value
    return found


def test_the_figures_of_a_cluster(tmp_path: Path) -> None:
    """The leader's and a follower's agree with what was done, and with what the core says."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        leader = cluster.leader()
        follower = cluster.followers()[0]
        before = await scraped(metrics.of(leader))
        await asyncio.gather(*(leader.machine.put("apple") for _ in range(40)))
        await follower.machine.put("apple")
        raft = leader.server.raft

        def is_at_rest() -> bool:
            last = log.last_index(raft.log)
            matches = [one.match_index for one in raft.leader_state.progress]
            return {follower.server.raft.last_applied, raft.last_applied, *matches} == {last}

        await until(is_at_rest)
        last = log.last_index(raft.log)
        found = await scraped(metrics.of(leader))
        assert found["pyraft_is_leader"] == found["pyraft_has_leader"] == found["pyraft_is_voter"] == 1
        assert found["pyraft_stopped"] == found["pyraft_recovering"] == found["pyraft_disk_sick"] == 0
        assert found["pyraft_term"] == raft.current_term
        assert found["pyraft_members"] == found["pyraft_voters"] == 2
        for name in ("last", "stored", "commit", "applied"):
            assert found[f"pyraft_log_{name}_index"] == last
        assert found[f"pyraft_member_match_index {follower.address},{follower.id}"] == last
        assert found[f"pyraft_member_behind_entries {follower.address},{follower.id}"] == 0
        assert found[f"pyraft_member_connected {follower.address},{follower.id}"] == 1
        calls = found["pyraft_calls_total"] - before["pyraft_calls_total"]
        assert calls in (41, 42, 43)  # and the opening of sessions
        assert found["pyraft_calls_lost_total"] == 0
        entries = found["pyraft_commit_seconds_count"] - before["pyraft_commit_seconds_count"]
        assert 2 <= entries <= last
        assert found["pyraft_commit_seconds_bucket +Inf"] == found["pyraft_commit_seconds_count"]
        assert found["pyraft_commit_seconds_sum"] > 0
        assert found["pyraft_disk_write_seconds_count"] > 0
        assert found["pyraft_entries_pending"] == 0
        assert found["pyraft_log_bytes"] > found["pyraft_log_files"] > 0
        assert 0 < found["pyraft_disk_free_bytes"] <= found["pyraft_disk_size_bytes"]
        assert found["pyraft_connections"] >= 1
        assert found["pyraft_log_unapplied_entries"] == 0
        assert found[f"pyraft_member_queued_bytes {follower.address},{follower.id}"] >= 0
        assert 0 <= found[f"pyraft_member_silence_seconds {follower.address},{follower.id}"] < 60
        assert f"pyraft_member_silence_seconds {leader.address},{leader.id}" not in found
        assert found["pyraft_loop_lateness_seconds_count"] > 0
        assert found["pyraft_connections_refused_total"] == 0
        other = await scraped(metrics.of(follower))
        assert (other["pyraft_is_leader"], other["pyraft_has_leader"]) == (0, 1)
        assert other["pyraft_log_applied_index"] == last
        assert not any(name.startswith("pyraft_member_") for name in other)

    on(2, tmp_path, scenario)


def test_events_are_counted(tmp_path: Path) -> None:
    """Elections begun, won and lost, leaders and snapshots are counted, by the server that each is about."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        (old,) = [number for number, node in cluster.nodes.items() if node.is_leader]
        followers = cluster.followers()
        before = [await scraped(metrics.of(node)) for node in followers]
        await cluster.vanish(old)
        await until(lambda: any(node.is_leader for node in followers))
        await cluster.leader().machine.put("apple")
        await until(lambda: all(node.leader[0] for node in followers))
        after = [await scraped(metrics.of(node)) for node in followers]

        def grown(name: str) -> list[float]:
            return [new[name] - old[name] for old, new in zip(before, after, strict=True)]

        assert sum(grown("pyraft_leaderships_total")) >= 1
        assert all(n >= 1 for n in grown("pyraft_leaders_total"))
        assert sum(grown("pyraft_elections_total")) >= sum(grown("pyraft_leaderships_total"))
        new = cluster.leader()
        await pyraft("snapshot", "take", new.address, via=next(iter(cluster.nodes)))
        found = await scraped(metrics.of(new))
        assert found["pyraft_snapshots_taken_total"] == found["pyraft_snapshot_store_seconds_count"] == 1
        assert found["pyraft_snapshot_store_bytes_total"] > 0
        assert found["pyraft_snapshot_install_seconds_count"] == 0
        assert found["pyraft_snapshot_index"] > 0
        assert found["pyraft_snapshot_bytes"] > 0
        (last,) = [number for number, node in cluster.nodes.items() if node is not new]
        await cluster.vanish(last)
        lost = new.server.raft.counts.elections_lost  # some, perhaps, beside the other one
        # It stands, and nobody is there.
        await until(lambda: new.server.raft.counts.elections_lost > lost and not new.leader[0])
        found = await scraped(metrics.of(new))
        assert found["pyraft_has_leader"] == 0
        assert found["pyraft_elections_lost_total"] >= 1

    on(3, tmp_path, scenario, MORTAL)


def test_a_server_of_the_c_style_api(tmp_path: Path) -> None:
    """The same but for what only nodes have, also while it is not started."""

    async def main() -> None:
        address = free_addresses(1)[1]
        ground = Ground(tmp_path)
        server = ground.server(PairFsm(), Identity(1, address, "", "member"))
        conf = RaftConfiguration()
        raft_configuration_add(conf, 1, address, RAFT_VOTER)
        server.bootstrap(conf)
        commits = Histogram()
        collector = metrics.of_server(server.raft, server.io, commits)
        found = await scraped(collector)
        assert found["pyraft_stopped"] == 1
        await server.start()
        await server.wait_until(lambda: server.is_leader)
        await server.apply(add_x(1))
        found = await scraped(collector)
        assert (found["pyraft_is_leader"], found["pyraft_stopped"]) == (1, 0)
        assert found["pyraft_disk_write_seconds_count"] >= 1
        assert "pyraft_calls_total" not in found
        assert found["pyraft_commit_seconds_count"] == 0
        commits.observe(0.002)
        assert (await scraped(collector))["pyraft_commit_seconds_sum"] == 0.002
        before = found["pyraft_proposals_accepted_total"]
        await server.apply(add_x(1))
        await server.apply(add_x(1))
        found = await scraped(collector)
        assert found["pyraft_proposals_accepted_total"] == before + 2
        assert (found["pyraft_proposals_failed_total"], found["pyraft_proposals_refused_total"]) == (0, 0)
        # C servers take any bytes for an address, which then stands in the configuration of all.
        server.raft.address = "\udcff\n:1"
        found = await scraped(collector)
        assert "pyraft_server_info" in " ".join(found)
        server.raft.address = address
        await ground.close()

    nodes.run(main)
    assert aio.Server is not None


def test_the_text_is_what_prometheus_client_writes() -> None:
    """Families of all kinds, with odd values and labels, are read as the same from both."""
    odd = ["plain", 'a "quoted" one', "a\nb\\n", "\\", ""]
    gauge = GaugeMetricFamily("pyraft_a", 'Help with "quotes", \\ and\nlines.', labels=["member", "address"])
    for number, value in enumerate([0, True, 1.5, 1e300, 1 << 70, -2.5e-9, float("inf"), float("nan")]):
        gauge.add_metric([str(number), odd[number % len(odd)]], value)
    families = [
        gauge,
        CounterMetricFamily("pyraft_b", "B.", value=7),
        InfoMetricFamily("pyraft_c", "C.", value={"id": "1", "address": "h:1"}),
        HistogramMetricFamily("pyraft_d_seconds", "D.", buckets=[("0.5", 1), ("+Inf", 3)], sum_value=2.5),
        GaugeMetricFamily("pyraft_e", "Nothing.", labels=["member"]),
    ]

    class Fixed:
        def collect(self) -> list[Any]:
            return families

    registry = CollectorRegistry()
    registry.register(Fixed())
    theirs, ours = generate_latest(registry).decode(), metrics_text(families)
    assert [line for line in ours.splitlines() if line[0] == "#"] == [
        line for line in theirs.splitlines() if line[0] == "#"
    ]

    def samples(text: str) -> list[tuple[str, dict[str, str], str]]:
        found = [one for family in text_string_to_metric_families(text) for one in family.samples]
        return [(one.name, one.labels, repr(float(one.value))) for one in found]  # a NaN is not equal to itself

    assert samples(ours) == samples(theirs)
    assert len(samples(ours)) == 14


def test_the_loop_and_the_garbage_collector_are_watched(tmp_path: Path) -> None:
    """A loop that is held up is late for its next tick, a collection is a pause, a stranger is turned away."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        node = cluster.leader()
        collector = metrics.of(node)
        before = await scraped(collector)
        time.sleep(0.6)  # the fault: nothing else runs meanwhile
        gc.collect()
        host, _, port = node.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\n\r\n" + bytes(80))
        await writer.drain()
        await until(lambda: health.turned_away(node.server.io) == 1)
        writer.close()
        late = health.figures(node.server.io).lateness
        await until(lambda: sum(late.counts) > before["pyraft_loop_lateness_seconds_count"])
        after = await scraped(collector)
        assert after["pyraft_loop_lateness_seconds_sum"] - before["pyraft_loop_lateness_seconds_sum"] > 0.4
        assert after["pyraft_gc_pause_seconds_count"] > before["pyraft_gc_pause_seconds_count"]
        assert after["pyraft_gc_pause_seconds_sum"] > before["pyraft_gc_pause_seconds_sum"]
        assert after["pyraft_connections_refused_total"] == 1

    on(1, tmp_path, scenario)


def test_what_watches_the_garbage_collector_goes_with_the_last_collector() -> None:
    """All share one, and the interpreter calls nothing when there is none."""
    gc.collect()
    number = len(gc.callbacks)
    one, other = pauses.watched(), pauses.watched()
    assert one is other
    assert len(gc.callbacks) == number + 1
    gc.collect()
    assert sum(one.histogram.counts) >= 1
    del one, other
    assert len(gc.callbacks) == number


def test_nobody_says_how_far_a_member_is_behind_that_was_silent_all_along(tmp_path: Path) -> None:
    """A new leader has heard nothing of one that was down before: the whole log is not what it lacks."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        leader = cluster.leader()
        other = cluster.followers()[0]
        (number,) = [n for n, node in cluster.nodes.items() if node is other]
        where = f"{other.address},{other.id}"
        await cluster.vanish(number)
        raft = leader.server.raft
        assert raft.leader_state is not None
        progress = raft.leader_state.progress[[one.id for one in raft.configuration.servers].index(other.id)]
        found = await scraped(metrics.of(leader))
        assert f"pyraft_member_behind_entries {where}" in found
        progress.match_index, progress.silent = 0, True  # as a new leader begins, an election timeout later
        found = await scraped(metrics.of(leader))
        assert f"pyraft_member_behind_entries {where}" not in found
        assert f"pyraft_member_match_index {where}" in found
        assert [one["behind"] for one in (await pyraft.json("status"))["members"] if one["id"] == other.id] == [None]

    on(2, tmp_path, scenario)


def series(up: str, **changed: str) -> list[dict[str, str]]:
    """Return what Prometheus sees of three members and of a machine; `up` of those, and figures of the first one.

    A figure may be a bucket of a histogram, as in "disk_write_seconds_bucket 0.1".
    """
    found = [{"series": 'up{job="machine", instance="m"}', "values": "0x30"}]
    for number in (1, 2, 3):
        labels = f'{{job="shop", instance="{number}"}}'
        figures = {"is_voter": "1x30", "is_leader": f"{int(number == 1)}x30", "members": "3x30", "voters": "3x30"}
        figures |= {"stopped": "0x30", "disk_sick": "0x30", "recovering": "0x30", "entries_pending": "0x30"}
        figures |= {"log_commit_index": "9x30"} | (changed if number == 1 else {})
        found.append({"series": f"up{labels}", "values": up})
        for name, values in figures.items():
            name, _, bound = name.partition(" ")
            bucket = f'{labels[:-1]}, le="{bound}"}}' if bound else labels
            found.append({"series": f"pyraft_{name}{bucket}", "values": values})
    return found


def slow(histogram: str, bound: str) -> dict[str, str]:
    """Return a histogram all of whose times are above a bound."""
    return {f"{histogram}_bucket {bound}": "0x30", f"{histogram}_bucket +Inf": "0+9x30"}


def quick(histogram: str, bound: str) -> dict[str, str]:
    """Return a histogram all of whose times are below a bound."""
    return {f"{histogram}_bucket {bound}": "0+9x30", f"{histogram}_bucket +Inf": "0+9x30"}


ALARMS: tuple[tuple[str, dict[str, str], list[str]], ...] = (
    ("1x30", {}, []),
    ("1x30", {"is_leader": "0x30"}, ["PyraftNoLeader"]),
    ("1x30", {"disk_sick": "1x30"}, ["PyraftDiskSick", "PyraftQuorumAtRisk"]),
    ("1x30", {"recovering": "1x30"}, ["PyraftRecovering", "PyraftQuorumAtRisk"]),
    ("1x30", {"stopped": "1x30"}, ["PyraftStopped", "PyraftQuorumAtRisk"]),
    ("1x30", {"entries_pending": "5x30"}, ["PyraftNothingCommitted"]),
    ("1x30", {"entries_pending": "5x30", "log_commit_index": "9+1x30"}, []),
    ("1x30", {"member_behind_entries": "10001x30"}, ["PyraftMemberBehind"]),
    ("1x30", {"member_behind_entries": "9999x30"}, []),
    ("1x30", {"member_connected": "0x30"}, ["PyraftMemberCutOff"]),
    ("1x30", {"member_connected": "1x30"}, []),
    ("1x30", {"disk_free_bytes": "9x30", "disk_size_bytes": "100x30"}, ["PyraftDiskFull"]),
    ("1x30", {"disk_free_bytes": "11x30", "disk_size_bytes": "100x30"}, []),
    ("1x30", slow("disk_write_seconds", "0.25"), ["PyraftDiskSlow"]),
    ("1x30", quick("disk_write_seconds", "0.1"), []),
    ("1x30", slow("loop_lateness_seconds", "0.5"), ["PyraftLoopLate"]),
    ("1x30", quick("loop_lateness_seconds", "0.25"), []),
    ("1x30", {"snapshot_failing": "1x30"}, ["PyraftSnapshotsFail"]),
    ("1x30", {"leaders_total": "1+1x30"}, ["PyraftLeadersChange"]),
    ("1x30", {"leaders_total": "9x30"}, []),
    ("1x30", {"clock_timestamp_seconds": "3+60x30"}, ["PyraftClock"]),
    ("1x30", {"clock_timestamp_seconds": "1+60x30"}, []),
)
"""Figures of one member, or none, and the alerts that come of them, by name."""


def silenced(members: str) -> list[dict[str, str]]:
    """Return what Prometheus sees where some of the members, by their numbers, end after nine minutes."""
    found = series("1x30")
    for one in found:
        if any(f'instance="{number}"' in one["series"] for number in members):
            up = one["series"].startswith("up")
            one["values"] = "1x9 0x20" if up else one["values"].replace("x30", "x9 stale")
    return found


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing (Debian's package prometheus)")
def test_alerts_come_when_they_should(tmp_path: Path) -> None:
    """Each rule has a state in which it does; where members are down, and export nothing, somebody is told as well."""
    cases = [(series(up, **changed), wanted) for up, changed, wanted in ALARMS]
    cases.append((silenced("123"), ["PyraftNoLeader", "PyraftMemberDown"]))
    cases.append((silenced("3"), ["PyraftMemberDown", "PyraftQuorumAtRisk"]))
    facts: dict[str, Any] = {"rule_files": [os.fspath(MONITORING / "alerts.yml")], "evaluation_interval": "1m"}
    rules = re.findall(r"alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    assert {rule for _, wanted in cases for rule in wanted} == set(rules)
    facts["tests"] = [
        {
            "interval": "1m",
            "input_series": shown,
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{rule}", alertstate="firing"}}) > bool 0',
                    "eval_time": "25m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if rule in wanted else [],
                }
                for rule in rules
            ],
        }
        for shown, wanted in cases
    ]
    file = tmp_path / "tests.json"
    file.write_text(json.dumps(facts))
    promtool = shutil.which("promtool")
    assert promtool is not None
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_dashboard_speak_of_metrics_that_there_are(tmp_path: Path) -> None:
    """Each name in them is exported by the leader; promtool, where it is installed, has read the rules."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        leader = cluster.leader()
        await leader.machine.put("apple")
        exported = {name.split()[0] for name in await scraped(metrics.of(leader))}
        for name in ("alerts.yml", "dashboard.json"):
            text = (MONITORING / name).read_text()
            used = set(re.findall(r"\bpyraft_\w+", text))
            assert len(used) > 8
            assert used - exported == set(), name

    on(2, tmp_path, scenario)
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is missing (Debian's package prometheus)")
        return
    rules = os.fspath(MONITORING / "alerts.yml")
    done = subprocess.run([promtool, "check", "rules", rules], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
