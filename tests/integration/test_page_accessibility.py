"""The page as a screen reader has it: the accessibility tree that the browser makes of it.

Each control has a role and a name of its own, pictures have words, what changes is in a live region, and the keyboard
goes through the controls in the order of the tree.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the extra http is not installed")

from tests.integration.test_page_browser import pretended, shows, spread
from tests.lib import browser, nodes
from tests.lib.lookalikes import Members, member

pytestmark = pytest.mark.skipif(browser.is_missed(), reason="there is no chromium to look at the page with")

CONTROLS = ("button", "link", "textbox", "checkbox", "combobox", "menuitem")


class Tree:
    """The nodes of the accessibility tree that are not left out of it, in its order."""

    def __init__(self, found: list[dict[str, Any]]) -> None:
        self._by_id = {one["nodeId"]: one for one in found}
        (root,) = [one for one in found if "parentId" not in one]
        self.nodes = [one for one in self._walk(root) if not one["ignored"]]

    def _walk(self, node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for id in node.get("childIds", ()):
            if id in self._by_id:
                yield from self._walk(self._by_id[id])

    def of(self, *roles: str) -> list[dict[str, Any]]:
        """Return the nodes of these roles."""
        return [one for one in self.nodes if role(one) in roles]

    def under(self, node: dict[str, Any]) -> str:
        """Return all text below a node."""
        return " ".join(name(one) for one in self._walk(node) if role(one) == "StaticText")


def role(node: dict[str, Any]) -> str:
    """Return the role of a node."""
    return str(node.get("role", {}).get("value", ""))


def name(node: dict[str, Any]) -> str:
    """Return the name of a node, as it is read out."""
    return str(node.get("name", {}).get("value", ""))


def trait(node: dict[str, Any], what: str) -> Any:
    """Return a property of a node, None where it has none."""
    return next((one["value"]["value"] for one in node.get("properties", ()) if one["name"] == what), None)


async def tree(tab: browser.Page) -> Tree:
    """Return the tree as it is now."""
    return Tree((await tab.call("Accessibility.getFullAXTree"))["nodes"])


def focusable(found: Tree) -> list[str]:
    """Return roles and names of what the keyboard reaches, in the order of the tree."""
    reached = [one for one in found.nodes if trait(one, "focusable") and role(one) != "RootWebArea"]
    return [f"{role(one)} {name(one)}" for one in reached]


def test_each_control_and_picture_has_a_role_and_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two buttons are called the same; the table has heads, and there is a way through by headings."""

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, spread(3), "secret") as tab:
            await shows(tab, "rows.size === 3")
            found = await tree(tab)
            controls = found.of(*CONTROLS)
            assert len(controls) > 8
            assert [one for one in controls if not name(one).strip()] == []
            buttons = [name(one) for one in found.of("button")]
            assert len(set(buttons)) == len(buttons)
            assert sum("member-2.of-a-cluster" in one for one in buttons) == 4
            assert [one for one in found.of("image", "img", "graphics-document") if not name(one).strip()] == []
            assert [
                one for one in found.nodes if trait(one, "focusable") and role(one) in ("generic", "none", "")
            ] == []
            heads = [name(one) for one in found.of("columnheader")]
            assert heads[1:] == ["Member", "Role", "State", "Behind", "Log", "Snapshots", "Free", "Up", "Change"]
            assert len(found.of("row")) == 4
            assert [name(one) for one in found.of("table", "log")] == ["Members", "Since this page was opened"]
            assert {"Conditions", "What the shapes mean"} <= {name(one) for one in found.of("list")}
            pictures = [name(one) for one in found.of("image", "img", "graphics-document")]
            assert sum(one.startswith("now ") for one in pictures) == 3  # the graphs, each below a heading
            levels = [trait(one, "level") for one in found.of("heading")]
            assert levels[0] == 1
            assert levels.count(1) == 1
            assert set(levels) == {1, 2}
            assert len(found.of("main")) == 1
            assert {"Ring", "Members", "Conditions", "Since this page was opened"} <= {
                name(one) for one in found.of("region")
            }
            ring = next(one for one in found.nodes if name(one).startswith("Members in a ring"))
            assert "no answer" in name(ring)

    nodes.run(main)


def test_the_question_before_a_change_is_a_dialog_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its question is its name, what follows from it its description; the rest of the page is out of the way."""

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, spread(3), "secret") as tab:
            await shows(tab, "rows.size === 3")
            await tab.value("$('add').click()")
            await tab.until("$('ask').open")
            found = await tree(tab)
            (dialog,) = found.of("dialog")
            assert name(dialog)
            assert dialog.get("description", {}).get("value")
            assert trait(dialog, "modal")
            fields = [name(one) for one in found.of("textbox")]
            assert fields == ["Its id", "Its address"]
            assert [one for one in found.of("button") if not name(one)] == []
            assert found.of("table") == []

    nodes.run(main)


def test_changes_of_the_leader_are_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a status that is read out when it changes, and in a log; an error is an alert."""
    members = Members(*(member(i, 3) for i in (1, 2, 3)))

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, members) as tab:
            await shows(tab, "rows.size === 3")
            for said, summary, event in (
                ([member(i, 3, leader=0) for i in (1, 2, 3)], "Nobody leads", "nobody leads"),
                (
                    [member(i, 3, leader=2, term=9) for i in (1, 2, 3)],
                    "10.0.0.2:9001 leads in term 9",
                    "10.0.0.2:9001 leads in term 9",
                ),
            ):
                members.say(*said)
                await shows(tab, f"$('events').innerText.includes({event!r})")
                found = await tree(tab)
                (status,) = [one for one in found.of("status") if trait(one, "live") == "polite"][:1]
                assert found.under(status).startswith(summary)
                (log,) = found.of("log")
                assert (trait(log, "live"), name(log)) == ("polite", "Since this page was opened")
                assert event in found.under(log)
            await tab.value("window.fetch = () => Promise.reject(Error())")
            await shows(tab, "!$('notice').hidden")
            found = await tree(tab)
            alerts = [found.under(one) for one in found.of("alert") if trait(one, "live") == "assertive"]
            assert any("What you see is from" in one for one in alerts)

    nodes.run(main)


def test_the_keyboard_goes_in_the_order_of_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each control once, from the link that skips the head to the last button, and what has the focus has a name."""

    async def main() -> None:
        async with pretended(monkeypatch, tmp_path, spread(3), "secret") as tab:
            await shows(tab, "rows.size === 3")
            await tab.value("clearTimeout(timer), asking = true")  # nothing changes from here on
            before = await tree(tab)
            reached: list[str] = []
            for _ in range(len(before.nodes)):
                await tab.press("Tab")
                focused = [one for one in (await tree(tab)).nodes if trait(one, "focused")]
                focused = [one for one in focused if role(one) != "RootWebArea"]
                if not focused or (reached and f"{role(focused[0])} {name(focused[0])}" == reached[0]):
                    break
                reached.append(f"{role(focused[0])} {name(focused[0])}")
            jump = "heading Members"  # where the first link leads; the keyboard does not stop there
            assert reached == [one for one in focusable(before) if one != jump and "disabled" not in one]

    nodes.run(main)
