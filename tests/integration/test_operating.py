"""The chapter pyraft/OPERATING.md: each command in it is run on a real cluster, and each line of the log exists."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import pyraft
from io_uv import datadir
from pyraft.node import CommandFailed, Node, command, join
from pyraft.node.identity import Identity, read
from tests.integration.test_command import every_command, run
from tests.integration.test_command_clusters import CALM, on
from tests.lib import nodes
from tests.lib.nodes import QUICK, Nodes, Shop, until
from tests.lib.uvnode import free_addresses

CHAPTER = Path(pyraft.__file__).with_name("OPERATING.md")
PACKAGES = (CHAPTER.parent, CHAPTER.parent.parent / "io_uv")


def commands() -> set[str]:
    """Return all commands of the chapter, without those that only name one."""
    found = {" ".join(span.split()) for span in re.findall(r"`pyraft ([^`]*)`", CHAPTER.read_text())}
    named = {" ".join(path) for path in every_command()} | {"dir", "snapshot"}
    alone = {"status", "check", "members", "ping", "snapshot take", "watch"}
    return {span for span in found if span not in named or span in alone}


class Script:
    """Runs commands of the chapter, with addresses and directories of the test in the place of those in the text."""

    def __init__(self, addresses: dict[int, str], files: Path, places: dict[str, Path] | None = None) -> None:
        """`files` is where backups are, `places` what the directories of the text stand for."""
        self.addresses = addresses
        self.files = files
        self.places = places or {}
        self.done: set[str] = set()

    async def __call__(self, span: str, *more: object, code: int = 0, via: bool = True) -> Result:
        """Run one; `more` is what its dots stand for."""
        self.done.add(span)
        words = []
        for word in span.split():
            if word not in ("…", "ID=HOST:PORT"):
                word = re.sub(r"10\.0\.0\.(\d):9001", lambda match: self.addresses[int(match[1])], word)
                word = re.sub(r"^shop\.backup$", f"{self.files}/shop.backup", word)
                words.append(str(self.places.get(word, word)))
        where = ["--via", self.addresses[1]] if via and words[0] not in ("dir", "join") else []
        result = await asyncio.to_thread(run, *words, *more, *where)
        assert result.exit_code == code, (span, result.output)
        return result


async def look_and_change(cluster: Nodes, script: Script) -> None:
    """The commands for a cluster that runs, of three voters."""
    leader = cluster.leader()
    for number in range(110):
        await leader.machine.note(str(number))
    await leader.machine.put("apple", 7)
    assert leader.address in (await script("status")).output
    assert "disk       takes entries" in (await script("status 10.0.0.3:9001")).output
    assert "FAULT" not in (await script("check")).output
    assert "FAULT" not in (await script("check --behind 1000")).output
    assert "leads" in (await script("members")).output
    await script("ping")
    await script("watch", "--count", 1)
    await script("snapshot take")
    await script("backup shop.backup")
    assert "it is whole" in (await script("dir backup shop.backup")).output
    await script("transfer 10.0.0.2:9001")
    assert cluster.nodes[2].is_leader
    await cluster.start(4)
    await until(lambda: cluster.roles(cluster.nodes[2]) == ["voter"] * 4)
    await script("demote 10.0.0.4:9001")
    await script("promote 10.0.0.4:9001")
    await script("remove 10.0.0.3:9001")
    await cluster.vanish(3)
    new = cluster.dir / "3b"  # it comes back as a new member, in an empty directory
    await join(new, cluster.addresses[3], cluster.addresses[1])
    async with Node(new, Shop(), settings=CALM):
        await until(lambda: cluster.roles(cluster.nodes[2]) == ["voter"] * 4)
        await script("demote 10.0.0.4:9001")
        await script("replace 10.0.0.3:9001 10.0.0.4:9001")
        await until(lambda: cluster.roles(cluster.nodes[2]) == ["voter"] * 3)


async def stopped(script: Script, directories: list[Path]) -> None:
    """The commands for the directories of a cluster that is stopped."""
    directories.sort(key=lambda one: datadir.position(one).end, reverse=True)
    first, *rest = directories
    script.places = {"data/1": first, "data/2": rest[-1]}  # where a majority is lost, data/2 is all that there is
    assert "restores the snapshot" in (await script("dir show data/1")).output
    assert "note('1" in (await script("dir log data/1 --from 100 --to 120")).output
    assert "nothing is wrong" in (await script("dir check data/1")).output
    assert "loads this directory as it is" in " ".join((await script("dir repair data/1")).output.split())
    assert "segments " in (await script("dir repair data/1 --merge")).output
    assert re.fullmatch(r"\d+:\d+:\d+\n", (await script("dir position data/1")).output)
    assert "election timeout" in (await script("dir measure data/1", "--seconds", 0.05)).output
    script.done.add("dir measure --seconds 3")
    script.places |= {"1.export": script.files / "1.export"}
    await script("dir export data/1 1.export")
    assert "it is whole" in (await script("dir examine 1.export")).output
    there = Script({}, script.files, {**script.places, "data/1": script.files / "elsewhere"})
    await there("dir import 1.export data/1")
    script.done |= there.done
    assert datadir.position(script.files / "elsewhere").end == datadir.position(first).end
    assert owner(script.files / "elsewhere") == owner(first)
    renamed = {owner(one).id: 100 + at for at, one in enumerate(directories)}
    words = [f"--id={old}={new}" for old, new in list(renamed.items())[1:]]
    others = [word for one in rest for word in ("--other", one)]
    old, new = next(iter(renamed.items()))
    script.places |= {"OLD=NEW": Path(f"{old}={new}")}
    await script("dir readdress data/1 --id OLD=NEW …", *words, *others, "--apply")
    assert [owner(one).id for one in directories] == list(renamed.values())
    moved = free_addresses(len(directories))
    given = [f"{owner(one).id}={moved[at]}" for at, one in enumerate(directories, 1)]
    await script("dir readdress data/1 ID=HOST:PORT …", *given, *others, "--apply")
    assert [owner(one).address for one in directories] == list(moved.values())
    own = owner(rest[-1])
    result = await script("dir recover data/2 --server ID=HOST:PORT …", f"{own.id}={own.address}")
    assert "this would be done" in result.output


def owner(directory: Path) -> Identity:
    """Return who a directory belongs to."""
    found = read(directory)
    assert found is not None
    return found


async def come_back(script: Script) -> None:
    """A new cluster from the backup."""
    await script("dir restore shop.backup data/1 --address 10.0.0.1:9001")
    script.done.add("dir restore shop.backup data/1 --address …")
    async with Node(script.places["data/1"], Shop(), settings=QUICK) as node:
        assert await node.machine.left("apple") == 7
        await script("join data/2 --address 10.0.0.2:9001 --via 10.0.0.1:9001")
        script.done.add("join …")
        async with Node(script.places["data/2"], Shop(), settings=QUICK) as second:
            await second.ready()
            assert await second.machine.left("apple") == 7


def test_each_command_of_the_chapter_does_what_it_says(tmp_path: Path) -> None:
    """It does on a cluster that runs, on its directories when it is stopped, and on a new one from its backup."""
    files = tmp_path / "files"
    files.mkdir()
    done: set[str] = set()

    async def running(cluster: Nodes, _: object) -> None:
        script = Script(cluster.addresses, files)
        await look_and_change(cluster, script)
        done.update(script.done)

    on(3, tmp_path / "data", running)

    async def rest() -> None:
        script = Script({}, files)
        await stopped(script, [tmp_path / "data" / name for name in ("1", "2", "4")])
        again = Script(free_addresses(2), files, {f"data/{n}": tmp_path / f"new{n}" for n in (1, 2)})
        await come_back(again)
        done.update(script.done, again.done)

    nodes.run(rest)
    elsewhere = {"dir restore shop.backup data/1 --address … --id 21"}  # test_offer.py
    elsewhere |= {"serve shop:Shop data/1"}  # test_serve.py, test_page.py
    elsewhere |= {"serve --http 127.0.0.1:8080 --http-token-file token shop:Shop data/1"}
    elsewhere |= {"watch --http 127.0.0.1:8080"}  # test_page.py
    elsewhere |= {'backup "/backup/shop-$(date +%F)"'}  # for a shell
    assert commands() - done - elsewhere == set()


class Better(Shop):
    """The same program, some time later."""

    @command
    def gift(self, item: str) -> int:
        """Put one there for nothing."""
        self.stock[item] = self.stock.get(item, 0) + 1
        return self.stock[item]


def test_an_upgrade_goes_member_by_member(tmp_path: Path) -> None:
    """As the chapter says: restart one, look that `pyraft check` finds nothing, and only then the next one.

    A command that the others do not have yet is refused, and everything else works all the time.
    """

    async def main() -> None:
        async with Nodes(tmp_path, settings=QUICK) as cluster:
            await cluster.grow(3)
            members: dict[int, Any] = cluster.nodes
            for number in (1, 2, 3):
                await members.pop(number).__aexit__(None, None, None)
                node = Node(tmp_path / str(number), Better(), settings=QUICK)
                await node.__aenter__()
                members[number] = node
                await node.ready()
                assert await node.machine.put("apple") == number
                while (await asyncio.to_thread(run, "check", "--via", node.address)).exit_code != 0:
                    await asyncio.sleep(0.05)
                if number < 3:
                    with pytest.raises(CommandFailed, match="has no gift in"):
                        await node.machine.gift("apple")
            await until(lambda: all(not node._admission.lacking for node in members.values()))
            assert await members[1].machine.gift("apple") == 4

    nodes.run(main)


def test_each_question_has_tests() -> None:
    """The table in tests/README.md has every question of the chapter, and tests that there are, or a reason."""
    readme = (CHAPTER.parents[1] / "tests" / "README.md").read_text()
    section = readme.split("## Twenty questions\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| ([^|]+\?) \| (.+) \|$", section, re.M))
    assert list(rows) == [question for question, _ in questions()]
    here = Path(__file__).parent
    for question, found in rows.items():
        named = re.findall(r"`(test_\w+)::(test_\w+)`", found)
        assert named, question
        for module, test in named:
            assert f"def {test}(" in (here / f"{module}.py").read_text(), (question, module, test)


def questions() -> list[tuple[str, str]]:
    """Return the questions of the chapter, each with its answer."""
    section = CHAPTER.read_text().split("## Twenty questions\n")[1].split("\n## ")[0]
    return re.findall(r"^\| ([^|]+\?) \| (.+) \|$", section, re.M)


def test_each_line_of_the_log_in_the_chapter_is_one_that_is_written() -> None:
    """It has the words of the sources, but for the places that depend on what happens."""
    sources = "\n".join(path.read_text() for package in PACKAGES for path in package.rglob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)
    section = CHAPTER.read_text().split("## Lines of the log\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `([^`]+)` \|", section, re.M)
    assert len(lines) > 12
    for line in lines:
        for words in line.split("…"):
            assert words.strip() in sources, line


def test_each_question_has_an_answer() -> None:
    """The twenty questions are in the chapter, each with a command or the place of a paragraph."""
    assert len(questions()) == 20
    for question, answer in questions():
        assert "`pyraft " in answer or "](" in answer, question
