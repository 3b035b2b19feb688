"""Configurations: look-ups, changes, and the blob that disk, wire and log entries carry."""

import pytest

from pyraft import (
    RAFT_BADID,
    RAFT_BADROLE,
    RAFT_DUPLICATEADDRESS,
    RAFT_DUPLICATEID,
    RAFT_INVALID,
    RAFT_MALFORMED,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftConfiguration,
    configuration,
    raft_configuration_add,
    raft_configuration_close,
    raft_configuration_encode,
    raft_configuration_init,
)
from tests.lib.covers import covers


def conf_of(*servers: tuple[int, str, int]) -> RaftConfiguration:
    """Return a configuration with these servers."""
    c = RaftConfiguration()
    for id, address, role in servers:
        assert raft_configuration_add(c, id, address, role) == 0
    return c


def content(c: RaftConfiguration) -> list[tuple[int, str, int]]:
    """Return the servers as tuples."""
    return [(s.id, s.address, s.role) for s in c.servers]


@covers("configurationVoterCount/all_voters", "configurationVoterCount/filter")
def test_only_voters_are_counted() -> None:
    """Stand-by and spare servers do not vote."""
    assert configuration.voter_count(conf_of((1, "a", RAFT_VOTER), (2, "b", RAFT_VOTER))) == 2
    assert configuration.voter_count(conf_of((1, "a", RAFT_VOTER), (2, "b", RAFT_STANDBY), (3, "c", RAFT_SPARE))) == 1
    assert configuration.voter_count(RaftConfiguration()) == 0


@covers("configurationIndexOf/match", "configurationIndexOf/no_match")
def test_index_of_is_a_position_or_n() -> None:
    """A server is found by its ID; the number of servers stands for none."""
    c = conf_of((1, "a", RAFT_VOTER), (2, "b", RAFT_STANDBY))
    assert configuration.index_of(c, 2) == 1
    assert configuration.index_of(c, 3) == 2


@covers(
    "configurationIndexOfVoter/match",
    "configurationIndexOfVoter/no_match",
    "configurationIndexOfVoter/non_voting",
)
def test_index_of_voter_counts_voters_only() -> None:
    """The position is among the voters; unknown servers and those without a vote give n."""
    c = conf_of((1, "a", RAFT_STANDBY), (2, "b", RAFT_VOTER), (3, "c", RAFT_VOTER))
    assert configuration.index_of_voter(c, 2) == 0
    assert configuration.index_of_voter(c, 3) == 1
    assert configuration.index_of_voter(c, 4) == 3
    assert configuration.index_of_voter(c, 1) == 3


@covers("configurationGet/match", "configurationGet/no_match")
def test_get_returns_the_server_or_none() -> None:
    """The object itself is returned, so that its role can be changed."""
    c = conf_of((1, "a", RAFT_VOTER), (2, "b", RAFT_STANDBY))
    assert configuration.get(c, 2) is c.servers[1]
    assert configuration.get(c, 3) is None


@covers("configurationCopy/two")
def test_copy_shares_nothing() -> None:
    """Changing the copy leaves the original alone."""
    c = conf_of((1, "a", RAFT_STANDBY), (2, "b", RAFT_VOTER))
    d = configuration.copy(c)
    assert content(d) == content(c)
    d.servers[0].role = RAFT_VOTER
    assert configuration.remove(d, 2) == 0
    assert content(c) == [(1, "a", RAFT_STANDBY), (2, "b", RAFT_VOTER)]


@covers("configurationAdd/one", "configurationAdd/two")
def test_add_keeps_the_order() -> None:
    """Servers are listed in the order in which they were added."""
    c = RaftConfiguration()
    raft_configuration_init(c)
    assert raft_configuration_add(c, 2, "127.0.0.1:666", RAFT_VOTER) == 0
    assert raft_configuration_add(c, 1, "192.168.1.1:666", RAFT_STANDBY) == 0
    assert c.n == 2
    assert content(c) == [(2, "127.0.0.1:666", RAFT_VOTER), (1, "192.168.1.1:666", RAFT_STANDBY)]
    raft_configuration_close(c)
    assert c.n == 0


@covers("configurationAdd/duplicateId", "configurationAdd/duplicateAddress", "configurationAdd/invalidRole")
def test_add_refuses_what_is_taken_or_unknown() -> None:
    """IDs and addresses are unique, roles are three; nothing is added otherwise."""
    c = conf_of((1, "a", RAFT_VOTER))
    assert raft_configuration_add(c, 1, "b", RAFT_STANDBY) == RAFT_DUPLICATEID
    assert raft_configuration_add(c, 2, "a", RAFT_STANDBY) == RAFT_DUPLICATEADDRESS
    assert raft_configuration_add(c, 2, "b", 666) == RAFT_BADROLE
    assert content(c) == [(1, "a", RAFT_VOTER)]


def test_add_refuses_what_cannot_be_encoded() -> None:
    """An ID is 64 bits and not 0, an address is a string without a NUL; C asserts or corrupts the blob."""
    c = RaftConfiguration()
    assert raft_configuration_add(c, 0, "a", RAFT_VOTER) == RAFT_BADID
    assert raft_configuration_add(c, 1 << 64, "a", RAFT_VOTER) == RAFT_BADID
    assert raft_configuration_add(c, 1, "a\0b", RAFT_VOTER) == RAFT_INVALID
    assert raft_configuration_add(c, 1, "\ud800", RAFT_VOTER) == RAFT_INVALID
    assert c.n == 0


