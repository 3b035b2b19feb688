"""Mistakes against pyraft.fixture that a type checker has to find, in the manner of wrong_core.py."""

from pyraft import (
    Raft,
    RaftIo,
    raft_configuration_close,
    raft_configuration_init,
    raft_heap_get,
    raft_heap_set_default,
    raft_version_number,
)
from pyraft import fixture as fx

cluster, raft, disk = fx.RaftFixture(), Raft(), RaftIo()
raft_configuration_init(raft)  # wrong
raft_configuration_close([])  # wrong
raft_heap_get().maloc  # wrong
raft_heap_set_default(None)  # wrong
raft_version_number().major  # wrong

# Building a cluster.

fx.raft_fixture_init(raft)  # wrong
fx.raft_fixture_grow(cluster, disk)  # wrong
fx.raft_fixture_configuration(cluster, 1).servers  # wrong
fx.raft_fixture_bootstrap(cluster, None)  # wrong
fx.raft_fixture_start(raft)  # wrong
fx.raft_fixture_close(None)  # wrong

# Looking at it.

fx.raft_fixture_n()  # wrong
fx.raft_fixture_time(raft)  # wrong
fx.raft_fixture_get(cluster, "0")  # wrong
fx.raft_fixture_alive(cluster)  # wrong
fx.raft_fixture_leader_index(cluster).id  # wrong
fx.raft_fixture_voted_for(cluster, raft)  # wrong
fx.raft_fixture_n_send(cluster, 0)  # wrong
fx.raft_fixture_n_recv(cluster, 0, "AppendEntries")  # wrong
fx.raft_fixture_event_type(cluster)  # wrong
fx.raft_fixture_event_server_index(0)  # wrong

# Stepping.

fx.raft_fixture_step(cluster).index  # wrong
fx.raft_fixture_step_n(cluster, 1.5)  # wrong
fx.raft_fixture_hook(cluster, lambda event: None)  # wrong
fx.raft_fixture_hook(cluster, lambda f, event: event.index)  # wrong
fx.raft_fixture_step_until(cluster, lambda f: True, None, 1)  # wrong
fx.raft_fixture_step_until(cluster, lambda f, limit: f.n > limit, "3", 1)  # wrong
fx.raft_fixture_step_until_elapsed(cluster, "1 s")  # wrong
fx.raft_fixture_step_until_has_leader(cluster)  # wrong
fx.raft_fixture_step_until_has_no_leader(cluster, None)  # wrong
fx.raft_fixture_step_until_applied(cluster, 0, "3", 1)  # wrong
fx.raft_fixture_step_until_state_is(cluster, 0, "leader", 1)  # wrong
fx.raft_fixture_step_until_term_is(cluster, 0, None, 1)  # wrong
fx.raft_fixture_step_until_voted_for(cluster, 0, 1)  # wrong
fx.raft_fixture_step_until_delivered(cluster, 0, raft, 1)  # wrong

# Elections and faults.

fx.raft_fixture_elect(cluster, raft)  # wrong
fx.raft_fixture_start_elect(cluster)  # wrong
fx.raft_fixture_depose(cluster, 0)  # wrong
fx.raft_fixture_disconnect(cluster, 0)  # wrong
fx.raft_fixture_reconnect(cluster, 0, "1")  # wrong
fx.raft_fixture_saturate(cluster, 0)  # wrong
fx.raft_fixture_desaturate(cluster, None, 1)  # wrong
fx.raft_fixture_saturated(cluster, 0, 1).count  # wrong
fx.raft_fixture_kill(cluster, raft)  # wrong
fx.raft_fixture_revive(cluster, "0")  # wrong
fx.raft_fixture_set_randomized_election_timeout(cluster, 0, 1.5)  # wrong
fx.raft_fixture_set_network_latency(cluster, 0, "15")  # wrong
fx.raft_fixture_set_disk_latency(cluster, 0, None)  # wrong
fx.raft_fixture_set_send_latency(cluster, 0, 1)  # wrong
fx.raft_fixture_set_term(cluster, 0, "1")  # wrong
fx.raft_fixture_set_snapshot(cluster, 0, b"snapshot")  # wrong
fx.raft_fixture_add_entry(cluster, 0, b"entry")  # wrong
fx.raft_fixture_append_fault(cluster, 0, True, 1)  # wrong
fx.raft_fixture_vote_fault(cluster, 0)  # wrong
fx.raft_fixture_term_fault(cluster, 0, "1")  # wrong
fx.raft_fixture_send_fault(cluster, 0, 0.5)  # wrong
fx.raft_fixture_make_unavailable(cluster, raft)  # wrong
