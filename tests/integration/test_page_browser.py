"""The page in a real browser: what it shows as a cluster changes, what its buttons do, and who can read it.

With PAGE_PICTURES in the environment, pictures of it are left in that directory, for people to look at.
"""

import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the extra http is not installed")

from pyraft import page
from pyraft.node import Unavailable
from pyraft.page import site as page_site
from tests.integration.test_command_clusters import MORTAL, Shell, on
from tests.integration.test_page import TOKEN, site
from tests.lib import browser, nodes
from tests.lib.lookalikes import Members, member
from tests.lib.nodes import Nodes, until
from tests.lib.tlstest import Authority

pytestmark = pytest.mark.skipif(browser.is_missed(), reason="there is no chromium to look at the page with")


SIZES = [(1200, 900), (360, 740)]


def test_a_leader_is_killed(tmp_path: Path) -> None:
    """The page shows who leads, that it is gone, and its successor; a button acts, behind token and confirmation."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        old = cluster.leader()
        (number,) = [n for n, node in cluster.nodes.items() if node is old]
        node = cluster.followers()[0]
        async with site(node, TOKEN) as (_, url), browser.browser(tmp_path / "profile") as tab:
            await tab.go(url)
            await tab.until("document.getElementById('summary')?.innerText === 'The token is needed'")
            await tab.value("$('token').value = 'wrong'; $('token-form').requestSubmit()")
            await tab.until("$('gate-text').innerText.includes('that is not the token')")
            await tab.value(f"$('token').value = {TOKEN!r}; $('token-form').requestSubmit()")
            await tab.until(f"$('summary').innerText.startsWith('{old.address} leads in term')")
            assert await tab.value("$('members').children.length") == 3
            assert await tab.value("document.querySelectorAll('#ring .inner').length") == 1
            assert await tab.value("document.querySelectorAll('#ring .link.strong').length") == 2
            for _ in range(3):
                await old.machine.put("apple")
            await tab.until("series.high.some((one) => one[1] > 0)")
            await tab.until("document.querySelectorAll('#time-curve .curve')[0].getAttribute('d') !== ''")
            await tab.until("series.rate.some((one) => one[1] > 0)")
            await cluster.vanish(number)
            await until(lambda: any(one.is_leader for one in cluster.nodes.values()))
            new = cluster.leader()
            await tab.until(f"$('summary').innerText.startsWith('{new.address} leads')")
            await tab.until("$('detail').innerText.includes('1 of 3 do not answer')")
            await tab.until(f"$('events').innerText.includes('{new.address} leads')")
            await tab.until(f"$('events').innerText.includes('{old.address} does not answer')")
            await tab.until("document.querySelectorAll('#ring .node.gone').length === 1")
            button = f"""document.querySelector('button[aria-label="Remove {old.address}"]')"""
            await tab.value(f"{button}.click()")
            assert await tab.value("$('ask').open")
            assert await tab.value("document.activeElement.id") == "no"
            assert "2 voters are left, of which none may fail" in await tab.value("$('ask-text').innerText")
            await tab.value("$('no').click()")
            assert cluster.roles(new) == ["voter"] * 3
            await tab.value(f"{button}.click(); $('yes').click()")
            await tab.until("$('members').children.length === 2")
            await tab.until("!$('ask').open")
            assert cluster.roles(new) == ["voter"] * 2

    on(3, tmp_path / "data", scenario, MORTAL)


def test_it_is_shown_over_tls(tmp_path: Path) -> None:
    """Its certificate is renewed meanwhile, and the page goes on asking, over new connections.

    Certificates of those who look are for test_page_certificate.
    """
    authority = Authority(tmp_path)
    https = page.Https(*authority.issue("page", "127.0.0.1"))

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        node = cluster.nodes[1]
        async with (
            page.served(node, "127.0.0.1:0", TOKEN, https=https) as where,
            browser.browser(tmp_path / "profile") as tab,
        ):
            await tab.call("Security.setIgnoreCertificateErrors", ignore=True)  # the authority is this test's
            await tab.go(f"https://{where}/")
            await tab.until("document.getElementById('summary')?.innerText === 'The token is needed'")
            await tab.value(f"$('token').value = {TOKEN!r}; $('token-form').requestSubmit()")
            await tab.until(f"$('summary').innerText.startsWith('{node.address} leads in term')")
            assert await tab.value("location.protocol") == "https:"
            authority.issue("page", "127.0.0.1")
            https.renew()
            await node.machine.put("apple")
            await tab.until("series.rate.some((one) => one[1] > 0)")

    on(1, tmp_path / "data", scenario)


@contextlib.asynccontextmanager
async def pretended(
    monkeypatch: pytest.MonkeyPatch, directory: Path, members: Members, token: str = ""
) -> AsyncIterator[browser.Page]:
    """Show the page of a pretended cluster."""
    monkeypatch.setattr(page_site, "Operator", members)
    monkeypatch.setattr("pyraft.page.lookout.FRESH_SECONDS", 0.0)
    async with (
        page.watched(list(members.said)[:2], "127.0.0.1:0", token) as where,
        browser.browser(directory / "profile") as tab,
    ):
        await tab.go(f"http://{where}/")
        await tab.until("!!document.getElementById('main') && typeof poll === 'function'")
        if token:
            await tab.value(f"sessionStorage.setItem(TOKEN, {token!r}); poll()")
        await tab.until("!$('main').hidden")
        yield tab


async def shows(tab: browser.Page, expression: str) -> None:
    """Have the page ask, until an expression is true."""
    await tab.until(f"(poll(), {expression})")


def test_large_ids_are_not_rounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two members whose ids are one number to JavaScript have rows of their own, and a button acts on its member."""
    first, second = (1 << 63) + 1, (1 << 63) + 2
    rows = [[first, "a:1", "voter"], [second, "b:1", "voter"]]
    members = Members()
    for number, id in enumerate((first, second)):
        one = member(number + 1, 2, addresses=lambda i: f"{'ab'[i - 1]}:1", members=rows, links=[], matches=[])
        members.said[one.address] = dataclasses.replace(one, id=id, leader=first)

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, members, "secret") as tab:
            await shows(tab, "rows.size === 2 && $('summary').innerText.startsWith('a:1 leads')")
            await tab.value(f"rows.get('{second}').buttons.get('remove').click(); $('yes').click()")
            await tab.until("!$('ask').open")
            assert members.done == [("remove", second)]

    nodes.run(main)


