"""The HTTP of a node, or of a cluster that is watched from outside: routes, and what they answer.

Duty: GET /health, /ready, /metrics, /status (this member), /cluster (all members) and the page; POST /change has a
member added, led by, promoted, demoted or removed. Without a node there are only the page, /cluster and /health.

Happy path: `async with served(node, "127.0.0.1:8080", token):`, `async with watched(addresses, "127.0.0.1:8080"):`.

Failure modes: a `Guard` refuses what does not prove that it may ask, `Door` bounds what connections cost. An address
that others can reach needs a token, or certificates: ValueError. 503 where the node has stopped, is not ready, or no
member could be asked, and for a change that may yet be carried out; 409 for one that was refused; 500, and a traceback
in the log, for a mistake here.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from pyraft.errors import printable
from pyraft.node.deadlines import within
from pyraft.node.errors import NodeError, Refused
from pyraft.node.link import split
from pyraft.node.node import Node
from pyraft.node.operate import Operator, Survey
from pyraft.node.tls import Tls
from pyraft.page.door import Door
from pyraft.page.guard import NO_PROOF, Guard, is_everywhere, is_loopback
from pyraft.page.https import Https
from pyraft.page.lookout import Lookout, with_texts
from pyraft.page.probes import Probes

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_logger = logging.getLogger("pyraft")

_FILES: Final = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css", "/icon.svg": "icon.svg"}
_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "pyraft",
}
_MARK: Final = "PYRAFT_PAGE"
"""The place in the page for what tells it from the page of another version."""

_BODY_SECONDS: Final = 5.0
_CHANGE_SECONDS: Final = 10.0
_CHANGES: Final = ("transfer", "add", "promote", "demote", "remove")
DOOR: Final = web.AppKey("door", Door)


def _read() -> dict[str, str]:
    """Return the files of the page, by path: as they are now, whatever becomes of them while the process runs."""
    texts = {path: Path(__file__).with_name(name).read_text() for path, name in _FILES.items()}
    digest = hashlib.sha256("".join(texts.values()).encode()).hexdigest()[:16]
    return {path: text.replace(_MARK, digest) for path, text in texts.items()} | {_MARK: digest}


class _Site:
    """The handlers for one node, or for none."""

    def __init__(self, via: Sequence[str], guard: Guard, tls: Tls | None, node: Node[Any] | None) -> None:
        self._via = via
        self._guard = guard
        self._tls = tls
        self._node = node
        self._files = _read()
        self._probes = None if node is None else Probes(node)
        self._operator: Operator | None = None
        self._lookout: Lookout | None = None
        self.open: set[Handler] = set()
        """Handlers that tell nothing about the cluster, and need no proof."""

    async def life(self, app: web.Application) -> AsyncIterator[None]:
        """Have a way to the members as long as the application runs."""
        async with Operator(self._via, tls=self._tls, seconds=_CHANGE_SECONDS) as operator:
            self._operator = operator
            lookout = self._lookout = Lookout(operator, self._more)
            try:
                yield
            finally:
                await lookout.close()
                if self._probes is not None:
                    await self._probes.close()

    def route(self, app: web.Application) -> None:
        """Give an application its routes."""
        for path in _FILES:
            handler = self._file(path)
            self.open.add(handler)
            app.router.add_get(path, handler)
        app.router.add_get("/cluster", self.cluster)
        app.router.add_get("/health", self.health)
        self.open.add(self.health)
        if self._node is not None:
            app.router.add_get("/ready", self.ready)
            self.open.add(self.ready)
            app.router.add_get("/status", self.status)
            app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/change", self.change)

    async def guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse or handle a request."""
        is_open = request.match_info.handler in self.open
        status, reason = self._refusal(request, is_open)
        if status:
            return web.json_response({"error": printable(reason)}, status=status, headers=_HEADERS)
        door = request.app.get(DOOR)
        # Strangers, who may ask for what is open, never have a place for certain.
        with contextlib.nullcontext() if is_open or door is None else door.busy(request.transport):
            response = await _answered(request, handler)
        response.headers.update(_HEADERS)
        return response

    def _refusal(self, request: web.Request, is_open: bool) -> tuple[int, str]:
        certified = request.transport is not None and bool(request.transport.get_extra_info("peercert"))
        return self._guard.refusal(request.method, request.headers, is_open=is_open, certified=certified)

    def _file(self, path: str) -> Handler:
        text, kind = self._files[path], _TYPES[Path(_FILES[path]).suffix]

        async def file(request: web.Request) -> web.StreamResponse:
            return web.Response(text=text, content_type=kind, charset="utf-8")

        return file

    async def health(self, request: web.Request) -> web.StreamResponse:
        """Whether the process is worth keeping: 503 once the server has stopped by itself."""
        cause = "" if self._probes is None else self._probes.cause()
        if not cause:
            return web.json_response({})
        known = self._refusal(request, False)[0] == 0
        return web.json_response({"error": "it has stopped" + (f": {printable(cause)}" if known else "")}, status=503)

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """Whether this member has all that is acknowledged, and can take more, so that it can serve."""
        assert self._probes is not None
        reason = await self._probes.unready()
        return web.json_response({"error": reason} if reason else {}, status=503 if reason else 200)

    async def status(self, request: web.Request) -> web.StreamResponse:
        """This member, with ids as texts, as in /cluster."""
        assert self._node is not None
        return web.json_response(with_texts(await self._node._desk.status()))

    async def cluster(self, request: web.Request) -> web.StreamResponse:
        """All members, as they could be asked."""
        assert self._lookout is not None
        return web.Response(body=await self._lookout.view(), content_type="application/json")

    def _more(self, survey: Survey) -> dict[str, Any]:
        """Return what the page has to know of this end."""
        why = ""
        leader = None if survey.leader is None else survey.leader.status
        if not survey.cluster and not (leader is not None and leader.changes):
            why = "these servers use the C-style API: their program changes the members"
        elif not self._guard.asks_for_proof:
            why = NO_PROOF
        return {
            "here": None if self._node is None else str(self._node.id),
            "page": self._files[_MARK],
            "changes": [] if why else _CHANGES,
            "why": why,
        }

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """The text for Prometheus."""
        try:
            from pyraft import metrics
        except ImportError:
            return web.json_response({"error": "prometheus_client is not installed"}, status=501)
        assert self._node is not None
        text = await metrics.render(metrics.of(self._node))
        return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def change(self, request: web.Request) -> web.StreamResponse:
        """Have the leader change the members, or who leads."""
        assert self._operator is not None
        what, id, address = await _asked(request)
        operator = self._operator
        _logger.info("the page: %s of member %d is asked for from %s", what, id, request.remote)
        changes: dict[str, Callable[[int], Awaitable[Any]]] = {
            "transfer": operator.transfer,
            "add": lambda id: operator.add(id, address),
            "promote": operator.promote,
            "demote": operator.demote,
            "remove": operator.remove,
        }
        return web.json_response({"done": await changes[what](id)})


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return the answer to a request, what went wrong as one too."""
    try:
        return await handler(request)
    except NodeError as exc:
        status = 409 if isinstance(exc, Refused) and request.method == "POST" else 503
        return web.json_response({"error": printable(str(exc))}, status=status)
    except web.HTTPException as exc:
        return web.json_response({"error": exc.reason}, status=exc.status)
    except Exception:
        _logger.exception("a request for %s was not answered", request.path)
        return web.json_response({"error": "a mistake of this server: its log has it"}, status=500)


async def _asked(request: web.Request) -> tuple[str, int, str]:
    """Return the change that a request is for, the member's id and, for one that is added, its address."""
    try:
        asked = await within(request.json(), _BODY_SECONDS)
        what, id, address = str(asked["change"]), int(asked["member"]), str(asked.get("address", ""))
        if what == "add":
            split(address)
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason="the request did not come in time") from None
    except OSError:
        raise web.HTTPBadRequest(reason="the address is not of the form HOST:PORT") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        raise web.HTTPBadRequest(reason="a change and a member are needed") from None
    if what not in _CHANGES:
        raise web.HTTPBadRequest(reason="there is no such change")
    if not 0 < id < 1 << 64:
        raise web.HTTPBadRequest(reason="an id is a whole number above 0")
    return what, id, address


