"""New ids for the servers of a stopped cluster: the same log and vote by other names, whatever interrupts it."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from io_uv import datadir, disk, listing, metadata, snapshot_file
from io_uv.datadir import Refused, Seat, renumbering
from io_uv.failure import Failure
from io_uv.pyuv import Loop
from pyraft import (
    RAFT_CHANGE,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftConfiguration,
    RaftEntry,
    configuration,
    raft_configuration_add,
    raft_set_snapshot_threshold,
)
from pyraft.dqlite import store
from pyraft.node import Node, identity, join
from tests.integration.test_command import run
from tests.integration.test_datadir import change
from tests.integration.test_datadir_recovery import apply, close
from tests.integration.test_datadir_recovery import run as start
from tests.integration.test_operating import owner
from tests.integration.test_stopped_anywhere import image_of, put
from tests.lib import nodes as members
from tests.lib.crashfs import DIR, Image, MemoryFs, Replay, cuts, installed
from tests.lib.disk import Dir, commands, numbers
from tests.lib.nodes import QUICK, Nodes, Shop, until
from tests.lib.uvnode import Node as Server
from tests.lib.uvnode import free_addresses

IDS = {1: 11, 2: 12, 3: 13}


@pytest.fixture
def dir(tmp_path: Path) -> Dir:
    """The directory of a member of three, in term 4, which voted for server 2: two configurations, a snapshot."""
    made = Dir(tmp_path / "data")
    made.path.mkdir()
    made.metadata(1, 3, 4, 2)
    made.metadata(2, 2, 4, 0)
    made.closed(1, [change(3)], commands(2, 2))
    made.closed(4, commands(4, 3))
    made.closed(7, commands(7, 1), [change(3)], commands(9, 1))
    made.snapshot(1, 5)
    made.open(1, commands(10, 2), ours=True)
    return made


def ids_in(dir: Path) -> set[int]:
    """Return all ids that a directory on which a start has worked has: in configurations, and of its vote."""
    stored = metadata.load(str(dir))
    found = {stored.voted_for}
    snapshots, segments = listing.list(str(dir))
    for one in snapshots:
        found |= {server.id for server in snapshot_file.read_meta(str(dir), one).configuration.servers}
    for info in segments:
        batch, problem = datadir.content.read_closed(str(dir), info)
        assert problem is None
        for type, buf in zip(batch.types, batch.bufs, strict=True):
            if type == RAFT_CHANGE:
                found |= {server.id for server in configuration.decode(buf)[1].servers}
    return found


def loaded(dir: Path) -> tuple[int, list[tuple[int, int]], list[int]]:
    """Load a directory as a start does; return where its log begins, terms and types, and the numbers of commands."""
    disk.clean_up(str(dir))
    _, first, entries = disk.load(str(dir), True)
    kinds = list(zip(entries.terms, entries.types, strict=True))
    return first, kinds, numbers([one for one in entries if one.type != RAFT_CHANGE])


def seats(*paths: Path) -> list[Seat]:
    """Return directories that say of nobody whose they are."""
    return [Seat(one) for one in paths]


def test_every_place_of_an_id_gets_the_new_one(dir: Dir) -> None:
    """Nothing else changes, nothing at all without `apply`, and what was there is set aside."""
    before = image_of(dir.path)
    planned = datadir.renumber(seats(dir.path), IDS, (1, 3))
    assert image_of(dir.path) == before
    copy = put(before, dir.path.with_name("copy"))
    log = loaded(copy)
    done = datadir.renumber(seats(dir.path), IDS, (1, 3), apply=True)
    assert done == planned
    assert len(done) == 4
    assert "the vote of term 4 is one for server 12, who was 2" in done[-1]
    assert loaded(dir.path) == log
    assert ids_in(dir.path) == {11, 12, 13}
    stored = metadata.load(str(dir))
    assert (stored.version, stored.term, stored.voted_for) == (4, 4, 12)
    kept = [name for name in dir.names if name.startswith("corrupt-")]
    assert len(kept) == 3
    for name in kept:
        original = name.split("-", 2)[2]
        assert (dir.path / name).read_bytes() == (copy / original).read_bytes()
    assert not [name for name in dir.names if name.startswith(renumbering.PREFIX)]
    again = datadir.renumber(seats(dir.path), IDS, (1, 3), apply=True)
    assert [step.endswith("it has the new ids already") for step in again] == [True]


def test_every_power_cut_leaves_the_old_ids_or_the_new_ones(dir: Dir, tmp_path: Path) -> None:
    """Any of what was under way may be missing: a start loads the one or the other whole, or is refused and touches
    nothing; the same call completes it in each case.
    """
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    print("seed", seed)
    rng = random.Random(seed)
    log = loaded(dir.path)
    old = ids_in(dir.path)
    memory = MemoryFs(Image(image_of(dir.path)))
    files = {identity.NODE_FILE: b"new"}
    with installed(memory):
        renumbering.renumber_now(DIR, IDS, files)
    outcomes = {"old": 0, "barred": 0, "new": 0}
    for image in cuts(memory, rng):
        where = put(image.files, tmp_path / str(sum(outcomes.values())))
        outcome = _outcome(where, log, old)
        outcomes[outcome] += 1
        if outcome == "old":
            assert not (where / identity.NODE_FILE).exists()
        datadir.renumber([Seat(where, 0, files)], IDS, (1, 3), apply=True)
        assert (loaded(where), ids_in(where)) == (log, {11, 12, 13}), sorted(image.files)
        assert (where / identity.NODE_FILE).read_bytes() == b"new"
    print(outcomes)
    assert min(outcomes.values()) > 1


def _outcome(where: Path, log: object, old: set[int]) -> str:
    """Return in which of three states a directory is; none of them is between two."""
    found = datadir.rehearse(where)
    if found.barred:
        before = image_of(where)
        with pytest.raises(Failure, match="run the same `pyraft dir readdress --id …` once more"):
            metadata.load(str(where))
        assert datadir.repair(where, apply=True).advice.endswith("which completes it.")
        assert [one for one in datadir.check(where) if "nothing is lost" in one.consequence]
        assert image_of(where) == before
        return "barred"
    assert found.starts, found.problem
    copy = put(image_of(where), where.with_name(f"{where.name} copy"))
    assert loaded(copy) == log
    assert ids_in(copy) in (old, {11, 12, 13})
    return "old" if ids_in(copy) == old else "new"


def test_what_could_fork_or_is_incomplete_is_refused(dir: Dir, tmp_path: Path) -> None:
    """Each refusal says why, and no file is touched."""
    before = image_of(dir.path)
    copy = put(before, tmp_path / "copy")
    refusals: list[tuple[list[Seat], dict[int, int], tuple[int, ...], str]] = [
        (seats(dir.path), {}, (), "no ids to change"),
        (seats(dir.path), {1: 11, 2: 11}, (1, 3), "id 11 would be that of two servers"),
        (seats(dir.path), {1: 2, 2: 1}, (1, 3), "id 1 is that of a server already"),
        (seats(dir.path), {1: 0}, (1, 3), "0 cannot be the id of a server"),
        (seats(dir.path), {1: 3}, (1, 3), "id 3 is that of a server already, or was"),
        (seats(dir.path), {9: 19}, (1, 3), "server 9 is not a member: these are 1, 2, 3"),
        (seats(dir.path), IDS, (), "of the members 1, 2, 3 2 have no directory here"),
        (seats(dir.path), IDS, (1,), "of the members 2, 3 1 have no directory here"),
        (seats(dir.path, copy), IDS, (1, 3), "more directories than members"),
        ([Seat(dir.path, 2), Seat(copy, 2)], IDS, (3,), "are both of server 2: one of them is a copy"),
        ([Seat(dir.path, 2), Seat(copy, 12)], IDS, (3,), "are both of server 2: one of them is a copy"),
        ([Seat(dir.path, 2)], IDS, (1, 2, 3), "of server 2, which is said to be elsewhere"),
        ([Seat(dir.path, 7)], IDS, (1, 3), "of server 7, which is not a member"),
    ]
    for given, ids, elsewhere, said in refusals:
        with pytest.raises(Refused, match=said):
            datadir.renumber(given, ids, elsewhere, apply=True)
        assert (image_of(dir.path), image_of(copy)) == (before, before), said


def test_an_interrupted_one_is_completed_with_the_same_ids_only(dir: Dir, tmp_path: Path) -> None:
    """Other ids are refused meanwhile."""
    loaded(dir.path)
    memory = MemoryFs(Image(image_of(dir.path)))
    with installed(memory):
        renumbering.renumber_now(DIR, IDS, {})
    replay, barred = Replay(memory.base), None
    for event in memory.journal:
        replay.step(event)
        for image in replay.losses(random.Random(1), 1):
            where = put(image.files, tmp_path / "tried")
            if metadata.barred(str(where)) is not None:
                barred = where
                break
            for path in where.iterdir():
                path.unlink()
            where.rmdir()
        if barred is not None:
            break
    assert barred is not None
    before = image_of(barred)
    with pytest.raises(Refused, match=r"other ids were being given to the servers, .* interrupted: 1=11, 2=12, 3=13$"):
        datadir.renumber(seats(barred), {1: 21, 2: 22, 3: 23}, (1, 3), apply=True)
    assert image_of(barred) == before
    steps = datadir.renumber(seats(barred), IDS, (1, 3), apply=True)
    assert "what was interrupted is completed" in steps[0]
    assert ids_in(barred) == {11, 12, 13}


def test_damaged_files_that_no_start_loads_are_set_aside(dir: Dir) -> None:
    """They cannot be read, so nobody knows which ids they have."""
    dir.remove("0000000000000004-0000000000000006")
    dir.overwrite("0000000000000001-0000000000000003", 12, b"\xff")
    dir.snapshot(1, 8, 2000)
    done = datadir.renumber(seats(dir.path), IDS, (1, 3), apply=True)
    assert "0000000000000001-0000000000000003 is damaged, and no start loads it: it is set aside" in done[0]
    assert "0000000000000001-0000000000000003" not in dir.names
    assert loaded(dir.path)[0] == 7
    assert ids_in(dir.path) == {11, 12, 13}


def test_what_does_not_load_is_left_alone(dir: Dir) -> None:
    """It is to be repaired first."""
    dir.remove("0000000000000004-0000000000000006")
    dir.remove("snapshot-1-5-1000")
    before = image_of(dir.path)
    with pytest.raises(Failure, match="a start is refused"):
        datadir.renumber(seats(dir.path), IDS, (1, 3), apply=True)
    assert image_of(dir.path) == before


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop that is closed afterwards."""
    made = Loop()
    yield made
    made.close()


