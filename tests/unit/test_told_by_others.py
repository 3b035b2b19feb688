"""Texts that others have said, on their way to terminals, exceptions and service managers: escaped in each."""

import socket
from pathlib import Path

import pytest

from pyraft.command import text
from pyraft.node import errors
from pyraft.node.systemd import Notifier

SAID = "at \x1b[2J\nserver 1 is fine\udcff"
ESCAPED = "at \\x1b[2J\\nserver 1 is fine\\udcff"


@pytest.mark.parametrize(
    "exc",
    [
        errors.Refused(SAID),
        errors.Unavailable(SAID),
        errors.Unknown(SAID),
        errors.Malformed(SAID),
        errors.CommandFailed("", SAID),
    ],
)
def test_the_text_of_an_exception_is_printable(exc: errors.NodeError) -> None:
    """A member that refuses says why in its own words; the arguments are left as they came."""
    assert str(exc).endswith(ESCAPED)
    assert exc.args[-1] == SAID


def test_the_lines_of_the_command_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    """Addresses and the name of a cluster come from its members."""
    text.say([SAID, "fine"])
    assert capsys.readouterr().out == f"{ESCAPED}\nfine\n"


def test_a_service_manager_is_told_one_thing_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line end in the status would make the rest of it a message of its own, and a surrogate an exception."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        monkeypatch.chdir(tmp_path)
        manager.bind("notify")
        notifier = Notifier({"NOTIFY_SOCKET": "notify"})
        notifier.ready(f"{SAID}\nSTOPPING=1")
        assert manager.recv(1000).decode() == f"READY=1\nSTATUS={ESCAPED}\\nSTOPPING=1"
