"""The HTTP of a node: what those who look at it cost, and what members that say strange things can do to it."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the extra http is not installed")

import aiohttp

from pyraft import page
from pyraft.node import Node, init
from pyraft.page import door
from pyraft.page import site as page_site
from pyraft.page.probes import Probes
from tests.integration.test_command_clusters import Shell, on
from tests.integration.test_page import KNOWN, TOKEN, get
from tests.lib import nodes
from tests.lib.lookalikes import Members, member
from tests.lib.nodes import QUICK, Nodes, Shop
from tests.lib.tlstest import Authority
from tests.lib.uvnode import free_addresses


@contextlib.asynccontextmanager
async def pretended(
    monkeypatch: pytest.MonkeyPatch, members: Members, token: str = ""
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Serve the page of a pretended cluster; yield a session and the address."""
    monkeypatch.setattr(page_site, "Operator", members)
    via = list(members.said)[:1]
    async with page.watched(via, "127.0.0.1:0", token) as where, aiohttp.ClientSession() as session:
        yield session, f"http://{where}"


def test_many_who_look_cost_as_much_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty open pages have each member asked once for all of them, and nobody is asked while nobody looks."""
    members = Members(*(member(i, 9) for i in range(1, 10)))

    async def main() -> None:
        async with pretended(monkeypatch, members) as (session, url):
            assert members.asked == 0
            for times in (1, 2):
                monkeypatch.setattr("pyraft.page.lookout.FRESH_SECONDS", 600.0 if times == 1 else 0.0)
                answers = await asyncio.gather(*(get(session, f"{url}/cluster") for _ in range(50)))
                assert {status for status, _ in answers} == {200}
                assert len(answers[0][1]["members"]) == 9
                if times == 1:
                    assert len({json.dumps(found) for _, found in answers}) == 1
                    assert members.asked == 9
            assert members.asked > 9

    nodes.run(main)


def test_a_member_that_never_answers_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are shown, it is told that this one is silent, it is asked once, and is back when it answers."""
    members = Members()
    statuses = [member(i, 3) for i in range(1, 4)]
    members.say(*statuses)
    monkeypatch.setattr("pyraft.page.lookout.FRESH_SECONDS", 0.0)
    monkeypatch.setattr("pyraft.page.lookout.PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr("pyraft.page.lookout.SILENT_SECONDS", 0.05)

    async def main() -> None:
        async with pretended(monkeypatch, members) as (session, url):

            async def look() -> dict[str, Any]:
                status, found = await get(session, f"{url}/cluster")
                assert status == 200
                return {one["address"]: one for one in found["members"]}

            address = statuses[2].address
            while len(found := await look()) < 3 or found[address]["status"] is None:
                pass
            silent = members.said[address] = asyncio.get_running_loop().create_future()
            while (one := (await look())[address])["status"] is not None:
                pass
            assert one["problem"] == f"{address} takes a connection and does not answer"
            first = None
            while first is None:  # the others have 10 ms to answer, for which a busy machine may stand still
                asked = members.asked
                first = (await look())[statuses[0].address]["status"]
                assert members.asked <= asked + 2
            assert first["state"] == "leader"
            silent.set_result(statuses[2])
            while (await look())[address]["status"] is None:
                pass

    nodes.run(main)


def test_texts_of_members_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses and names have no line ends and do not turn the direction of writing, whatever a member says."""
    members = Members()
    evil = "10.0.0.1:9001\n\u202e\x1b[31m"
    members.say(member(1, 1, addresses=lambda i: evil))

    async def main() -> None:
        async with pretended(monkeypatch, members) as (session, url):
            _, found = await get(session, f"{url}/cluster")
            (one,) = found["members"]
            assert one["address"] == "10.0.0.1:9001\\n\\u202e\\x1b[31m"
            assert json.dumps(found).count("\\\\u202e") > 2
            assert "\u202e" not in json.dumps(found, ensure_ascii=False)

    nodes.run(main)


def test_a_member_that_names_thousands(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has as many asked and shown as there may be voters."""
    members = Members(member(1, 5000))

    async def main() -> None:
        async with pretended(monkeypatch, members) as (session, url):
            _, found = await get(session, f"{url}/cluster")
            assert len(found["members"]) == 99
            assert members.asked == 99

    nodes.run(main)


def test_a_cluster_of_which_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its members are shown without their statuses, also those that were not given; and it comes back."""
    members = Members()
    statuses = [member(i, 3) for i in (1, 2, 3)]
    monkeypatch.setattr("pyraft.page.lookout.FRESH_SECONDS", 0.0)

    async def main() -> None:
        members.say(statuses[0])
        async with pretended(monkeypatch, members) as (session, url):
            members.said = {}
            status, found = await get(session, f"{url}/cluster")
            assert (status, found["error"]) == (503, "10.0.0.1:9001 cannot be reached: Connection refused")
            members.say(*statuses)
            status, found = await get(session, f"{url}/cluster")
            assert (status, found["leader"]) == (200, "1")
            members.said = {}
            status, found = await get(session, f"{url}/cluster")
            assert (status, found["leader"], found["cluster"]) == (200, None, statuses[0].cluster)
            assert [one["status"] for one in found["members"]] == [None] * 3
            assert [one["problem"][:14] for one in found["members"]] == [f"10.0.0.{i}:9001 "[:14] for i in (1, 2, 3)]
            assert [(one["name"], one["ok"]) for one in found["conditions"]] == [
                *(("leader", False), ("members", False), ("quorum", False))
            ]
            members.say(*statuses[1:])
            _, found = await get(session, f"{url}/cluster")
            assert [one["status"] is None for one in found["members"]] == [True, False, False]

    nodes.run(main)


async def dial(where: str, text: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and send the beginning of a request."""
    host, _, port = where.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text.encode())
    return reader, writer


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Read to the end of a connection, which may be a reset."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(4096):
            got += data
    return got