def application(node: Node[Any], guard: Guard | None = None) -> web.Application:
    """Return the application of a node that is started; it can be mounted in another one that guards it in its way."""
    return _application(_Site([node.address], guard or Guard(), node._tls, node))


def overlook(via: Sequence[str], guard: Guard | None = None, tls: Tls | None = None) -> web.Application:
    """Return the application that shows a cluster from outside; `via` are addresses of members, one at least."""
    return _application(_Site(via, guard or Guard(), tls, None))


def _application(site: _Site) -> web.Application:
    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await site.guarded(request, handler)

    app = web.Application(middlewares=[guarded], client_max_size=64 * 1024)
    app.cleanup_ctx.append(site.life)
    site.route(app)
    return app


@contextlib.asynccontextmanager
async def served(
    node: Node[Any], address: str, token: str = "", names: Iterable[str] = (), https: Https | None = None
) -> AsyncIterator[str]:
    """Serve a node's application at HOST:PORT in this block; yields the address, with the port that a 0 came to.

    Raises ValueError for an address that others can reach without a token or certificates, Refused for files of no
    use, OSError if it cannot be listened at.
    """
    names = list(names)
    guard = _guard(address, token, names, https)
    async with _listening(application(node, guard), address, https) as where:
        host, _, port = where.rpartition(":")
        if is_everywhere(split(where)[0]):
            host = names[0] if names else node.address.rpartition(":")[0]
        if not is_loopback(where) or is_loopback(node.address):  # elsewhere it leads to another machine's own
            node._desk.page = f"http{'s' if https else ''}://{host}:{port}/"
        if https is not None:
            node._desk.renewals.append(https.prepared)
        try:
            yield where
        finally:
            if https is not None:
                node._desk.renewals.remove(https.prepared)
            node._desk.page = ""


