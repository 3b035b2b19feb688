"""The parts of the page that need no cluster: who is refused, how colours stand out, and what its files refer to."""

import asyncio
import re
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="the extra http is not installed")

from pyraft import page
from pyraft.page.door import Door
from pyraft.page.guard import Guard, host_of, is_loopback
from tests.lib import browser

FILES = Path(page.__file__).parent
CSS, HTML, JS = ((FILES / name).read_text() for name in ("page.css", "page.html", "page.js"))

POST = {"Host": "shop.example:8080", "Content-Type": "application/json"}
NAMES = ["shop.example"]
PROOF = {"Authorization": "Bearer secret"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("127.0.0.1:8080", 0), ("localhost", 0), ("[::1]:8080", 0), ("Shop.Example:8080", 0), ("10.0.0.7:8080", 0)),
        *(("[2001:db8::1]:8080", 0), ("evil.example", 403), ("evil.example:8080", 403), ("", 403), ("1.2.3.4.5", 403)),
        *(("127.0.0.1.evil.example", 403), ("localhost.evil.example", 403), ("[::1", 0), ("0x7f.1", 403)),
    ],
)
def test_names_that_nobody_gave_are_refused(host: str, status: int) -> None:
    """A name leads anywhere, so it has to be one of those given; an address is that of this end, whoever says it."""
    guard = Guard(names=["shop.example", "0.0.0.0"])
    assert guard.refusal("GET", {"Host": host})[0] == status
    assert guard.refusal("GET", {"Host": host}, is_open=True)[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (PROOF, 0),
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "secret"}, 401),
        ({"Authorization": "Bearer secret "}, 401),
        ({**PROOF, "Origin": "http://shop.example:8080"}, 0),
        ({**PROOF, "Origin": "http://shop.example:8081"}, 403),
        ({**PROOF, "Origin": "null"}, 403),
        ({**PROOF, "Sec-Fetch-Site": "same-origin"}, 0),
        ({**PROOF, "Sec-Fetch-Site": "same-site"}, 403),
        ({**PROOF, "Sec-Fetch-Site": "none"}, 403),
        ({**PROOF, "Content-Type": "text/plain"}, 415),
        ({**PROOF, "Content-Type": "application/json; charset=utf-8"}, 0),
        ({**PROOF, "Content-Type": ""}, 415),
    ],
)
def test_who_may_change_something(headers: dict[str, str], status: int) -> None:
    """One that knows the token, by a request that no page of another origin can make; likewise with a certificate."""
    assert Guard("secret", NAMES).refusal("POST", {**POST, **headers})[0] == status
    certified = Guard(names=NAMES, certificates=True).refusal("POST", {**POST, **headers}, certified=True)[0]
    assert certified == (0 if status == 401 else status)
    assert Guard(names=NAMES).refusal("POST", {**POST, **headers})[0] == 403
    assert Guard(names=NAMES).refusal("POST", {**POST, **headers}, certified=True)[0] == 403
    assert Guard(names=NAMES, certificates=True).refusal("POST", {**POST, **PROOF})[0] in (401, 403)


def test_who_may_look() -> None:
    """All, where no proof is asked for; else those with one. A certificate is one only where they are asked for."""
    asked = {"Host": "localhost"}
    assert Guard().refusal("GET", asked) == (0, "")
    assert Guard("secret").refusal("GET", asked) == (401, "the token is needed")
    assert Guard("secret").refusal("GET", {**asked, "Authorization": "Bearer x"}) == (401, "that is not the token")
    assert Guard("secret").refusal("GET", asked, certified=True)[0] == 401
    assert Guard("secret").refusal("GET", asked, is_open=True) == (0, "")
    assert Guard("secret", certificates=True).refusal("GET", asked, certified=True) == (0, "")
    assert Guard("secret", certificates=True).refusal("GET", {**asked, **PROOF}) == (0, "")
    assert Guard(certificates=True).refusal("GET", asked) == (401, "a certificate is needed")


