"""raft_uv_set_snapshot_check: a leader's snapshot is looked at by a thread, before it takes the place of the log."""

import threading
from pathlib import Path

import pytest

from io_uv import raft_uv_set_snapshot_check
from pyraft.errors import RAFT_CORRUPT, RAFT_IOERR
from pyraft.types import BytesLike
from tests.lib.uvtest import UvIo, numbers


class Judge:
    """Keeps what it is asked, and by which thread; answers as it is told to."""

    def __init__(self, answer: int = 0) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.threads: set[int] = set()

    def __call__(self, data: BytesLike) -> int:
        self.asked.append(bytes(data))
        self.threads.add(threading.get_ident())
        if self.answer < 0:
            raise KeyError("judge")
        return self.answer


def test_a_snapshot_that_is_received_is_judged_by_a_thread(tmp_path: Path) -> None:
    """One of our own is not, as its machine has made it; nor any when nobody is asked."""
    t = UvIo(tmp_path).start()
    judge = Judge()
    raft_uv_set_snapshot_check(t.io, judge)
    t.append(3)
    own = t.put(2, trailing=10)
    t.wait(own)
    assert (own.statuses, judge.asked) == ([0], [])
    received = t.put(9, trailing=0, data=b"received")
    t.wait(received)
    assert (received.statuses, judge.asked) == ([0], [b"received"])
    assert judge.threads != {threading.get_ident()}
    raft_uv_set_snapshot_check(t.io, None)
    last = t.put(12, trailing=0)
    t.wait(last)
    assert (last.statuses, len(judge.asked)) == ([0], 1)
    t.close()


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (RAFT_CORRUPT, RAFT_CORRUPT, "the state machine refuses the snapshot: persisted data is corrupted"),
        (-1, RAFT_IOERR, "judge"),
    ],
)
def test_a_snapshot_that_is_refused_changes_nothing(tmp_path: Path, answer: int, code: int, text: str) -> None:
    """The log goes on as it was, on the disk too, and so it does behind a judge that raises."""
    t = UvIo(tmp_path).start()
    t.append(3)
    raft_uv_set_snapshot_check(t.io, Judge(answer))
    received = t.put(9, trailing=0)
    t.wait(received)
    assert received.statuses == [code]
    assert text in t.io.errmsg
    t.append(1)
    again = t.reopen()
    _, _, _, found, start, entries = again.loaded
    assert (found, start, numbers(entries)) == (None, 1, [1, 2, 3, 4])
    again.close()
