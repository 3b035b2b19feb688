"""raft_errmsg says what the I/O says of a failure, whichever of its functions failed, and nothing where none did."""

from collections.abc import Callable

import pytest

from pyraft import RAFT_INVALID, RAFT_IOERR, RAFT_NOMEM, RAFT_STANDBY, RAFT_VOTER, RaftChange, raft_add, raft_errmsg
from pyraft.types import RaftIo
from tests.lib import messages as msg
from tests.lib.solo import Solo, command, configuration, leader

CONF = configuration(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER)


def _stand(s: Solo) -> None:
    s.tick(1000)


def _vote(s: Solo) -> None:
    s.recv(msg.request_vote(2, 1, 9, 1))


def _refuse(s: Solo) -> None:
    s.recv(msg.request_vote(2, 1, 0, 0))


def _answer(s: Solo) -> None:
    s.recv(msg.append_entries(2, 1, 2, 1))


def _adopt(s: Solo) -> None:
    s.recv(msg.append_entries(2, 5, 2, 1))


def _write(s: Solo) -> None:
    s.recv(msg.append_entries(2, 1, 2, 1, 0, msg.commands([1])))


def _cut(s: Solo) -> None:
    s.recv(msg.append_entries(2, 2, 1, 1, 0, msg.commands([2])))


def _install(s: Solo) -> None:
    s.recv(msg.install_snapshot(2, 1, 9, 1, CONF, 1, bytes(16)))


FOLLOWER = [
    ("set_term", _stand),
    ("set_vote", _stand),
    ("set_vote", _vote),
    ("send", _vote),
    ("send", _refuse),
    ("send", _answer),
    ("set_term", _adopt),
    ("append", _write),
    ("truncate", _cut),
    ("snapshot_put", _install),
]


@pytest.mark.parametrize(("name", "does"), FOLLOWER)
def test_the_text_of_the_io_is_the_reason_of_a_failure(name: str, does: Callable[[Solo], None]) -> None:
    """The first act of a follower fails: the I/O's text, with "io: " in front, is the server's."""
    s = Solo(terms=[1])
    s.io.fail(name, RAFT_IOERR)
    does(s)
    assert raft_errmsg(s.r) == f"io: {name} failed"


@pytest.mark.parametrize("does", dict.fromkeys(does for _, does in FOLLOWER))
def test_an_old_text_of_the_io_is_no_reason(does: Callable[[Solo], None]) -> None:
    """Where nothing fails, what the I/O has to say of something else does not become the server's text."""
    s = Solo(terms=[1])
    s.io.errmsg = "of something else"
    does(s)
    s.io.finish_appends()
    s.sent()
    assert raft_errmsg(s.r) == ""


def test_a_leader_at_work_takes_no_text_of_the_io() -> None:
    """The same for commands, their writes and messages."""
    s = leader()
    s.r.errmsg, s.io.errmsg = "", "of something else"
    command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    s.tick()
    s.sent()
    assert raft_errmsg(s.r) == ""


@pytest.mark.parametrize("code", [RAFT_NOMEM, RAFT_INVALID])
def test_an_address_is_refused_with_the_text_of_the_io(code: int) -> None:
    """io.check_address says why, whatever its code; of an address that will do it says nothing."""

    def check(io: RaftIo, address: str) -> int:
        io.errmsg = f"{address} will not do"
        return 0 if address == "good" else code

    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY)
    s.io.check_address = check
    s.r.errmsg = ""
    assert raft_add(s.r, RaftChange(), 8, "bad", None) == code
    assert raft_errmsg(s.r) == "bad will not do"
    s.r.errmsg = ""
    assert raft_add(s.r, RaftChange(), 8, "good", None) == 0
    assert raft_errmsg(s.r) == ""