def test_a_token_is_compared_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """hmac.compare_digest does, on two texts of one length, so that the time it takes tells nothing."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr("pyraft.page.guard.hmac.compare_digest", compare)
    for given in ("", "Bearer", "Bearer secret", "Bearer " + "x" * 5000, "Bearer \udcff"):
        Guard("secret").refusal("GET", {"Host": "localhost", "Authorization": given})
    assert {len(text) for pair in compared for text in pair} == {32}
    assert [a == b for a, b in compared] == [False, False, True, False, False]


def test_hosts() -> None:
    """The name in a header; and whether only this machine reaches an address."""
    assert [host_of(text) for text in ("A.b:1", "a", "[::1]:1", "")] == ["a.b", "a", "::1", ""]
    assert [is_loopback(f"{host}:1") for host in ("127.0.0.1", "[::1]", "0.0.0.0", "10.0.0.1")] == [True] * 2 + [
        False
    ] * 2


# ---- colours


def schemes() -> dict[str, dict[str, str]]:
    """Return the colours of the light and of the dark page, by name."""
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.S)
    return {name: dict(re.findall(r"--(\w+): (#\w{6});", text)) for name, text in (("light", light), ("dark", dark))}


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, as the WCAG define it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, from 1 to 21."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out(scheme: str) -> None:
    """Text by 4.5 to 1 against what it stands on, lines and shapes by 3 to 1."""
    colours = schemes()[scheme]
    assert len(colours) == 11
    for text in ("ink", "soft", "bad", "good", "lead"):
        for ground in ("paper", "card", "press"):
            found = contrast(colours[text], colours[ground])
            assert found >= 4.5, f"{text} on {ground}: {found:.2f}"
    for line in ("edge", "lead", "time", "bad"):
        assert contrast(colours[line], colours["card"]) >= 3, line


def test_no_colour_stands_for_itself() -> None:
    """Colours are named once: no rule has one of its own that the test above would not see."""
    rules = CSS.split("* { box-sizing", 1)[1]
    assert re.findall(r"#[0-9a-fA-F]{6}\b|\brgb|\bhsl", rules) == []
    assert set(re.findall(r"#[0-9a-f]{3,4}\b(?=[; ])", rules)) <= {"#0003", "#0008"}  # shadows


def test_without_a_browser_tests_skip_but_not_in_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There they fail, with the names of those that were looked for."""

    async def look() -> None:
        async with browser.browser(tmp_path):
            pass

    monkeypatch.setattr("tests.lib.browser.shutil.which", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    assert browser.is_missed()
    monkeypatch.setenv("CI", "true")
    assert not browser.is_missed()
    with pytest.raises(AssertionError, match="there is none of chromium"):
        asyncio.run(look())
    monkeypatch.setattr("tests.lib.browser.shutil.which", lambda name: name)
    assert not browser.is_missed()


# ---- files


def test_the_files_refer_to_nothing_elsewhere() -> None:
    """They have no address of another host, import, inline part, handler in an attribute, or markup from text."""
    for text in (HTML, CSS, JS):
        found = [url for url in re.findall(r"https?://[^\s\"')]+", text) if url != "http://www.w3.org/2000/svg"]
        assert found == []
    assert not re.search(r"@import|url\(", CSS)
    assert not re.search(r"\bstyle=|\bon\w+=|<script(?! src=\"page\.js\" defer)|<style", HTML)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|\.style\b", JS)


def test_ids_that_the_script_uses_are_there() -> None:
    """Each is there once."""
    ids = re.findall(r'\bid="([\w-]+)"', HTML)
    assert len(ids) == len(set(ids))
    graphs = {f"{name}{part}" for name in ("rate", "time", "lag") for part in ("", "-curve", "-most")}
    assert set(re.findall(r'\$\("([\w-]+)"\)', JS)) | graphs <= set(ids)
    assert set(re.findall(r'(?:aria-labelledby|aria-describedby|for)="([\w-]+)"', HTML)) <= set(ids)


def test_a_connection_that_is_ended_before_its_welcome_begins_is_forgotten() -> None:
    """The close of the port waited for it, for ever."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def make() -> asyncio.Protocol:
            loop.call_soon(lambda: [guest.end() for guest in door.guests])
            return asyncio.Protocol()

        door = Door(make)
        port = await door.open("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 60) == b""
        assert not door.guests
        await asyncio.wait_for(door.close(), 60)
        writer.close()

    asyncio.run(main())
