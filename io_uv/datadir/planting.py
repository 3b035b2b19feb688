"""A directory that begins with a snapshot: of a new cluster that goes on from the state of another one.

Duty: `plant` turns an empty directory into that of a server whose log begins behind a snapshot. This is how a backup
comes back to life.

Happy path: nobody else uses the directory, and it holds no server's files; afterwards a start restores the snapshot,
in its term.

Failure modes: RAFT_CANTBOOTSTRAP if there is a term, or a file of a log, in the directory; RAFT_IOERR and RAFT_NOSPACE.
The term is stored first, so that a kill in between leaves a directory without a log, on which no
server starts as a member.
"""

import os
import time

from io_uv import listing, metadata, snapshot_file
from io_uv.failure import Failure
from io_uv.state import Metadata
from pyraft import configuration
from pyraft.errors import RAFT_CANTBOOTSTRAP
from pyraft.types import RaftSnapshot


def plant(path: str | os.PathLike[str], snapshot: RaftSnapshot) -> None:
    """Store `snapshot`, with its index, term, configuration and data, as the beginning of a log. Durable on return.

    Its `bufs` may be any iterable, which need not be in memory as a whole. Raises Failure: RAFT_CANTBOOTSTRAP if there
    is a server in the directory, or the snapshot has no index or term; the code of configuration.check.
    """
    dir = os.fspath(path)
    stored = metadata.load(dir)
    snapshots, segments = listing.list(dir)
    if stored.term or snapshots or segments:
        raise Failure(RAFT_CANTBOOTSTRAP, f"there is a server in directory '{dir}' already")
    rv = configuration.check(snapshot.configuration)
    if rv != 0 or snapshot.index < 1 or snapshot.term < 1:
        raise Failure(rv or RAFT_CANTBOOTSTRAP, "a snapshot without a configuration, an index or a term")
    metadata.store(dir, Metadata(stored.version + 1, snapshot.term, 0))
    snapshot_file.write(dir, snapshot, True, time.time_ns() // 1_000_000)
