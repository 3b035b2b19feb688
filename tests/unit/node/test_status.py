"""Statuses that come from others, and what is made of them: types, surveys and conditions."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from io_uv import health
from pyraft import Raft
from pyraft.node.conditions import Limits, judge, margin
from pyraft.node.errors import Malformed
from pyraft.node.identity import new_id
from pyraft.node.operate import Seen, Survey, ahead
from pyraft.node.status import Status, packed, parse, recovering, with_sizes
from pyraft.node.wire import pack, unpack
from tests.lib.disk import Dir


def test_a_status_travels() -> None:
    """A packed status is parsed again; parts that one side does not know do not matter."""
    status = Status(id=3, address="a:1", members=[[3, "a:1", "voter"]], links=[[4, "b:1", True]], up_seconds=2.5)
    assert parse(unpack(pack(1, packed(status))[4:])[1]) == status
    assert parse({"id": 3, "of_a_later_version": [1]}) == Status(id=3)
    later = {"members": [[3, "a:1", "voter", "more"]]}
    assert parse(later).members == [[3, "a:1", "voter", "more"]]


def test_a_new_server_has_lost_nothing() -> None:
    """One without a log withholds votes as one does whose files were set aside, and says something else of it."""
    r = Raft()
    assert recovering(r) == ""
    r.recovering = r.filling = True  # as `begin_empty` has it
    assert recovering(r) == "it has no log yet, and is given one"
    r.recovery_reason = "open-1 was set aside"
    assert recovering(r) == "open-1 was set aside"


@pytest.mark.parametrize(
    "answer",
    [
        *(None, [], "x", {"id": "3"}, {"id": True}, {"up_seconds": 1}, {"members": [3]}, {"members": [[3, "a:1"]]}),
        *({"matches": [["3", 1]]}, {"links": {"a": 1}}, {"visitors": [["h", 1.0]]}, {"links": [[1, "a", 1]]}),
    ],
)
def test_a_status_of_other_types_is_refused(answer: Any) -> None:
    """The one who answers may be hostile: nothing but the right types gets through."""
    with pytest.raises(Malformed):
        parse(answer)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(Status)]), _VALUES, max_size=4))
def test_any_answer_is_a_status_or_refused(answer: Any) -> None:
    """Nothing else is raised, and the parts of a status have the types that it says."""
    try:
        status = parse(answer)
    except Malformed:
        return
    for field in dataclasses.fields(Status):
        assert type(getattr(status, field.name)) is type(getattr(Status(), field.name))


def seen(
    number: int, role: str = "voter", *, down: bool = False, behind: int = 0, clock: float = 0.0, **own: Any
) -> Seen:
    """Return a member of a cluster that member 1 leads."""
    address = f"h{number}:1"
    if down:
        return Seen(number, address, role, None, f"{address} cannot be reached: no route", behind)
    own = {"state": "leader" if number == 1 else "follower", "term": 4, "leader": 1, "total": 100, "free": 50, **own}
    return Seen(number, address, role, Status(id=number, address=address, **own), "", behind, clock)


def survey(*members: Seen) -> Survey:
    """Return a survey of them."""
    leads = [one for one in members if one.status is not None and one.status.state == "leader"]
    return Survey(list(members), leads[0] if leads else None, "c")


def faults(found: Survey, limits: Limits | None = None) -> dict[str, str]:
    """Return the conditions that do not hold."""
    return {one.name: one.text for one in judge(found, limits) if not one.ok}


def test_a_healthy_cluster_has_no_faults() -> None:
    """It has three voters, a standby and a spare, which lacks everything; or one; or two, which stand no failure."""
    assert faults(survey(seen(1), seen(2), seen(3), seen(4, "standby"), seen(5, "spare", behind=10**6))) == {}
    assert faults(survey(seen(1, segment_size=50, newest_bytes=50))) == {}
    assert faults(survey(seen(1), seen(2))) == {}


@pytest.mark.parametrize(
    ("spoilt", "name", "text"),
    [
        (seen(3, state="unavailable", cause="no disk"), "running", "h3:1: no disk"),
        (seen(3, behind=10_001), "behind", "more than 10000 entries behind: h3:1 by 10001"),
        (seen(3, disk="ENOSPC"), "disk", "h3:1: ENOSPC"),
        (seen(3, free=9), "room", "h3:1: 9 % of the disk are free"),
        (seen(3, segment_size=51), "room", "h3:1: 50 bytes are free, and the next file of the log may need 51"),
        (seen(3, newest_bytes=51), "room", "h3:1: 50 bytes are free, and the next snapshot may need 51"),
        (seen(3, recovering="files were set aside"), "log", "h3:1: files were set aside"),
        (seen(3, snapshot_problem="full"), "snapshots", "h3:1: full"),
        (seen(3, stuck=7), "machine", "h3:1: entry 7 is refused"),
        (seen(3, clock=-2.04), "clocks", "away from the clock here: h3:1 by -2.0 s"),
        (seen(3, leader=2, term=3), "leader", "h1:1 leads in term 4; h3:1 do not follow it"),
        (seen(3, down=True), "members", "1 of 3: h3:1 cannot be reached: no route"),
        (seen(3, down=True), "quorum", "no further one of the 3 voters may fail"),
        (seen(3, disk="ENOSPC"), "quorum", "no further one of the 3 voters may fail"),
        (seen(3, recovering="files were set aside"), "quorum", "no further one of the 3 voters may fail"),
    ],
)
def test_each_fault_is_told(spoilt: Seen, name: str, text: str) -> None:
    """The condition that it is of tells it, with the member's address."""
    assert faults(survey(seen(1), seen(2), spoilt))[name] == text


