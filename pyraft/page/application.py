"""The HTTP of a node: routes, and who may use them.

Duty: GET /health, /ready, /metrics, /status (this member), /cluster (all members) and the page; POST /change has a
member lead, promoted, demoted or removed.

Happy path: `async with served(node, "127.0.0.1:8080", token):`.

Failure modes: a `Guard` refuses. 403 for a Host that is not one of the names given, so that no page of a stranger
reaches it by a name of its own that leads here; 401 without the token, where one is set. Changes are POST, need a token
that is set, and are refused when they come from another origin. An address that others can reach needs a token:
ValueError. 503 where the node has stopped, is not ready, or nobody could be asked; 409 for a change that was refused.
"""

import asyncio
import contextlib
import dataclasses
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from pyraft.node.errors import NodeError
from pyraft.node.link import split
from pyraft.node.node import Node
from pyraft.node.operate import Operator

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_FILES: Final = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}
_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_OPEN: Final = (*_FILES, "/health", "/ready")
"""Paths that tell nothing about the cluster, and need no token."""

_READY_SECONDS: Final = 2.0


class Guard:
    """The rules that tell those who may ask, and those who may change something, from others."""

    def __init__(self, token: str = "", names: Iterable[str] = ()) -> None:
        """`token` is what others have to know, "" for none; `names` are hosts under which it is reached."""
        self.token = token
        self.names = {*_LOOPBACK, *(name.lower() for name in names)}

    def refusal(self, method: str, path: str, headers: Any) -> tuple[int, str]:
        """Return the status of a refusal and its reason, (0, "") for none."""
        host = headers.get("Host", "")
        if _host_of(host) not in self.names:
            return 403, f"this is not {_host_of(host)[:100]!r}: name the host in --http-name"
        if method not in ("GET", "HEAD"):
            if not self.token:
                return 403, "changes need a token, and none is set"
            origin = headers.get("Origin", "")
            if headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or (
                origin and origin.partition("://")[2].lower() != host.lower()
            ):
                return 403, "changes from other pages are refused"
        if self.token and path not in _OPEN and not self._knows(headers.get("Authorization", "")):
            return 401, "the token is needed"
        return 0, ""

    def _knows(self, given: str) -> bool:
        wanted = f"Bearer {self.token}".encode()
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted)


def _host_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


class _Site:
    """The handlers for one node."""

    def __init__(self, node: Node[Any], guard: Guard) -> None:
        self._node = node
        self._guard = guard
        self._operator: Operator | None = None

    async def life(self, app: web.Application) -> AsyncIterator[None]:
        """Have a way to the members as long as the application runs."""
        async with Operator([self._node.address], tls=self._node._tls, seconds=5.0) as operator:
            self._operator = operator
            yield

    async def guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse or handle a request."""
        status, reason = self._guard.refusal(request.method, request.path, request.headers)
        if status:
            return web.json_response({"error": reason}, status=status, headers=_HEADERS)
        try:
            response = await handler(request)
        except NodeError as exc:
            response = web.json_response({"error": str(exc)}, status=409 if request.method == "POST" else 503)
        except web.HTTPException as exc:
            response = web.json_response({"error": exc.reason}, status=exc.status)
        response.headers.update(_HEADERS)
        return response

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Give out a part of the page."""
        path = Path(__file__).with_name(_FILES[request.path])
        return web.Response(text=path.read_text(), content_type=_TYPES[path.suffix], charset="utf-8")

    async def health(self, request: web.Request) -> web.StreamResponse:
        """Whether the process is worth keeping: 503 once the server has stopped by itself."""
        cause = self._node.server.raft.cause
        return web.json_response({"stopped": cause} if cause else {}, status=503 if cause else 200)

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """Whether this member has all that is acknowledged, so that it can serve."""
        with self._node.timeout(_READY_SECONDS):
            await self._node.ready()
        return web.json_response({})

    async def status(self, request: web.Request) -> web.StreamResponse:
        """This member."""
        return web.json_response(await self._node._desk.status())

    async def cluster(self, request: web.Request) -> web.StreamResponse:
        """All members, as they could be asked."""
        assert self._operator is not None
        survey = await self._operator.survey()
        leader = None if survey.leader is None else str(survey.leader.id)
        members = [dataclasses.asdict(one) for one in survey.members]
        for one in members:
            one["id"] = str(one["id"])  # JavaScript's numbers end before ids do
        return web.json_response({"cluster": survey.cluster, "leader": leader, "members": members})

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """The text for Prometheus."""
        try:
            from pyraft import metrics
        except ImportError:
            return web.json_response({"error": "prometheus_client is not installed"}, status=501)
        text = await metrics.render(metrics.of(self._node))
        return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def change(self, request: web.Request) -> web.StreamResponse:
        """Have a member lead, promoted, demoted or removed."""
        try:
            asked = await request.json()
            what, id = asked["change"], int(asked["member"])
        except (ValueError, KeyError, TypeError, json.JSONDecodeError):
            raise web.HTTPBadRequest(reason="a change and a member are needed") from None
        node = self._node
        changes: dict[str, Callable[[int], Awaitable[Any]]] = {
            "transfer": node.transfer,
            "promote": node.promote,
            "demote": node.demote,
            "remove": node.remove,
        }
        if what not in changes:
            raise web.HTTPBadRequest(reason="there is no such change")
        return web.json_response({"done": await changes[what](id)})


def application(node: Node[Any], guard: Guard | None = None) -> web.Application:
    """Return the application of a node that is started; it can be mounted in another one that guards it in its way."""
    site = _Site(node, guard or Guard())

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await site.guarded(request, handler)

    app = web.Application(middlewares=[guarded], client_max_size=64 * 1024)
    app.cleanup_ctx.append(site.life)
    for path in _FILES:
        app.router.add_get(path, site.file)
    for name in ("health", "ready", "status", "cluster", "metrics"):
        app.router.add_get(f"/{name}", getattr(site, name))
    app.router.add_post("/change", site.change)
    return app


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches HOST:PORT. Raises OSError if it is not of that form."""
    return split(address)[0] in _LOOPBACK


@contextlib.asynccontextmanager
async def served(node: Node[Any], address: str, token: str = "", names: Iterable[str] = ()) -> AsyncIterator[str]:
    """Serve the application at HOST:PORT in this block; yields the address, with the port that a 0 came to.

    Raises ValueError for an address that others can reach without a token, OSError if it cannot be listened at.
    """
    host, port = split(address)
    if not token and not is_loopback(address):
        raise ValueError(f"others can reach {address}: that needs a token")
    runner = web.AppRunner(application(node, Guard(token, [host, *names])), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield f"{address.rpartition(':')[0]}:{runner.addresses[0][1]}"
    finally:
        await asyncio.shield(runner.cleanup())
