"""The codes with which nodes answer statements that failed, and whether such a statement may have been done.

Duty: `is_refused` and `is_unknown` judge a DqliteError. Read in canonical/dqlite v1.11.1 (leader.c, gateway.c) and main
of June 2026 (gateway.c, exec_failure; leader.c).

Happy path: a code of SQLite for a statement that makes no sense, or breaks a constraint: it was not done, and would not
be the next time.

Failure modes: a node that does not lead, or is busy, has not done the statement, and another try may help. Once the
pages of a transaction have gone to raft, they may yet be committed: 10506, and the codes of class 10 (input and output)
and 4 (the node ends); 0, which go-dqlite's driver has met, says nothing. A node of dqlite 1.11 whose leadership is
being transferred hands raft's own number of NOTLEADER on, 7, which is SQLite's for a lack of memory; the statement was
not done in either case. A node of dqlite 1.18.4 or newer that loses its leadership ends the statement that SQLite is
running, before a page of it goes to raft, and answers 9, SQLite's "interrupted".
"""

from typing import Final

from io_uv.dqlite import responses
from pyraft.dqlite.errors import DqliteError
from pyraft.errors import RAFT_NOTLEADER

ABORT: Final = 4
INTERRUPT: Final = 9
NOT_FOUND: Final = 12
"""The node does not know the database or the statement any more."""


def is_busy(failure: DqliteError) -> bool:
    """Return whether somebody else is writing, or a checkpoint or a change of the members is under way."""
    return failure.code & 255 == responses.BUSY


def is_not_leader(failure: DqliteError) -> bool:
    """Return whether the node does not lead, or is about to lead no more: nothing was done."""
    if failure.code == RAFT_NOTLEADER:
        return failure.message != "out of memory"
    return failure.code == responses.NOT_LEADER or (failure.code == INTERRUPT and failure.message == "interrupted")


def is_unknown(failure: DqliteError) -> bool:
    """Return whether a statement that writes may have been done, or may yet be."""
    return failure.code == 0 or (
        failure.code != responses.NOT_LEADER and failure.code & 255 in (responses.IOERR, ABORT)
    )


def is_refused(failure: DqliteError) -> bool:
    """Return whether nothing was done, and another try may help."""
    return is_not_leader(failure) or is_busy(failure) or failure.code == NOT_FOUND
