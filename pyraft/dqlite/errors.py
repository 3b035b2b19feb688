"""The exceptions of a member of dqlite.

Duty: `DqliteError` is what a node of the cluster answered, `Refused` what a member of ours does not begin.

Happy path: neither. A node that leads no more answers with the code NOT_LEADER of `io_uv.dqlite.responses`.

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


class Refused(Exception):
    """A member cannot be what it is asked to be; the text says why."""
