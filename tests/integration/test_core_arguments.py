"""Arguments that C's types rule out or that make no sense: settings, roles, configurations, tables. Each is refused
with a code and a text where it is given or where it is checked, and never stops a server.
"""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_BADID,
    RAFT_BADROLE,
    RAFT_BUSY,
    RAFT_DUPLICATEADDRESS,
    RAFT_DUPLICATEID,
    RAFT_FOLLOWER,
    RAFT_INVALID,
    RAFT_LEADER,
    RAFT_NOTFOUND,
    RAFT_SHUTDOWN,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftChange,
    RaftConfiguration,
    RaftServer,
    raft_apply,
    raft_assign,
    raft_bootstrap,
    raft_close,
    raft_configuration_add,
    raft_configuration_encode,
    raft_errmsg,
    raft_init,
    raft_recover,
    raft_set_election_timeout,
    raft_set_heartbeat_timeout,
    raft_set_install_snapshot_timeout,
    raft_set_max_append_bytes,
    raft_set_max_catch_up_round_duration,
    raft_set_max_catch_up_rounds,
    raft_set_max_inflight_bytes,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
    raft_start,
    raft_strerror,
)
from pyraft.fixture import (
    RaftFixture,
    raft_fixture_grow,
    raft_fixture_init,
    raft_fixture_n_recv,
    raft_fixture_n_send,
)
from tests.lib.compiled import COMPILED, takes
from tests.lib.fsm import PairFsm
from tests.lib.solo import ScriptIo, Solo, leader

SETTERS = [
    (raft_set_election_timeout, lambda r: r.election_timeout, 1),
    (raft_set_heartbeat_timeout, lambda r: r.heartbeat_timeout, 1),
    (raft_set_install_snapshot_timeout, lambda r: r.install_snapshot_timeout, 1),
    (raft_set_snapshot_threshold, lambda r: r.snapshot.threshold, 0),
    (raft_set_snapshot_trailing, lambda r: r.snapshot.trailing, 0),
    (raft_set_max_catch_up_rounds, lambda r: r.max_catch_up_rounds, 0),
    (raft_set_max_catch_up_round_duration, lambda r: r.max_catch_up_round_duration, 0),
    (raft_set_max_append_bytes, lambda r: r.max_append_bytes, 0),
    (raft_set_max_inflight_bytes, lambda r: r.max_inflight_bytes, 0),
]
settings = pytest.mark.parametrize(("setter", "get", "least"), SETTERS, ids=[s[0].__name__ for s in SETTERS])


@settings
def test_running_server_keeps_a_setting_that_cannot_be_replaced(setter: Any, get: Any, least: int) -> None:
    """An impossible value is not taken over, raft_errmsg says so, and the server runs on."""
    s = Solo()
    before = get(s.r)
    for value in (None, 100.5, "100", -1, least - 1):
        s.r.errmsg = ""
        if not takes(int, value):
            with pytest.raises(TypeError):
                setter(s.r, value)
            assert get(s.r) == before
            continue
        setter(s.r, value)
        assert get(s.r) == before
        assert f"cannot be {value!r}" in raft_errmsg(s.r)
        assert s.state == RAFT_FOLLOWER
    setter(s.r, before + 1)
    assert get(s.r) == before + 1


@settings
def test_start_refuses_impossible_settings(setter: Any, get: Any, least: int) -> None:
    """Settings made before the start are looked at there; with a possible value in its place the server starts."""
    s = Solo(start=False)
    before = get(s.r)
    for value in (None, 100.5, "100", -1, least - 1):
        if not takes(int, value):
            with pytest.raises(TypeError):
                setter(s.r, value)
            continue
        setter(s.r, value)
        s.r.errmsg = ""
        assert raft_start(s.r) == RAFT_INVALID
        assert raft_errmsg(s.r) != ""
    setter(s.r, before)
    assert raft_start(s.r) == 0


@pytest.mark.parametrize("bufs", [{"a": bytes(8)}, {}, {1: bytes(8)}])
def test_apply_of_a_mapping_is_invalid(bufs: Any) -> None:
    """A mapping without a first buffer does not count as a sequence of buffers."""
    s = leader()
    for n in (1, 2):
        assert raft_apply(s.r, RaftApply(), bufs, n, None) == RAFT_INVALID


@pytest.mark.parametrize("role", [[1], None, "1", 1.0, {}, 3, -1])
def test_role_that_is_none_is_bad(role: Any) -> None:
    """Any such value is refused, hashable or not."""
    s = leader()
    calls = (
        lambda: raft_assign(s.r, RaftChange(), 2, role, None),
        lambda: raft_configuration_add(RaftConfiguration(), 1, "1", role),
    )
    for call in calls:
        if takes(int, role):
            assert call() == RAFT_BADROLE
        else:
            with pytest.raises(TypeError):
                call()
    assert s.state == RAFT_LEADER


@pytest.mark.parametrize("errnum", [[], {}, None, "1", 1.5])
def test_text_of_what_is_no_code(errnum: Any) -> None:
    """It is that of an unknown error."""
    if takes(int, errnum):
        assert raft_strerror(errnum) == "unknown error"
    else:
        with pytest.raises(TypeError):
            raft_strerror(errnum)


