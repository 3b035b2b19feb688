"""Taking note of what is refused: once, with the reason, per server."""

import errno
import os

import pytest

from io_uv import refusal
from io_uv.refusal import AIO, DIRECT, EVENTFD, XATTR, Refusals


def error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of the logger io_uv, all of them warnings."""
    assert all((record.name, record.levelname) == ("io_uv", "WARNING") for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("name", ["EPERM", "ENOSYS", "EINVAL", "EOPNOTSUPP", "EACCES", "EAGAIN", "ENOPROTOOPT"])
def test_what_is_refused_is_told_once(caplog: pytest.LogCaptureFixture, name: str) -> None:
    """A line has the call, the errno's name, and the replacement; a second errno is not told."""
    refusals = Refusals("/data")
    exc = error(getattr(errno, name))
    assert refusal.refused(exc)
    assert DIRECT not in refusals
    refusals.note(DIRECT, exc)
    refusals.note(DIRECT, error(errno.EINVAL))
    assert DIRECT in refusals
    text = "a thread writes entries through the page cache, synced, and segments are not filled with zeros ahead"
    assert told(caplog) == [f"/data: O_DIRECT is refused here ({name}): {text}"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EBADF, errno.EMFILE])
def test_what_fails_is_not_refused(code: int) -> None:
    """A disk that is sick or full has to be heard."""
    assert not refusal.refused(error(code))


def test_the_call_is_named_where_a_thing_has_several(caplog: pytest.LogCaptureFixture) -> None:
    """The first of them that was refused."""
    refusals = Refusals("/data")
    refusals.note(XATTR, error(errno.EPERM), "fgetxattr")
    refusals.note(XATTR, error(errno.EPERM), "fremovexattr")
    assert [text.split(":")[1] for text in told(caplog)] == [" fgetxattr is refused here (EPERM)"]


def test_without_an_eventfd_there_are_no_asynchronous_writes(caplog: pytest.LogCaptureFixture) -> None:
    """That is one line of the log, not two."""
    refusals = Refusals("/data")
    refusals.note_aio(error(errno.EPERM), "eventfd")
    refusals.note_aio(error(errno.EPERM), "io_setup")
    assert AIO in refusals
    assert EVENTFD in refusals
    assert len(told(caplog)) == 1


def test_what_a_server_knows_is_found_by_its_directory() -> None:
    """From begin to end; without a server nothing is known, and nothing kept."""
    first, second = Refusals("/data"), Refusals("/data")
    assert refusal.at("/data") not in (first, second)
    refusal.begin(first)
    assert refusal.at("/data") is first
    refusal.end(second)
    assert refusal.at("/data") is first
    refusal.end(first)
    refusal.end(first)
    assert refusal.at("/data") is not first
