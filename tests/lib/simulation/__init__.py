"""Random clusters in virtual time, with the faults that real ones have, checked after every event.

Where `pyraft.fixture` is a tool for exact scenarios, this is one for finding what nobody thought of. `world.World` runs
one cluster from one seed: every choice comes from it, so a run repeats to the last event. The pieces:

* `profile`: what kind of cluster a seed stands for (size, timings, which faults, how often);
* `disk`: what is durable and what is still being written; a crash keeps a random prefix of the latter;
* `node`: one server, its RaftIo table, its lives from boot to crash;
* `network`: links that cut, lose, duplicate and reorder;
* `machine`: the state machine, a key-value store that knows how many commands it has applied;
* `themes`: what a seed is about, so that each kind of world happens often;
* `clients`: who submits commands, and records the history;
* `admin`: who changes the members, transfers the leadership, sets barriers;
* `nemesis`: who breaks things;
* `checks`: the invariants;
* `prompt`: what must not take long.
"""