def test_buttons_ask_for_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each does by keyboard, after a question; those that make no sense are off. A refusal is told, and stays open."""
    members = Members()
    rows = [[1, "a:1", "voter"], [2, "b:1", "voter"], [3, "c:1", "standby"], [4, "d:1", "spare"]]
    members.say(*(member(i, 4, addresses=lambda i: f"{'abcd'[i - 1]}:1", members=rows) for i in range(1, 5)))

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, members, "secret") as tab:
            await shows(tab, "rows.size === 4")
            enabled = "[...rows.values()].map((row) => [...row.buttons].filter(([, b]) => !b.disabled).map(([c]) => c))"
            assert await tab.value(enabled) == [
                ["demote", "remove"],
                ["transfer", "demote", "remove"],
                ["promote", "remove"],
                ["promote", "remove"],
            ]
            for id, change in ((2, "transfer"), (2, "demote"), (3, "promote"), (4, "remove")):
                await tab.value(f"rows.get('{id}').buttons.get('{change}').focus()")
                await tab.press("Enter")
                await tab.until("$('ask').open")
                await tab.press("Enter")  # the one that has the focus leaves it
                await tab.until("!$('ask').open")
                focus = f"document.activeElement === rows.get('{id}').buttons.get('{change}')"
                assert await tab.value(focus)
                await tab.press("Enter")
                await tab.press("Tab")
                assert await tab.value("document.activeElement.id") == "yes"
                await tab.press("Enter")
                await tab.until("!$('ask').open")
                assert members.done.pop() == (change, id)
                assert not members.done
            await tab.value("$('add').click(); $('add-id').value = ' 7 '; $('add-address').value = 'e:1'")
            assert "--via a:1" in await tab.value("$('ask-text').innerText")
            await tab.press("Enter")
            await tab.until("!$('ask').open")
            assert members.done == [("add", 7, "e:1")]
            await tab.value("$('add').click(); $('add-id').value = 'x'; $('yes').click()")
            await tab.until("$('ask-result').innerText.includes('It was not done')")
            assert await tab.value("$('ask').open")
            await tab.press("Escape")
            await tab.until("!$('ask').open")
            assert await tab.value("$('events').innerText.includes('e:1 is added')")

    nodes.run(main)


def test_without_a_proof_there_are_no_buttons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says why."""
    members = Members(member(1, 1))

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, members) as tab:
            shown = "[...document.querySelectorAll('main button')].filter((one) => one.offsetParent).length"
            assert await tab.value(shown) == 0
            assert "changes need a token" in await tab.value("$('why').innerText")

    nodes.run(main)