@pytest.mark.parametrize(
    ("clock", "known"), [(104.5, 0.5), (104.0, 0.0), (102.0, 0.0), (100.5, 0.0), (100.0, 0.0), (99.0, -1.0)]
)
def test_a_slow_answer_is_not_a_wrong_clock(clock: float, known: float) -> None:
    """Asked at 100 and answered at 104, only what is before or behind that is a difference of clocks."""
    assert ahead(clock, 100.0, 104.0) == known


def test_voters_that_answer_and_are_of_no_use() -> None:
    """A full disk stores nothing, whoever leads; a log that lacks entries stores new ones, and elects nobody."""
    full, lacking = seen(3, disk="ENOSPC"), seen(3, recovering="files were set aside")
    found = faults(survey(seen(1), seen(2, down=True), full))
    assert "leader" not in found
    assert found["quorum"] == (
        "no majority of the 3 voters runs and has a disk that takes entries: nothing can be stored"
    )
    assert margin(survey(seen(1), seen(2, down=True), full)) == -1
    assert margin(survey(seen(1), seen(2, down=True), lacking)) == 0
    assert margin(survey(seen(1), seen(2), seen(4), seen(5), lacking)) == 1
    assert margin(survey(seen(1), seen(2), seen(4), seen(5), seen(3))) == 2


def test_a_majority_that_is_gone() -> None:
    """Nobody leads; the ones that answer may still believe in a leader."""
    left = survey(seen(2, leader_address="h1:1"), seen(1, down=True), seen(3, down=True))
    assert margin(left) == -1
    found = faults(left)
    assert found["leader"] == "nobody leads; of those that answer some take h1:1 for it"
    assert found["quorum"] == "no majority of the 3 voters runs: nothing can be stored"


def test_the_next_snapshot_is_taken_to_be_as_large_as_the_newest_one(tmp_path: Path) -> None:
    """Its data and what is beside it, without the older ones; nothing where there is none."""
    dir = Dir(tmp_path)
    assert health.measure(str(dir)).newest_bytes == 0
    dir.snapshot(1, 9, data=b"x" * 5000)
    new = dir.snapshot(2, 10, data=b"x" * 3000)
    found = health.measure(str(dir))
    assert found.newest_bytes == 3000 + len(dir.read(f"{new}.meta"))
    assert (found.snapshots, found.snapshot_bytes) == (2, 5000 + found.newest_bytes + len(dir.read(f"{new}.meta")))
    assert with_sizes(Status(), found).newest_bytes == found.newest_bytes


def test_new_ids_are_exact_in_every_reader_of_json() -> None:
    """JavaScript's numbers are exact up to 2^53, and so those of jq before 1.7."""
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert min(ids) > 0
    assert max(ids) <= 1 << 52
