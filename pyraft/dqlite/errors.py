"""The exceptions of members and clients of dqlite.

Duty: one class for each way in which a call can end, so that a program can tell what was not done from what nobody
knows: `DqliteError` is what a node answered, the others are raised on this side.

Happy path: none of them. A node that leads no more answers with the code NOT_LEADER of `io_uv.dqlite.responses`.

Failure modes: errors of connections are OSError, those of raft pyraft.aio.RaftError.
"""


class DqliteError(Exception):
    """A node has answered that it was not done: `code` is one of SQLite's or dqlite's, `message` its text."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} (code {self.code})"


class Overrun(Exception):
    """A consumer of changes was too slow: behind the one at `index` it has missed so many. The databases have them."""

    def __init__(self, index: int, missed: int) -> None:
        super().__init__(index, missed)
        self.index = index
        self.missed = missed

    def __str__(self) -> str:
        return f"{self.missed} changes behind entry {self.index} are lost, as this reader is slower than they come"


class Refused(Exception):
    """A member cannot be what it is asked to be, or a client cannot do what it is asked; the text says why."""


class Unavailable(Exception):
    """It could not be done in its time: no leader was there, or none answered. Nothing was done."""


class Aborted(Exception):
    """Nothing of a transaction was done, through no fault of its statements: it may be run again as a whole."""


class Unknown(Exception):
    """Nobody here can say whether it was done. It is not tried again: it could be done twice."""