EVIL = "<img src=x onerror=hit()>\"'`${hit()}&lt;\u202e\x00{}"


def test_texts_are_never_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members name themselves, the others, and their reasons as they like: it stays text, and links lead to pages."""
    members = Members()
    evil: dict[str, Any] = dict.fromkeys(("machine", "version", "disk", "cause", "snapshot_problem", "state"), EVIL)
    rows = [[i, f"10.0.0.{i}:9001" if i == 1 else EVIL + str(i), EVIL, EVIL] for i in (1, 2, 3)]
    one = member(1, 3, members=rows, page="javascript:hit()", **evil)
    two = member(2, 3, addresses=lambda i: EVIL + str(i), page="http://two.example:8080/<b>", **evil)
    members.said = {"10.0.0.1:9001": one, EVIL + "2": two, EVIL + "3": Unavailable(EVIL)}

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, members) as tab:
            await tab.value("window.hits = 0; window.hit = () => (window.hits += 1)")
            await shows(tab, "rows.size === 3")
            await shows(tab, "shown.members.filter((one) => one.status).length === 2")
            assert await tab.value("document.querySelectorAll('img, script:not([src]), b').length") == 0
            assert "<img src=x" in await tab.value("$('members').innerText")
            links = "[...document.querySelectorAll('main a')].filter((one) => !one.hidden).map((one) => one.href)"
            assert await tab.value(links) == ["http://two.example:8080/%3Cb%3E"]
            assert await tab.value("window.hits") == 0

    nodes.run(main)


def spread(n: int, **own: Any) -> Members:
    """Return n members at long addresses, one of them gone."""
    members = Members()
    where = lambda i: f"member-{i}.of-a-cluster-with-a-long-name.example:9001"  # noqa: E731
    members.say(*(member(i, n, addresses=where, **own) for i in range(1, n + 1)))
    if n > 1:
        members.said[where(n)] = Unavailable(f"{where(n)} cannot be reached: Connection refused")
    return members


COLOURS = """
(() => {
  const light = (text) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = text.match(/[\\d.]+/g).map((n) => linear(n / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const found = getComputedStyle(one).backgroundColor;
      if (!found.startsWith("rgba(0, 0, 0, 0")) return found;
    }
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !one.getClientRects().length) continue;
    if (["title", "NOSCRIPT"].includes(one.tagName)) continue;
    const style = getComputedStyle(one);
    const [a, b] = [light(one.ownerSVGElement ? style.fill : style.color), light(ground(one))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.push([one.className, walker.currentNode.data, contrast]);
  }
  return found;
})()
"""


@pytest.mark.parametrize("n", [1, 3, 9])
def test_it_is_readable(n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a phone and on a desk, light and dark, nothing is wider than the window, and all text stands out."""
    pictures = Path(os.environ.get("PAGE_PICTURES", tmp_path))

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, spread(n), "secret") as tab:
            await shows(tab, f"rows.size === {n}")
            for width, height in SIZES:
                for scheme in ("light", "dark"):
                    await tab.picture(pictures / f"page-{n}-{width}-{scheme}.png", width, height, scheme, whole=True)
                    assert await tab.value("document.documentElement.scrollWidth") <= width
                    assert await tab.value(COLOURS) == []
                outside = f"""[...document.querySelectorAll('main *')].filter((one) => !one.ownerSVGElement &&
                    one.getBoundingClientRect().right > {width} && one.getBoundingClientRect().left > 0)
                    .map((one) => one.outerHTML)"""
                assert await tab.value(outside) == []

    nodes.run(main)