def test_servers_go_on_under_new_ids(tmp_path: Path, loop: Loop) -> None:
    """Each directory by itself, as on machines of their own; the logs differ in length, and one has a snapshot."""
    addresses = free_addresses(3)
    nodes = start(tmp_path, addresses, loop, (1, 2, 3))
    for node in nodes[:1]:
        raft_set_snapshot_threshold(node.raft, 8)
    apply(nodes, loop, range(20))
    nodes[2].close()
    apply(nodes[:2], loop, range(20, 30))
    close(nodes)
    ends = [datadir.position(tmp_path / str(id)).end for id in IDS]
    assert ends[2] < max(ends)
    for id in IDS:
        datadir.renumber(seats(tmp_path / str(id)), IDS, set(IDS) - {id}, apply=True)
    assert [datadir.position(tmp_path / str(id)).end for id in IDS] == ends
    for old, new in IDS.items():
        (tmp_path / str(old)).rename(tmp_path / str(new))
    nodes = start(tmp_path, {IDS[id]: address for id, address in addresses.items()}, loop, (11, 12, 13))
    try:
        apply(nodes, loop, range(30, 35))
        assert all(sorted(set(node.fsm.numbers)) == list(range(35)) for node in nodes)
    finally:
        close(nodes)


def test_a_member_that_was_forgotten_elects_nobody(tmp_path: Path, loop: Loop) -> None:
    """Two of three have new ids: they are a majority of each other, and the third one is nobody's member until then."""
    addresses = free_addresses(3)
    nodes = start(tmp_path, addresses, loop, (1, 2, 3))
    apply(nodes, loop, range(5))
    close(nodes)
    for id in (1, 2):
        datadir.renumber(seats(tmp_path / str(id)), IDS, set(IDS) - {id}, apply=True)
        (tmp_path / str(id)).rename(tmp_path / str(IDS[id]))
    new = {IDS[id]: address for id, address in addresses.items()}
    nodes = start(tmp_path, new, loop, (11, 12))
    forgotten = None
    try:
        forgotten = Server(tmp_path / "3", 3, addresses, loop).start()
        apply(nodes, loop, range(5, 15))
        assert forgotten.fsm.numbers == []  # nobody has told it that anything is committed
        forgotten.close()
        datadir.renumber(seats(tmp_path / "3"), IDS, (1, 2), apply=True)
        (tmp_path / "3").rename(tmp_path / "13")
        nodes.append(Server(tmp_path / "13", 13, new, loop).start())
        apply(nodes, loop, range(15, 20))
        assert all(sorted(set(node.fsm.numbers)) == list(range(20)) for node in nodes)
    finally:
        close(nodes)
        if forgotten is not None:
            forgotten.close()