@covers("configurationRemove/last", "configurationRemove/first", "configurationRemove/middle")
@pytest.mark.parametrize(("ids", "id"), [((1,), 1), ((1, 2), 1), ((1, 2, 3), 2)])
def test_remove_closes_the_gap(ids: tuple[int, ...], id: int) -> None:
    """The others keep their order."""
    c = conf_of(*[(i, str(i), RAFT_VOTER) for i in ids])
    assert configuration.remove(c, id) == 0
    assert [s.id for s in c.servers] == [i for i in ids if i != id]


@covers("configurationRemove/unknownId")
def test_remove_of_an_unknown_server_is_refused() -> None:
    """RAFT_BADID, and nothing changes."""
    c = conf_of((1, "a", RAFT_VOTER))
    assert configuration.remove(c, 2) == RAFT_BADID
    assert c.n == 1


@covers("configurationEncode/one_server", "configurationEncode/two_servers", "byteFlip/64")
@pytest.mark.parametrize(
    ("servers", "blob"),
    [
        ([(1, "1", RAFT_VOTER)], "010100000000000000010000000000000031000100000000"),
        (
            [(1, "127.0.0.1:9001", RAFT_VOTER), (2, "127.0.0.1:9002", RAFT_STANDBY), (3, "x", RAFT_SPARE)],
            "01030000000000000001000000000000003132372e302e302e313a39303031000102000000000000003132372e302e302e"
            "313a393030320000030000000000000078000200000000",
        ),
    ],
)
def test_encoding_is_that_of_the_c_library(servers: list[tuple[int, str, int]], blob: str) -> None:
    """Format, count, and per server ID, address with NUL, role; integers little-endian, padding zero (B22)."""
    c = conf_of(*servers)
    assert raft_configuration_encode(c) == (0, bytes.fromhex(blob))
    rv, d, problem = configuration.decode(bytes.fromhex(blob))
    assert (rv, content(d), problem) == (0, servers, "")


def test_nobody_has_no_encoding() -> None:
    """An empty configuration is refused; C asserts."""
    assert raft_configuration_encode(RaftConfiguration()) == (RAFT_INVALID, b"")


@covers(
    "configurationDecode/one_server", "configurationDecode/two_servers", "byteGetString/success", "byteGet64/success"
)
def test_decoding_needs_no_padding() -> None:
    """The blob may end with the last role byte, and what follows it is ignored."""
    one = b"\x01" + (1).to_bytes(8, "little") + (5).to_bytes(8, "little") + b"x.y\0\x01"
    two = b"\x01" + (2).to_bytes(8, "little") + one[9:] + (3).to_bytes(8, "little") + b"192.2\0\x00"
    rv, c, _ = configuration.decode(one)
    assert (rv, content(c)) == (0, [(5, "x.y", RAFT_VOTER)])
    rv, c, _ = configuration.decode(two + b"garbage")
    assert (rv, content(c)) == (0, [(5, "x.y", RAFT_VOTER), (3, "192.2", RAFT_STANDBY)])


@covers(
    "configurationDecode/badVersion",
    "configurationDecode/badAddress",
    "configurationDecode/duplicatedID",
    "byteGetString/malformed",
)
@pytest.mark.parametrize(
    ("blob", "problem"),
    [
        (b"\x7f" + (1).to_bytes(8, "little") + (5).to_bytes(8, "little") + b"x.y\0\x01", "format 127"),
        (b"\x01" + (1).to_bytes(8, "little") + (5).to_bytes(8, "little") + b"x.y", "offset 9"),
        (b"\x01" + (1).to_bytes(8, "little") + (5).to_bytes(8, "little") + b"x.y\0", "offset 9"),
        (b"\x01" + (2).to_bytes(8, "little") + (5).to_bytes(8, "little") + b"x\0\x01", "offset 20"),
        (b"\x01" + (2).to_bytes(8, "little") + 2 * ((5).to_bytes(8, "little") + b"x\0\x01"), "offset 20"),
        (b"\x01" + (1).to_bytes(8, "little") + (5).to_bytes(8, "little") + b"x\0\x03", "offset 9"),
        (b"\x01" + (1 << 63).to_bytes(8, "little") + (5).to_bytes(8, "little") + b"x\0\x01", "offset 20"),
        (b"\x01\x01", "only 2 bytes"),
        (b"", "only 0 bytes"),
    ],
)
def test_decoding_refuses_what_is_no_configuration(blob: bytes, problem: str) -> None:
    """RAFT_MALFORMED with an explanation, never an exception, whatever the bytes are."""
    rv, c, text = configuration.decode(blob)
    assert (rv, c.n) == (RAFT_MALFORMED, 0)
    assert problem in text


def test_addresses_survive_whatever_bytes_they_are() -> None:
    """An address that is not UTF-8, written by a C server, comes back byte for byte."""
    blob = b"\x01" + (1).to_bytes(8, "little") + (5).to_bytes(8, "little") + b"\xff\xfe\0\x01"
    rv, c, _ = configuration.decode(blob)
    assert rv == 0
    assert configuration.encode(c)[: len(blob)] == blob
