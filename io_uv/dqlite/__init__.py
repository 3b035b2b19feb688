"""dqlite's bytes: its client protocol, its transport, its log entries and snapshots, and databases as pages in files.

Duty: what a member of a cluster of canonical/dqlite needs below raft. The members themselves are in `pyraft.dqlite`.
README.md beside this file has the modules, what was tried against which versions, and what is missing.

Failure modes: those of the modules; importing needs nothing but the package.
"""