async def begun(where: Path) -> dict[int, int]:
    """Have three nodes store something, and stop; return their ids, by the names of their directories."""
    async with Nodes(where, settings=QUICK) as cluster:
        await cluster.grow(3)
        await until(lambda: all(len(cluster.roles(node)) == 3 for node in cluster.nodes.values()))
        await cluster.leader().machine.put("apple", 7)
        await cluster.leader()._desk.giving.snapshot()
        await cluster.leader().machine.put("apple", 1)
        return {number: node.id for number, node in cluster.nodes.items()}


async def go_on(where: Path, ids: set[int]) -> None:
    """Start the three again: they are who they are said to be, have what was stored, and take more."""
    started = [Node(where / name, Shop(), settings=QUICK) for name in ("1", "2", "3")]
    try:
        for node in started:
            await node.__aenter__()
        await until(lambda: any(node.is_leader for node in started))
        assert {node.id for node in started} == ids
        assert await started[0].machine.put("apple", 2) == 10
        leader = next(node for node in started if node.is_leader)
        assert {one.id for one in await leader.members()} == ids
        await join(where / "4", free_addresses(1)[1], leader.address)
    finally:
        for node in sorted(started, key=lambda node: node._server is not None and node.is_leader):
            await node.__aexit__(None, None, None)


