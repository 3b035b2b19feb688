"""The errors that callers of machines and nodes meet.

Duty: one exception class for each way in which a call can end other than with its result, so that a program can tell
"refused, nothing happened" from "nobody knows".

Happy path: none of these is raised.

Failure modes: an exception that a command raises itself is not an error of this layer; it reaches the caller as what it
is (`machine` says which classes travel), or as CommandFailed.
"""

from pyraft.errors import printable


class NodeError(Exception):
    """The base of what pyraft.node raises by itself.

    Its text may quote other servers and the content of directories, so it is escaped; `args` have it unescaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class CommandFailed(NodeError):
    """A command raised an exception of a class that does not travel: `kind` is the class's name, `text` its text.

    The command was rolled back and counts as executed: sending it again would raise again.
    """

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self.text = text
        super().__init__(kind, text)

    def __str__(self) -> str:
        return printable(f"{self.kind}: {self.text}" if self.text else self.kind)


class Unknown(NodeError):
    """The time for a call is over and its outcome is not known: it may have happened, may still happen, or never.

    `sent` is False if the call has never left this program: then it has not happened and will not. Otherwise
    `node.outcome(exc)` makes it certain: it has the call done if it was not, once, and returns its result.
    """

    def __init__(self, text: str, call: object = None, *, sent: bool = True) -> None:
        self.call = call
        self.sent = sent
        super().__init__(text)


class Unavailable(NodeError):
    """A read, or a change of the members, could not be done in its time: no leader was there, or none answered."""


class Refused(NodeError):
    """A directory, a node or a member does not do what was asked of it; the text says why, and what would help."""


class Stopped(NodeError):
    """The node is closed, or has stopped by itself, with the cause: it takes no call. `__cause__` has what happened."""


class SessionExpired(NodeError):
    """The session is not known to the cluster, or not any more: the call was not executed, and will not be."""


class OtherProgram(NodeError):
    """The log holds what this program cannot execute: the server stops until it is started with other code."""

    entry = 0
    """The index of the entry; 0 where it is not known."""

    @property
    def where(self) -> str:
        """Return how the sentence begins."""
        return f"entry {self.entry} of the log" if self.entry else "the log"


class MissingCommand(OtherProgram):
    """The log holds a command that the program's code does not have: the server stops until the code is there."""

    def __init__(self, machine: str, command: str, version: int) -> None:
        self.machine = machine
        self.command = command
        self.version = version
        super().__init__(machine, command, version)

    def __str__(self) -> str:
        where = f"machine {self.machine!r}" if self.machine else "the program's machine"
        return printable(
            f"{self.where} has command {self.command!r} version {self.version}, and {where} does not; "
            "start this server again with code that has it"
        )


class Malformed(NodeError, ValueError):
    """Bytes that should be a value or frame of this layer and are something else; the text says what is wrong."""


class Foreign(Malformed):
    """A value of a class, or with a part of a class, that this program lacks; another version of it may have that."""


class ForeignCall(OtherProgram, Foreign):
    """A call in the log with a value, or with arguments, that this program does not have, as another version may."""

    def __init__(self, command: str, what: str) -> None:
        self.command = command
        self.what = what
        super().__init__(command, what)

    def __str__(self) -> str:
        return printable(
            f"{self.where} has a call of {self.command!r} with {self.what}; "
            "start this server again with code that has it"
        )
