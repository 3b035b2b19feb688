"""The HTTP of a node: what it tells and to whom, and the page in a real browser."""

import contextlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the extra http is not installed")

import aiohttp

from pyraft import page
from pyraft.node import Node
from tests.integration.test_command_clusters import Shell, on
from tests.lib import browser
from tests.lib.nodes import Nodes, Shop, until

TOKEN = "a token of a test"
JSON = {"Content-Type": "application/json"}
KNOWN = {**JSON, "Authorization": f"Bearer {TOKEN}"}


@contextlib.asynccontextmanager
async def site(node: Node[Shop], token: str = "") -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Serve a node, and yield a session and the address."""
    async with page.served(node, "127.0.0.1:0", token) as where, aiohttp.ClientSession() as session:
        yield session, f"http://{where}"


async def get(session: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, Any]:
    """Return status and content of an answer."""
    async with session.get(url, headers=headers) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        is_json = answer.content_type == "application/json"
        return answer.status, await answer.json() if is_json else await answer.text()


def test_what_is_told(tmp_path: Path) -> None:
    """The member, the cluster, and whether it is healthy and ready, as it changes."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        node = cluster.nodes[1]
        async with site(node) as (session, url):
            assert await get(session, f"{url}/health") == (200, {})
            assert await get(session, f"{url}/ready") == (200, {})
            status, found = await get(session, f"{url}/status")
            assert (status, found["id"], found["machine"]) == (200, node.id, "Shop")
            status, found = await get(session, f"{url}/cluster")
            assert (status, found["leader"]) == (200, str(cluster.leader().id))
            assert {one["address"] for one in found["members"]} == {n.address for n in cluster.nodes.values()}
            status, text = await get(session, f"{url}/")
            assert (status, "<title>pyraft</title>" in text) == (200, True)
            assert not re.search(r"https?://|//cdn|@import", text)
            assert (await get(session, f"{url}/nothing"))[0] == 404
            status, text = await get(session, f"{url}/metrics")
            assert status == 501 or "pyraft_is_leader" in text
            await cluster.vanish(2)  # the other one of two
            await until(lambda: not node.leader[0])
            status, found = await get(session, f"{url}/ready")
            assert (status, "no answer in time" in found["error"]) == (503, True)
            assert (await get(session, f"{url}/health"))[0] == 200
            assert (await get(session, f"{url}/cluster"))[0] == 200

    on(2, tmp_path, scenario)


def test_who_is_refused(tmp_path: Path) -> None:
    """Other hosts' names, those without the token, changes by GET, from other origins, and where no token is set."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        node = cluster.nodes[1]
        other = next(one for one in cluster.nodes.values() if one is not node)
        change = {"change": "transfer", "member": str(other.id)}

        async def post(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> int:
            async with session.post(f"{url}/change", json=change, headers=headers) as answer:
                return answer.status

        async with site(node) as (session, url):
            assert (await get(session, f"{url}/status", Host="evil.example"))[0] == 403
            assert (await get(session, f"{url}/health", Host="evil.example"))[0] == 403
            assert await post(session, url, KNOWN) == 403  # no token is set
        async with site(node, TOKEN) as (session, url):
            for path in ("status", "cluster", "metrics"):
                assert (await get(session, f"{url}/{path}"))[0] == 401
                for word in ("wrong", TOKEN[:-1], "", "é", "\udcff"):
                    assert (await get(session, f"{url}/{path}", Authorization=f"Bearer {word}"))[0] == 401
            assert (await get(session, f"{url}/status", **KNOWN))[0] == 200
            for path in ("", "health", "ready", "page.js"):
                assert (await get(session, f"{url}/{path}"))[0] == 200
            assert (await get(session, f"{url}/change", **KNOWN))[0] == 405
            assert await post(session, url, JSON) == 401
            assert await post(session, url, {**KNOWN, "Origin": "http://evil.example"}) == 403
            assert await post(session, url, {**KNOWN, "Sec-Fetch-Site": "cross-site"}) == 403
            assert await post(session, url, {**KNOWN, "Host": "evil.example"}) == 403
            before = cluster.leader()
            assert await post(session, url, {**KNOWN, "Origin": url}) == 200
            assert cluster.leader() is other or before is other
            wrong: list[Any] = [{"change": "explode", "member": "1"}, {"change": "remove"}, []]
            wrong.append({"change": "remove", "member": "x"})
            for asked in wrong:
                async with session.post(f"{url}/change", json=asked, headers=KNOWN) as answer:
                    assert answer.status == 400
            async with session.post(f"{url}/change", json={"change": "demote", "member": "1"}, headers=KNOWN) as answer:
                assert (answer.status, "is not a member" in (await answer.json())["error"]) == (409, True)
        with pytest.raises(ValueError, match="that needs a token"):
            async with page.served(node, "0.0.0.0:0"):
                pass

    on(2, tmp_path, scenario)


@pytest.mark.skipif(
    browser.find() is None and os.environ.get("CI") != "true", reason="there is no chromium to look at the page with"
)
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """It shows who leads, a leader that dies, and its successor; a button acts, with the token and a confirmation."""
    pictures = Path(os.environ.get("PAGE_PICTURES", tmp_path))

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        old = cluster.leader()
        (number,) = [n for n, node in cluster.nodes.items() if node is old]
        node = cluster.followers()[0]
        async with site(node, TOKEN) as (_, url), browser.browser(tmp_path / "profile") as tab:
            await tab.go(url)
            await tab.until("document.getElementById('summary')?.innerText.includes('the token is needed')")
            await tab.value(f"$('token').value = {TOKEN!r}; document.querySelector('#token-form button').click()")
            await tab.until(f"$('summary').innerText.startsWith('{old.address} leads in term')")
            assert await tab.value("$('members').children.length") == 3
            assert await tab.value("document.querySelectorAll('#ring circle').length") == 4  # the leader's is double
            await tab.picture(pictures / "page.png", 1100, 900)
            await tab.picture(pictures / "dark-phone.png", 390, 844, "dark")
            assert await tab.value("document.documentElement.scrollWidth <= 390")
            await cluster.vanish(number)
            await until(lambda: any(one.is_leader for one in cluster.nodes.values()))
            new = cluster.leader()
            await tab.until(f"$('summary').innerText.startsWith('{new.address} leads')")
            await tab.until("$('summary').innerText.includes('1 of 3 do not answer')")
            await tab.until(f"$('events').innerText.includes('{new.address} leads')")
            await tab.picture(pictures / "killed.png", 1100, 900)
            button = f"""document.querySelector('button[aria-label="Remove {old.address}"]')"""
            await tab.value(f"{button}.click()")
            assert await tab.value("document.getElementById('confirm').open")
            assert await tab.value("document.activeElement.id") == "no"
            await tab.value("$('no').click()")
            await tab.value(f"{button}.click(); $('yes').click()")
            await tab.until("$('members').children.length === 2")
            assert cluster.roles(new) == ["voter"] * 2

    on(3, tmp_path / "data", scenario)