SLOW = "GET /cluster HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


@pytest.mark.parametrize("kind", nodes.LOOPS)
def test_connections_that_say_nothing_are_ended(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have sent nothing, or a part of a request, or keep the connection for nothing."""
    monkeypatch.setattr(door, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(door, "LOOK_SECONDS", 0.01)
    members = Members(member(1, 1))

    async def main() -> None:
        monkeypatch.setattr(page_site, "Operator", members)
        async with page.watched(["10.0.0.1:9001"], "127.0.0.1:0") as where:
            for text in ("", SLOW, "GET /cluster HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                whole = text.endswith("\r\n\r\n")
                monkeypatch.setattr(door, "HEAD_SECONDS", 60.0 if whole else 0.05)
                reader, writer = await dial(where, text)
                got = await rest(reader)
                assert got.startswith(b"HTTP/1.1 200" if whole else b"")
                writer.close()

    nodes.run(main, kind)


@pytest.mark.parametrize("kind", nodes.LOOPS)
def test_slow_strangers_keep_nobody_out(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all places are taken by requests that do not come, the next one gets the place of the oldest."""
    monkeypatch.setattr(door, "MOST", 4)
    members = Members(member(1, 1))

    async def main() -> None:
        monkeypatch.setattr(page_site, "Operator", members)
        async with page.watched(["10.0.0.1:9001"], "127.0.0.1:0") as where, aiohttp.ClientSession() as session:
            assert (await get(session, f"http://{where}/cluster"))[0] == 200
            slow = [await dial(where, SLOW) for _ in range(12)]
            assert (await get(session, f"http://{where}/cluster"))[0] == 200  # on the connection that it had
            async with aiohttp.ClientSession() as other:
                assert (await get(other, f"http://{where}/cluster"))[0] == 200
            for reader, _ in slow[:8]:
                assert await rest(reader) == b""
            for _, writer in slow:
                writer.close()

    nodes.run(main, kind)


def test_strangers_at_the_probes_keep_nobody_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Many that ask whether it is ready, which takes two seconds without a leader, share one check and make room."""
    monkeypatch.setattr(door, "MOST", 4)

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        node = cluster.nodes[1]
        checks = 0
        arrived: set[str] = set()
        held = asyncio.get_running_loop().create_future()
        answer = page_site._Site.ready

        async def check(probes: Probes) -> str:
            nonlocal checks
            checks += 1
            await held
            return ""

        async def noted(site: Any, request: Any) -> Any:
            arrived.add(request.query["n"])
            return await answer(site, request)

        monkeypatch.setattr(Probes, "_check", check)
        monkeypatch.setattr(page_site._Site, "ready", noted)
        async with page.served(node, "127.0.0.1:0", TOKEN) as where, aiohttp.ClientSession() as session:
            asked = [await dial(where, f"GET /ready?n={n} HTTP/1.1\r\nHost: localhost\r\n\r\n") for n in range(12)]
            await nodes.until(lambda: {"9", "10", "11"} <= arrived)
            assert (await get(session, f"http://{where}/status", **KNOWN))[0] == 200
            held.set_result(None)
            answers = [await reader.read(12) for reader, _ in asked[-3:]]
            assert answers == [b"HTTP/1.1 200"] * 3
            for _, writer in asked:
                writer.close()
        assert checks == 1

    on(1, tmp_path, scenario)


def test_a_request_whose_body_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered when its time is over; without the token at once, before the body."""
    monkeypatch.setattr(page_site, "_BODY_SECONDS", 0.05)
    members = Members(member(1, 1))
    head = "POST /change HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"

    async def main() -> None:
        monkeypatch.setattr(page_site, "Operator", members)
        async with page.watched(["10.0.0.1:9001"], "127.0.0.1:0", TOKEN) as where:
            for more, status in ((f"Authorization: Bearer {TOKEN}\r\n", b"408"), ("", b"401")):
                reader, writer = await dial(where, f"{head}{more}\r\n{{")
                assert (await reader.readline())[9:12] == status
                writer.close()

    nodes.run(main)


def test_a_page_at_loopback_is_told_to_no_other_machine(tmp_path: Path) -> None:
    """Its address would lead there to something else."""

    async def main() -> None:
        await init(tmp_path / "1", free_addresses(1)[1].replace("127.0.0.1", "127.0.0.2"))
        async with Node(tmp_path / "1", Shop(), settings=QUICK) as node:
            for address, told in (("127.0.0.1:0", False), ("127.0.0.2:0", True)):
                async with page.served(node, address, TOKEN) as where:
                    assert (await node._desk.status())["page"] == (f"http://{where}/" if told else "")

    nodes.run(main)


@pytest.mark.parametrize("kind", nodes.LOOPS)
def test_handshakes_that_do_not_come_are_ended(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are under way count among the connections: the next one gets the place of the oldest."""
    authority = Authority(tmp_path)
    https = page.Https(*authority.issue("page", "127.0.0.1"))
    context = ssl.create_default_context(cafile=str(authority.path))
    members = Members(member(1, 1))
    monkeypatch.setattr(door, "MOST", 4)

    async def main() -> None:
        monkeypatch.setattr(page_site, "Operator", members)
        async with page.watched(["10.0.0.1:9001"], "127.0.0.1:0", https=https) as where:
            slow = [await dial(where) for _ in range(12)]
            async with aiohttp.ClientSession() as session, session.get(f"https://{where}/", ssl=context) as answer:
                assert answer.status == 200
            for reader, _ in slow[:8]:
                assert await rest(reader) == b""
            monkeypatch.setattr(door, "HEAD_SECONDS", 0.05)
            late, writer = await dial(where)
            assert await rest(late) == b""
            for _, one in (*slow, (late, writer)):
                one.close()

    nodes.run(main, kind)
