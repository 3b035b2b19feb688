"""Every schedule of a small cluster of real cores, up to a bound: the simulation's random walk made complete.

Duty: a scenario says how many servers there are, where they begin and how often each kind of step may happen. From
there `search` takes every step that is possible in every state that it reaches, breadth first, and checks after each
one that nothing is broken (`server`: the promises of one server; `invariants`: those of the cluster), and that a fair
run still leads on from there (`fair`). A find is a shortest schedule of its kind, and is told as a story.

Happy path: the servers of a state are frozen (`freeze`); one is thawed, performs one step on the stage of `server` with
the real `Raft`, and is frozen again. `local` remembers the outcome, as the same step of the same server is needed in
thousands of states. `world` puts the outcome into the state of the cluster and gives its servers their canonical names.

These are explored: elections with and without pre-vote, replication, membership, transfers, snapshots; all orders in
which messages of different links arrive, each of them late or never; kills with any part of the disk's queue done;
writes that take long, fail, or are not asked for. Bounded, as the scenario says: kinds of steps, and messages per link.

These are not: `io.defer`, `snapshot_async`, `recovering`, io_uv, timeouts other than the two leaps of `freeze` (a
clock that goes on by less than a heartbeat interval does nothing), more than one kind of trouble in one step, limits of
bytes other than one entry per message, servers that are C's. There tests/lib/simulation goes.

Why servers that differ by names only are one: the core compares IDs for equality and for nothing else; it takes servers
in the order of the configuration, but what it sends to different servers travels on different links, and what it counts
does not depend on the order. So a step of a renamed server is the renamed step. Where the core does choose by order, in
raft_transfer without a target, no step asks for it. Scenarios name servers by role only. The parts that rely on this,
and on freezing, are tested: tests/fuzzy/test_explorer.py takes steps at random under all names, and with servers that
are never frozen, and compares; each story is done again on such servers too.

Failure modes: an exception of the core is a broken promise; a story that living servers do not repeat is told as a
fault of the search; a limit that ends a search is told with the depth up to which it was complete.
"""
