"""Side by side with the C library and PySyncObj: `make bench`, or `python -m tests.benchmarks --help`.

Real processes on loopback, each side in turn, several rounds. The load is closed-loop and made inside the leader's
process: a number of raft_apply calls is kept outstanding. After every run all servers are killed (SIGKILL) and their
directories read with a reader of its own: every acknowledged entry must be on disk on a majority.
"""
