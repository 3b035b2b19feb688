"""A chromium without a screen, driven over its DevTools protocol: pages as a person's browser shows them.

Duty: `browser` starts one on a directory of its own; `Page` loads an address, evaluates expressions, takes pictures.

Failure modes: where there is no chromium `find` returns None, and tests skip; one that does not start is an error.
"""

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    """Return the path of a chromium, None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def is_missed() -> bool:
    """Return whether tests that need one skip, as there is none. In continuous integration they fail instead."""
    return find() is None and os.environ.get("CI") != "true"


class Left(Exception):
    """The page was left for another one while it was asked."""


_LEFT = ("Inspected target navigated or closed", "Execution context was destroyed.")


class Page:
    """One tab."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol. Raises Left if another page takes the place of this one meanwhile."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == number:
                if "error" in answer and answer["error"]["message"] in _LEFT:
                    raise Left
                assert "error" not in answer, answer
                return answer["result"]

    async def go(self, address: str) -> None:
        """Load a page."""
        await self.call("Page.enable")
        await self.call("Page.navigate", url=address)

    async def value(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str, seconds: float = 120) -> None:
        """Wait until an expression is true, if need be on a page that takes the place of this one."""

        async def poll() -> None:
            while True:
                with contextlib.suppress(Left):
                    if await self.value(expression):
                        return
                await asyncio.sleep(0.05)

        try:
            await asyncio.wait_for(poll(), seconds)
        except (asyncio.TimeoutError, TimeoutError):
            raise AssertionError(f"{expression} is not true: {await self.value('document.body.innerText')}") from None

    async def resize(self, width: int, height: int, scheme: str = "light", *, still: bool = False) -> None:
        """Have a window of that size, light or dark; `still` for somebody who wants nothing to move."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        media = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce" if still else "no-preference"}
        await self.call(
            "Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in media.items()]
        )

    async def press(self, key: str) -> None:
        """Press a key, by its name in JavaScript."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        text = {"text": "\r"} if key == "Enter" else {}
        more = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **more, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **more)

    async def picture(self, path: Path, width: int, height: int, scheme: str = "light", *, whole: bool = False) -> None:
        """Write what is seen in a window of that size to a PNG file, `whole` with what is below it."""
        await self.resize(width, height, scheme)
        found = await self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.asynccontextmanager
async def browser(directory: Path, inside: Sequence[str] = ()) -> AsyncIterator[Page]:
    """Yield a page of a browser that ends with the block; its profile and home are in `directory`.

    `inside` is a command that runs the one behind it, the browser, somewhere else.
    """
    program = find()
    assert program is not None, f"there is none of {', '.join(NAMES)}"
    port_file = directory / "DevToolsActivePort"
    process = await asyncio.create_subprocess_exec(
        *inside,
        program,
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
        f"--user-data-dir={directory}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": str(directory)},
        start_new_session=True,
    )
    try:
        while not port_file.exists() or "\n" not in port_file.read_text():
            assert process.returncode is None, "the browser has ended"
            await asyncio.sleep(0.05)
        port = port_file.read_text().split("\n")[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                (target, *_) = [one for one in await answer.json() if one["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        await process.wait()