@contextlib.asynccontextmanager
async def watched(
    via: Sequence[str],
    address: str,
    token: str = "",
    names: Iterable[str] = (),
    https: Https | None = None,
    tls: Tls | None = None,
) -> AsyncIterator[str]:
    """Serve the page of a cluster at HOST:PORT, from a process beside the members: it outlives each of them.

    `via` are addresses of members, `tls` proves this end to them. Yields and raises as `served` does.
    """
    guard = _guard(address, token, names, https)
    async with _listening(overlook(via, guard, tls), address, https) as where:
        yield where


def _guard(address: str, token: str, names: Iterable[str], https: Https | None) -> Guard:
    certificates = https is not None and https.ca is not None
    if not token and not certificates and not is_loopback(address):
        raise ValueError(f"{address} can be reached from other machines: set a token, or ask visitors for certificates")
    return Guard(token, [split(address)[0], *names], certificates)


@contextlib.asynccontextmanager
async def _listening(app: web.Application, address: str, https: Https | None) -> AsyncIterator[str]:
    """Serve an application at HOST:PORT in this block; yields the address with its port."""
    secure = None if https is None else https.context()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    def make() -> asyncio.Protocol:
        assert runner.server is not None
        return runner.server()

    door = app[DOOR] = Door(make, secure)
    await runner.setup()
    if https is not None:
        https.users.append(door.renew)
    try:
        port = await door.open(*split(address))
        yield f"{address.rpartition(':')[0]}:{port}"
    finally:
        if https is not None:
            https.users.remove(door.renew)
        await asyncio.shield(_end(runner, door))


async def _end(runner: web.AppRunner, door: Door) -> None:
    await door.shut()
    await runner.cleanup()
    await door.close()