def test_it_is_told_without_colours_and_by_keyboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """States are words and shapes, events are announced, each control has a name, its place, and an outline."""

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, spread(3), "secret") as tab:
            await shows(tab, "rows.size === 3")
            assert await tab.value("[...rows.values()].map((row) => row.cells[3].innerText)") == [
                "★ leads",
                "follows",
                "✕ no answer",
            ]
            assert "✕ no answer" in await tab.value("$('ring').textContent")
            assert (
                await tab.value("getComputedStyle(document.querySelector('#ring .node.gone')).strokeDasharray")
                != "none"
            )
            assert await tab.value("document.querySelectorAll('#ring .cross').length") == 0
            assert await tab.value("[$('events').getAttribute('role'), $('events').getAttribute('aria-live')]") == [
                "log",
                "polite",
            ]
            assert await tab.value("$('ring').getAttribute('aria-label').includes('no answer')")
            order = []
            for _ in range(30):
                await tab.press("Tab")
                name = await tab.value(
                    "document.activeElement.getAttribute('aria-label') || document.activeElement.id || "
                    "document.activeElement.className || document.activeElement.tagName"
                )
                if name == "BODY":
                    break
                outline = "parseFloat(getComputedStyle(document.activeElement).outlineWidth)"
                assert await tab.value(outline) >= 2, name
                order.append(name.split(" ")[0])
            assert order == [
                "skip",
                *["Demote", "Remove"],
                *["Lead", "Demote", "Remove"],
                *["Demote", "Remove"],
                "add",
                *order[-2:],
            ]
            assert order[-2:] == ["events", "forget"]

    nodes.run(main)


def test_nothing_moves_for_those_who_want_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With prefers-reduced-motion there is no animation and no transition; without there is."""
    members = spread(1)

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, members, "secret") as tab:
            moving = """(note('+', 'x'), [getComputedStyle($('events').firstChild).animationName,
                getComputedStyle($('add')).transitionDuration])"""
            await tab.resize(1200, 900)
            assert await tab.value(moving) == ["come", "0.15s"]
            await tab.resize(1200, 900, still=True)
            assert await tab.value(moving) == ["none", "0s"]

    nodes.run(main)


def test_nothing_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards stay where they are when a leader is lost, comes back, and the server is gone."""
    members = Members()
    healthy = [member(i, 3) for i in (1, 2, 3)]
    members.say(*healthy)
    places = "[...document.querySelectorAll('.ring, .graphs, .wide')].map((one) => one.getBoundingClientRect().top)"

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, members, "secret") as tab:
            await tab.resize(1200, 900)
            before = await tab.value(places)
            members.say(*(member(i, 3, leader=0) for i in (1, 2, 3)))
            await shows(tab, "$('summary').innerText === 'Nobody leads'")
            assert await tab.value(places) == before
            members.said = {}
            await shows(tab, "document.querySelectorAll('#ring .node.gone').length === 3")
            assert await tab.value(places) == before
            await tab.value("window.fetch = () => Promise.reject(Error())")
            await shows(tab, "!$('notice').hidden")
            assert await tab.value(places) == before

    nodes.run(main)


