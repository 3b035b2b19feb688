"""Files that say of a directory what its log and metadata cannot.

Duty: automatic recovery sets damaged files aside so that a server starts again; entries that it acknowledged may be
among them, and a voter that forgot them could help to elect a leader that lacks them. Before anything is set
aside, `marker_set` leaves a durable file that says so; while it stands the server takes no part in elections.
`marker_clear` removes it, once the log holds again what a leader of a current term has.

Bootstrapping is two steps on disk, the term and the first entry. `bootstrap_begin` leaves a durable file before the
first one: if the process dies between them, the next bootstrap knows that it may go on (`bootstrap_stands`), as nobody
can have heard of this server. A directory with a term, without entries and without that file has joined a cluster.

A server that starts without a log may be a member whose disk was replaced: `filling_set` leaves a durable file before a
leader gives it the first entry. Should it stop before it has all of them, that file says at the next start that entries
are missing (`filling_stands`), as the marker does; `marker_clear` removes both.

The files have names that libraft ignores. Their texts are for people; that they exist is what counts.

Failure modes: Failure(RAFT_IOERR). Without a marker nothing may be set aside, and no term stored.
"""

import contextlib
from typing import Final

from io_uv import fs
from io_uv.failure import Failure

NAME: Final = "log-set-aside"

BOOTSTRAP_NAME: Final = "bootstrap-under-way"

_BOOTSTRAP_TEXT: Final = b"""\
This directory is being bootstrapped, or that was interrupted. Bootstrap it again, with the same configuration as all
other servers of its cluster, or start it if these lead already: it will not lead before.
"""

FILLING_NAME: Final = "log-incomplete"

_FILLING_TEXT: Final = b"""\
This server began without a log, and a leader is giving it one. It does not vote before it has all of it, and then
removes this file. Should it refuse to start meanwhile, as the only voter by what it has, it is a member whose disk was
replaced: have the others remove it, and add it under a new id, with an empty directory.
"""

NAMES: Final = (NAME, BOOTSTRAP_NAME, FILLING_NAME)

_TEXT: Final = """\
Automatic recovery set files of this server's log aside: entries that it had acknowledged may be missing.
While this file exists the server does not vote and does not become leader; it removes the file when a leader has
brought its log up to date. Where there are other members, leave it to that.

A server that is the only voter by what is left of its log does not start. It cannot know of members that missing
entries have added. If there may be other members, do not make it start: it would lead a second cluster, and what that
acknowledges is lost when the two meet. Have the others remove this server, and add it under a new id, with an empty
directory.
Only if this server never had other members, or the disks of all of them are lost for good: raft_recover, or removing
this file, goes on with what is here. Entries that are missing here are lost then, acknowledged ones too.

"""


def _write(dir: str, name: str, text: bytes) -> None:
    try:
        fs.replace_file(dir, name, text)
    except Failure as exc:
        raise exc.wrap(f"write {name}") from None


def marker_set(dir: str, reason: str) -> None:
    """Make the marker durable; `reason` is one line of text, added to those of a marker that stands already."""
    reasons = marker_read(dir) or _TEXT
    _write(dir, NAME, (reasons + reason + "\n").encode("utf-8", "replace"))


def marker_read(dir: str) -> str | None:
    """Return the text of the marker, None if none stands."""
    if fs.size_of(dir, NAME) is None:
        return None
    try:
        return fs.read_file(dir, NAME).decode("utf-8", "replace")
    except Failure as exc:
        raise exc.wrap(f"read {NAME}") from None


def marker_clear(dir: str) -> None:
    """Remove the marker, durably, and what filling_set has left; no error if none stands."""
    try:
        fs.remove_if_there(dir, NAME)
        fs.remove_if_there(dir, FILLING_NAME)
        fs.sync_dir(dir)
    except Failure as exc:
        raise exc.wrap(f"remove {NAME}") from None


def filling_set(dir: str) -> None:
    """Make durable that this server, which has no log, is about to be given one."""
    _write(dir, FILLING_NAME, _FILLING_TEXT)


def filling_stands(dir: str) -> bool:
    """Return whether filling_set has left its file: the server was stopped before it had all entries."""
    return fs.size_of(dir, FILLING_NAME) is not None


def bootstrap_begin(dir: str) -> None:
    """Make durable that a bootstrap is under way."""
    _write(dir, BOOTSTRAP_NAME, _BOOTSTRAP_TEXT)


def bootstrap_stands(dir: str) -> bool:
    """Return whether a bootstrap has begun of which nobody has noted the end."""
    return fs.size_of(dir, BOOTSTRAP_NAME) is not None


def bootstrap_end(dir: str) -> None:
    """Remove the file, if that can be done: beside a first entry it means nothing, and `listing.clean` removes it."""
    with contextlib.suppress(Failure):
        fs.remove_if_there(dir, BOOTSTRAP_NAME)
