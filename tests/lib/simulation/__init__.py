"""Random clusters in virtual time, with the faults that real ones have, checked after every event.

Where `pyraft.fixture` is a tool for exact scenarios, this is one for finding what nobody thought of. `world.World` runs
one cluster from one seed: every choice comes from it, so a run repeats to the last event. The pieces:

* `profile`: the kind of cluster that a seed stands for (size, timings, which faults, how often);
* `disk`: durable data, and data that is still being written; a crash keeps a random prefix of the latter;
* `node`: one server, its RaftIo table, its lives from boot to crash;
* `network`: links that cut, lose, duplicate and reorder;
* `machine`: the state machine, a key-value store that knows how many commands it has applied;
* `themes`: the subject of a seed, so that each kind of world happens often;
* `clients`: those who submit commands, and record the history;
* `admin`: the one who changes members, transfers the leadership, sets barriers;
* `nemesis`: the one who breaks things;
* `checks`: the invariants;
* `prompt`: events that must not take long;
* `wire`: whether the bytes of io_uv carry each message.
"""