def test_the_server_of_the_page_is_gone_and_comes_back_as_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says since when, names the pages of others, goes on when it is back, and offers its new version."""
    members = Members(*(member(i, 3, page=f"http://localhost:808{i}/") for i in (1, 2, 3)))

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, members, "secret") as tab:
            await tab.value("const fetched = fetch; window.fetch = () => Promise.reject(Error())")
            await shows(tab, "$('notice-text').innerText.includes('it cannot be reached')")
            assert await tab.value("$('notice-text').innerText.includes('What you see is from ')")
            assert await tab.value("[...$('notice-pages').querySelectorAll('a')].map((one) => one.href)") == [
                f"http://localhost:808{i}/" for i in (1, 2, 3)
            ]
            assert await tab.value("$('notice').getAttribute('role')") == "alert"
            await tab.value("window.fetch = fetched")
            await shows(tab, "$('notice').hidden")
            await tab.value("const real = ask; ask = async (...a) => ({ ...(await real(...a)), page: 'newer' })")
            await shows(tab, "!$('reload').hidden && $('notice-text').innerText.includes('another version')")
            await tab.value("window.before = true; $('reload').click()")
            await tab.until(
                "!window.before && document.readyState === 'complete' && !document.getElementById('main').hidden"
            )
            assert await tab.value("$('notice').hidden")

    nodes.run(main)


def test_a_hidden_tab_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tab that nobody sees costs nothing, and asks at once when it is seen again."""
    members = Members(member(1, 1))

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, members) as tab:
            await tab.value("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
            await tab.until("!asking")  # what it asked before has been answered
            await tab.value("poll()")
            before = members.asked
            assert await tab.value("poll().then(() => asking)") is False
            assert members.asked == before
            await tab.value("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
            await until(lambda: members.asked > before)

    nodes.run(main)


def test_a_server_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page gives up waiting for it, says so, and goes on when it answers."""
    members = Members(member(1, 1))

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, members) as tab:
            await tab.value("const real = fetch")
            hung = "new Promise((done, fail) => options.signal.addEventListener('abort', () => fail(Error())))"
            await tab.value(f"window.fetch = (path, options) => {hung}")
            await tab.until("$('notice-text').innerText.includes('takes the connection and does not answer')")
            await tab.value("window.fetch = real")
            await shows(tab, "$('notice').hidden")

    nodes.run(main)


def test_terms_and_members_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is an event of its own, in words."""
    members = Members(*(member(i, 3) for i in (1, 2, 3)))

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, members) as tab:
            await shows(tab, "rows.size === 3")
            for said, text in (
                ([member(i, 3, term=8) for i in (1, 2, 3)], "10.0.0.1:9001 leads on, in term 8"),
                ([member(i, 3, leader=0, term=8) for i in (1, 2, 3)], "nobody leads"),
                ([member(i, 3, leader=2, term=9) for i in (1, 2, 3)], "10.0.0.2:9001 leads in term 9"),
                ([member(i, 4, leader=2, term=9) for i in (1, 2, 3, 4)], "10.0.0.4:9001 is a member, voter"),
                ([member(i, 2, leader=2, term=9) for i in (1, 2)], "10.0.0.3:9001 is not a member any more"),
                ([member(i, 2, leader=2, term=9, disk="no room") for i in (1, 2)], "10.0.0.1:9001: disk: no room"),
            ):
                members.say(*said)
                await shows(tab, f"$('events').innerText.includes({text!r})")

    nodes.run(main)


def test_links_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link of the leader's that is down is crossed out; times are those of what was counted since the last answer."""
    members = Members()
    leader = member(1, 3, links=[[2, "10.0.0.2:9001", True], [3, "10.0.0.3:9001", False]])
    members.say(leader, member(2, 3), member(3, 3, links=[[2, "10.0.0.2:9001", True]]))

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, members) as tab:
            await shows(tab, "rows.size === 3")
            kinds = "[...document.querySelectorAll('#ring .link')].map((one) => one.getAttribute('class').trim())"
            assert await tab.value(kinds) == ["link strong", "link gone", "link"]
            assert await tab.value("document.querySelectorAll('#ring .cross').length") == 1
            counts = "Array.from({ length: 16 }, (_, i) => (i === 2 ? 100 : i === 5 ? 2 : 0))"
            for share, least, most in ((0.5, 0.0005, 0.001), (0.99, 0.005, 0.01), (0.01, 0.0005, 0.00052)):
                found = await tab.value(f"quantile([], {counts}, shown.bounds, {share})")
                assert least <= found <= most, share
            assert await tab.value(f"quantile({counts}, {counts}, shown.bounds, 0.5)") is None
            assert await tab.value(f"quantile({counts}, [], shown.bounds, 0.5)") is None
            texts = "[0.00042, 0.0042, 0.42, 1.2, 42].map(duration)"
            assert await tab.value(texts) == ["0.42 ms", "4.2 ms", "420 ms", "1.2 s", "42 s"]

    nodes.run(main)