@pytest.mark.parametrize(
    ("servers", "code"),
    [
        ([RaftServer(1, "a", 300)], RAFT_BADROLE),
        ([RaftServer(1, "a", 9)], RAFT_BADROLE),
        ([RaftServer(2**65, "a", 1)], RAFT_BADID),
        ([RaftServer(-1, "a", 1)], RAFT_BADID),
        ([RaftServer(0, "a", 1)], RAFT_BADID),
        ([RaftServer(1, "a\0b", 1)], RAFT_INVALID),
        ([RaftServer(1, "a", 1), RaftServer(1, "b", 1)], RAFT_DUPLICATEID),
        ([RaftServer(1, "a", 1), RaftServer(2, "a", 1)], RAFT_DUPLICATEADDRESS),
        ([], RAFT_INVALID),
    ],
)
def test_configuration_that_is_none_is_never_written(servers: list[Any], code: int) -> None:
    """A server that raft_configuration_add would have refused is refused where a hand-made configuration comes in."""
    check_refused(servers, code)


@pytest.mark.parametrize("servers", [lambda: [RaftServer(1, None, 1)], lambda: [None]])  # type: ignore[arg-type]
def test_configuration_of_what_is_no_server_is_never_written(servers: Callable[[], list[Any]]) -> None:
    """An address that is not a string, and None in the place of a server."""
    if COMPILED:
        with pytest.raises(TypeError):
            check_refused(servers(), RAFT_INVALID)
    else:
        check_refused(servers(), RAFT_INVALID)


def check_refused(servers: list[Any], code: int) -> None:
    """A configuration of these servers is refused with this code by all who could write it."""
    s = Solo(start=False)
    conf = RaftConfiguration()
    conf.servers = servers
    assert raft_configuration_encode(conf) == (code, b"")
    for write in (raft_bootstrap, raft_recover):
        s.r.errmsg = ""
        assert write(s.r, conf) == code
        assert raft_errmsg(s.r).startswith("the configuration ")
    assert not {"bootstrap", "recover"} & set(s.io.names())


def test_bootstrap_and_recover_of_a_closed_server_are_refused() -> None:
    """Nothing is written once raft_close was called, whether the server ran or not; the text names the reason."""
    for s in (Solo(start=False), Solo()):
        for closing in (lambda s=s: raft_close(s.r, None), lambda s=s: s.io.on_close(s.io)):
            closing()
            for write in (raft_bootstrap, raft_recover):
                s.r.errmsg = ""
                assert write(s.r, s.conf) == RAFT_SHUTDOWN
                assert raft_errmsg(s.r) == "closed"
        assert not {"bootstrap", "recover"} & set(s.io.names())


@pytest.mark.parametrize("count", [raft_fixture_n_send, raft_fixture_n_recv])
@pytest.mark.parametrize("type", [-1, 99])
def test_fixture_says_which_message_type_there_is_not(count: Callable[..., int], type: int) -> None:
    """It raises an AssertionError, as for a server that there is not."""
    f = RaftFixture()
    assert raft_fixture_init(f) == 0
    assert raft_fixture_grow(f, PairFsm()) == 0
    with pytest.raises(AssertionError, match=f"no message has type {type}"):
        count(f, 0, type)


# raft_init


def test_refused_init_leaves_a_new_object() -> None:
    """After a code of io.init the object is as new, but for its text and the user's data; the table keeps its data."""
    r, io = Raft(), ScriptIo()
    r.data = "mine"
    io.data = "theirs"
    io.fail("init", RAFT_NOTFOUND)
    assert raft_init(r, io, PairFsm(), 7, "7") == RAFT_NOTFOUND
    assert raft_errmsg(r) == "io: init failed"
    assert r.data == "mine"
    assert io.data == "theirs"
    assert r.io is not io
    assert (r.id, r.address, r.election_timeout, r.initialized) == (0, "", 0, False)
    assert raft_start(r) == RAFT_INVALID
    assert raft_init(r, io, PairFsm(), 7, "7") == 0


def test_refused_init_leaves_the_table_to_its_server() -> None:
    """A second server on the table of a running one is refused by it, and the first runs on."""
    s = Solo()
    s.io.fail("init", RAFT_BUSY)
    assert raft_init(Raft(), s.io, PairFsm(), 2, "2") == RAFT_BUSY
    assert s.io.data is s.r
    s.stand()
    assert s.r.candidate_state is not None


def test_log_says_that_a_server_stops_only_if_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of io.init or io.bootstrap stops nothing; one of a running server's I/O does."""
    r, io = Raft(), ScriptIo()
    with caplog.at_level(logging.ERROR, "pyraft"):
        io.raises("init", ValueError("bug"))
        assert raft_init(r, io, PairFsm(), 1, "1") != 0
        assert raft_init(r, io, PairFsm(), 1, "1") == 0
        io.raises("bootstrap", ValueError("bug"))
        assert raft_bootstrap(r, Solo(RAFT_VOTER).conf) != 0
        s = leader()
        s.io.raises("append", ValueError("bug"))
        assert raft_apply(s.r, RaftApply(), [bytes(16)], 1, None) != 0
    assert [record.getMessage() for record in caplog.records] == [
        "io.init of server 1 raised",
        "io.bootstrap of server 1 raised",
        "io.append of server 1 raised, the server stops",
    ]