def test_nodes_get_new_ids_by_the_command(tmp_path: Path) -> None:
    """In one call for all three, and back to further ones in a call for each; node.json follows."""
    ids: dict[int, int] = {}

    async def first() -> None:
        ids.update(await begun(tmp_path))

    members.run(first)
    given = [word for number, id in ids.items() for word in ("--id", f"{id}={100 + number}")]
    one, *rest = (tmp_path / str(number) for number in (1, 2, 3))
    others = [word for path in rest for word in ("--other", path)]
    result = run("dir", "readdress", one, *given)
    assert (result.exit_code, "have no directory here" in " ".join(result.output.split())) == (1, True)
    result = run("dir", "readdress", one, *given, *others)
    assert (result.exit_code, "--apply does it" in result.output) == (0, True), result.output
    assert {owner(path).id for path in (one, *rest)} == set(ids.values())
    facts = json.loads(run("dir", "readdress", one, *given, *others, "--apply", "--json").output)
    assert facts["applied"]
    assert [owner(path).id for path in (one, *rest)] == [101, 102, 103]
    members.run(lambda: go_on(tmp_path, {101, 102, 103}))
    further = ["--id", "101=201", "--id", "102=202", "--id", "103=203"]
    four = owner(tmp_path / "4")
    for number in (1, 2, 3):
        away = [word for id in (101, 102, 103) if id != 100 + number for word in ("--elsewhere", id)]
        path = tmp_path / str(number)
        result = run("dir", "readdress", path, *further, *away, "--elsewhere", four.id, "--apply")
        assert result.exit_code == 0, result.output
        assert "start the members, each under its new id" in " ".join(result.output.split())
        assert json.loads(run("dir", "show", path, "--json").output)["member"]["id"] == 200 + number


def test_nodes_on_machines_apart_get_new_addresses(tmp_path: Path) -> None:
    """The same call on each, by what was said before: one log gets the entry, and node.json of all the new address.

    One log is shorter, as of a server that was killed: there nothing but the file is changed.
    """
    ids: dict[int, int] = {}

    async def first() -> None:
        async with Nodes(tmp_path, settings=QUICK) as cluster:
            await cluster.grow(3)
            await until(lambda: all(cluster.roles(node) == ["voter"] * 3 for node in cluster.nodes.values()))
            ids.update({number: node.id for number, node in cluster.nodes.items()})
            await cluster.leader().machine.put("apple", 7)
            await cluster.vanish(next(n for n, node in cluster.nodes.items() if not node.is_leader))
            await cluster.leader().machine.put("apple", 1)

    members.run(first)
    where = {number: tmp_path / str(number) for number in ids}
    said = {number: run("dir", "position", path).output.strip() for number, path in where.items()}
    assert len(set(said.values())) > 1
    moved = free_addresses(3)
    given = [f"{id}={moved[number]}" for number, id in ids.items()]
    ends = []
    for number, path in where.items():
        words = [word for other, at in said.items() if other != number for word in ("--position", at)]
        result = run("dir", "readdress", path, *given, *words[2:], "--apply")
        assert (result.exit_code, "of the 3 voters" in result.output or "keeps all 3" in result.output) == (1, True)
        assert run("dir", "position", path).output.strip() == said[number]
        result = run("dir", "readdress", path, *given, *words, "--apply")
        assert result.exit_code == 0, result.output
        assert owner(path).address == moved[number]
        ends.append(datadir.position(path).end)
        if "no entry is added here" in result.output:
            assert run("dir", "position", path).output.strip() == said[number]
    assert len(set(ends)) > 1
    members.run(lambda: go_on(tmp_path, set(ids.values())))


def test_the_log_of_a_member_that_does_not_vote_leads_nobody_to_new_addresses(tmp_path: Path) -> None:
    """However long it is: the voter whose log goes furthest gets the entry, and its own directory the new address."""
    conf = RaftConfiguration()
    for id, role in ((1, RAFT_VOTER), (2, RAFT_VOTER), (3, RAFT_STANDBY)):
        assert raft_configuration_add(conf, id, f"h:{id}", role) == 0
    places = {}
    for id, n in ((1, 2), (2, 1), (3, 5)):
        places[id] = made = Dir(tmp_path / str(id))
        made.path.mkdir()
        made.metadata(1, 1, 4)
        made.closed(1, [RaftEntry(1, RAFT_CHANGE, configuration.encode(conf))], commands(2, n, term=4))
        identity.write(str(made), identity.Identity(id, f"h:{id}", "ab" * 16, identity.MEMBER))
    given = [f"{id}=g:{id}" for id in places]
    words = ["--position", "4:4:2"]
    result = run("dir", "readdress", places[3], *given, "--other", places[1], "--apply")
    assert (result.exit_code, "how far 1 of the 2 voters have come is given" in result.output) == (1, True)
    result = run("dir", "readdress", places[1], *given, "--other", places[3], "--apply")
    assert (result.exit_code, "how far 1 of them have come" in " ".join(result.output.split())) == (1, True)
    result = run("dir", "readdress", places[3], *given, *words, "--other", places[1], "--apply")
    assert (result.exit_code, "does not vote" in " ".join(result.output.split())) == (0, True), result.output
    assert [owner(places[id].path).address for id in (3, 1)] == ["g:3", "g:1"]
    assert run("dir", "position", places[3]).output == "4:4:6\n"
    result = run("dir", "readdress", places[1], *given, *words, "--other", places[3], "--apply")
    assert result.exit_code == 0, result.output
    assert run("dir", "position", places[1]).output == "5:5:4\n"


def test_a_member_that_has_only_joined_gets_its_new_id(tmp_path: Path) -> None:
    """It has no log yet: its directory is renamed with the others, and it catches up under its new id."""
    ids: dict[int, int] = {}

    async def first() -> None:
        async with Nodes(tmp_path, settings=QUICK) as cluster:
            node = await cluster.start(1)
            second = await join(tmp_path / "2", cluster.addresses[2], node.address)
            ids.update({node.id: 101, second.id: 102})

    async def then() -> None:
        one = Node(tmp_path / "1", Shop(), settings=QUICK)
        two = Node(tmp_path / "2", Shop(), settings=QUICK)
        async with one, two:
            await one.machine.put("apple", 7)
            await two.ready()
            assert await two.machine.left("apple") == 7
            assert (one.id, two.id) == (101, 102)

    members.run(first)
    given = [word for old, new in ids.items() for word in ("--id", f"{old}={new}")]
    result = run("dir", "readdress", tmp_path / "1", "--other", tmp_path / "2", *given, "--apply")
    assert result.exit_code == 0, result.output
    members.run(then)


def test_files_of_go_dqlite_name_the_new_ids(dir: Dir) -> None:
    """And the new addresses, where these are changed."""
    nodes = [store.Info(id, str(id), 0) for id in IDS]
    store.write_info(str(dir), nodes[1])
    store.write_cluster(str(dir), nodes)
    words = [word for old, new in IDS.items() for word in ("--id", f"{old}={new}")]
    result = run("dir", "readdress", dir, *words, "--elsewhere", 1, "--elsewhere", 3, "--apply")
    assert result.exit_code == 0, result.output
    assert store.read_info(str(dir)) == store.Info(12, "2", 0)
    assert [one.id for one in store.read_cluster(str(dir))] == [11, 12, 13]
    end = run("dir", "position", dir).output.strip()
    result = run("dir", "readdress", dir, "12=h:2", "--position", end, "--position", end, "--apply")
    assert result.exit_code == 0, result.output
    assert store.read_info(str(dir)) == store.Info(12, "h:2", 0)
    assert [one.address for one in store.read_cluster(str(dir))] == ["1", "h:2", "3"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["1=h:1", "--id", "1=11"],
        ["1=h:1", "--elsewhere", "1"],
        ["--id", "1=11", "--position", "1:1:1"],
        ["--id", "1=11", "--id", "1=12"],
        ["--id", "one=11"],
        ["--id", "1"],
    ],
)
def test_arguments_that_make_no_sense(dir: Dir, words: list[str]) -> None:
    """Exit code 2, and nothing is done."""
    before = image_of(dir.path)
    assert run("dir", "readdress", dir, *words, "--apply").exit_code == 2
    assert image_of(dir.path) == before
