"""The HTTP of a node: what it tells and to whom, and what it changes."""

import asyncio
import contextlib
import errno
import json
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the extra http is not installed")

import aiohttp

from io_uv import health
from pyraft import log, page
from pyraft.node import Node, NodeError, Refused, Settings, Tls, command, init, join
from pyraft.node.outside import Outside
from pyraft.page import door
from tests.integration.test_command_clusters import MORTAL, Shell, on
from tests.lib import faults, nodes
from tests.lib.nodes import QUICK, Nodes, Shop, until
from tests.lib.tlstest import Authority
from tests.lib.uvnode import free_addresses

TOKEN = "a token of a test"
JSON = {"Content-Type": "application/json"}
KNOWN = {**JSON, "Authorization": f"Bearer {TOKEN}"}

# Before 3.11 asyncio warns of what it had prepared itself for a handshake that then failed.
unclosed_by_asyncio = pytest.mark.filterwarnings(
    *["ignore:unclosed transport <asyncio.sslproto:ResourceWarning"] if sys.version_info < (3, 11) else []
)


@contextlib.asynccontextmanager
async def site(node: Node[Any], token: str = "") -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Serve a node, and yield a session and the address."""
    async with page.served(node, "127.0.0.1:0", token) as where, aiohttp.ClientSession() as session:
        yield session, f"http://{where}"


async def get(session: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, Any]:
    """Return status and content of an answer."""
    async with session.get(url, headers=headers) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        is_json = answer.content_type == "application/json"
        return answer.status, await answer.json() if is_json else await answer.text()


async def post(session: aiohttp.ClientSession, url: str, asked: Any, **headers: str) -> tuple[int, Any]:
    """Return status and content of the answer to a change."""
    async with session.post(f"{url}/change", data=json.dumps(asked), headers=headers or KNOWN) as answer:
        return answer.status, await answer.json()


def test_what_is_told(tmp_path: Path) -> None:
    """The member, the cluster with names and conditions, and the page, which begins with the version that it is of."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        node = cluster.nodes[1]
        await node._registry.tell(node.id, "shop-1", "1.2", b"\xc0", node._admission.offers)
        await node.machine.put("apple")
        async with site(node) as (session, url):
            status, found = await get(session, f"{url}/status")
            assert (status, found["id"], found["machine"], found["page"]) == (200, str(node.id), "Shop", f"{url}/")
            ids = {str(one.id) for one in cluster.nodes.values()}
            assert {row[0] for row in found["members"]} == ids
            assert {found["leader"], *(row[0] for row in found["links"] + found["matches"])} <= ids
            assert {row[1] for row in found["visitors"]} <= {*ids, "0"}
            status, found = await get(session, f"{url}/cluster")
            assert (status, found["leader"], found["here"]) == (200, str(cluster.leader().id), str(node.id))
            assert {one["address"] for one in found["members"]} == {n.address for n in cluster.nodes.values()}
            names = {one["id"]: one["name"] for one in found["members"]}
            assert names[str(node.id)] == "shop-1"
            assert {one["name"]: one["ok"] for one in found["conditions"]} | {"quorum": True}
            (led,) = [one["status"] for one in found["members"] if one["id"] == found["leader"]]
            assert len(led["commit_counts"]) == len(led["write_counts"]) == len(found["bounds"]) + 1
            assert sum(led["commit_counts"]) > 0
            assert sum(led["write_counts"]) > 0
            assert (found["changes"], "a token" in found["why"]) == ([], True)
            status, text = await get(session, f"{url}/")
            assert (status, f'content="{found["page"]}"' in text) == (200, True)
            assert (await get(session, f"{url}/nothing"))[0] == 404
            status, text = await get(session, f"{url}/metrics")
            assert status == 501 or "pyraft_is_leader" in text
        assert (await node._desk.status())["page"] == ""

    on(2, tmp_path, scenario)


def test_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is alive unless a restart would mend it, and ready with all that is acknowledged, a disk, and a leader."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        node = cluster.followers()[0]
        (number,) = [n for n, one in cluster.nodes.items() if one is node]
        async with site(node, TOKEN) as (session, url):

            async def probed() -> tuple[int, int, str]:
                health = await get(session, f"{url}/health")
                status, found = await get(session, f"{url}/ready")
                return health[0], status, found.get("error", "")

            assert await probed() == (200, 200, "")
            async with node._closing:  # as long as it hands over, it could answer all the same
                assert await probed() == (200, 503, "it is shutting down")
            assert await probed() == (200, 200, "")
            sick = faults.Faults(monkeypatch, tmp_path / str(number))
            sick.begin(faults.always(errno.EIO, "pwrite", "write", "aio"))
            await cluster.leader().machine.put("apple")
            await until(lambda: health.ailment(node.server.io))
            assert await probed() == (200, 503, "its disk does not take entries")
            sick.heal()
            node.server.io.impl.calm = 1000  # as if seconds had passed without a failure
            await until(lambda: not health.ailment(node.server.io))
            assert await probed() == (200, 200, "")
            for other in [n for n in cluster.nodes if n != number]:
                await cluster.vanish(other)
            await until(lambda: not node.leader[0])
            assert await probed() == (200, 503, "no answer in time: nobody leads, or it is behind")
            closing = asyncio.ensure_future(node.close())
            await asyncio.sleep(0)
            assert await probed() == (200, 503, "it is shutting down")
            await closing
            assert await probed() == (200, 503, "it is shutting down")

    on(3, tmp_path, scenario, MORTAL)


class Slow(Outside):
    """A node's outside whose disk takes a leader's snapshot when the test lets it."""

    def __init__(self) -> None:
        self.held: list[Callable[[], int]] = []

    def ground(self, directory: Any, tls: Tls | None) -> Any:
        """Return the ground, with its I/O changed."""
        ground = super().ground(directory, tls)
        put = ground.io.snapshot_put

        def later(*arguments: Any) -> int:
            self.held.append(lambda: put(*arguments))
            return 0

        ground.io.snapshot_put = later
        return ground


def test_a_member_that_installs_a_snapshot_is_alive_and_not_ready(tmp_path: Path) -> None:
    """It is not ready until it has it; its disk takes its time here."""
    small = Settings(heartbeat_msecs=50, election_timeout_msecs=10_000, snapshot_entries=8, trailing_entries=0)

    async def main() -> None:
        async with Nodes(tmp_path, settings=small) as cluster:
            first = await cluster.start(1)
            await until(lambda: first.is_leader)
            for i in range(40):
                await first.machine.note(str(i))
            await until(lambda: log.snapshot_index(first.server.raft.log) > 0)
            await join(tmp_path / "2", cluster.addresses[2], first.address)
            node = Node(tmp_path / "2", Shop(), settings=small)
            outside = node.outside = Slow()
            cluster.nodes[2] = node
            await node.__aenter__()
            async with site(node) as (session, url):
                await until(lambda: outside.held)
                status, found = await get(session, f"{url}/ready")
                assert (status, found) == (503, {"error": "it installs a snapshot of the leader's"})
                assert (await get(session, f"{url}/health"))[0] == 200
                assert outside.held.pop()() == 0
                await until(lambda: cluster.roles(node) == ["voter"] * 2)
                assert await get(session, f"{url}/ready") == (200, {})

    nodes.run(main)


class Bomb(Shop):
    """A machine with a command that no server survives."""

    @command
    def explode(self) -> None:
        """Have too little memory."""
        raise MemoryError("nothing left")


def test_a_server_that_has_stopped_by_itself(tmp_path: Path) -> None:
    """Its process wants a restart; the reason is for those who may look."""

    async def main() -> None:
        await init(tmp_path / "1", free_addresses(1)[1])
        node = Node(tmp_path / "1", Bomb(), settings=QUICK)
        async with node, site(node, TOKEN) as (session, url):
            with contextlib.suppress(NodeError), node.timeout(5):
                await node.machine.explode()
            await until(lambda: node.server.raft.cause)
            assert await get(session, f"{url}/health") == (503, {"error": "it has stopped"})
            status, found = await get(session, f"{url}/health", **KNOWN)
            assert (status, "nothing left" in found["error"]) == (503, True)
            assert await get(session, f"{url}/ready") == (503, {"error": "it has stopped"})

    nodes.run(main)


def test_who_is_refused(tmp_path: Path) -> None:
    """Names of others, those without the token, changes by GET, from other origins, and where no token is set."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        node = cluster.nodes[1]
        other = next(one for one in cluster.nodes.values() if one is not node)
        change = {"change": "transfer", "member": str(other.id)}
        async with site(node) as (session, url):
            for path in ("", "status", "health", "ready", "cluster"):
                assert (await get(session, f"{url}/{path}", Host="evil.example"))[0] == 403
            assert (await post(session, url, change))[0] == 403  # no token is set
        async with site(node, TOKEN) as (session, url):
            for path in ("status", "cluster", "metrics"):
                assert (await get(session, f"{url}/{path}"))[0] == 401
                for word in ("wrong", TOKEN[:-1], "", "é", "\udcff"):
                    assert (await get(session, f"{url}/{path}", Authorization=f"Bearer {word}"))[0] == 401
            assert (await get(session, f"{url}/status", **KNOWN))[0] == 200
            for path in ("", "health", "ready", "page.js", "page.css", "icon.svg"):
                assert (await get(session, f"{url}/{path}"))[0] == 200
            before = node.server.raft.current_term
            for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
                for path in ("change", f"change?change=transfer&member={other.id}", "cluster", ""):
                    async with session.request(method, f"{url}/{path}", headers=KNOWN, json=change) as answer:
                        assert answer.status == 405 or (method in ("GET", "HEAD") and answer.status == 200)
                        assert "Access-Control-Allow-Origin" not in answer.headers
            assert (await post(session, url, change, **JSON))[0] == 401
            assert (await post(session, url, change, **{**KNOWN, "Origin": "http://evil.example"}))[0] == 403
            assert (await post(session, url, change, **{**KNOWN, "Sec-Fetch-Site": "cross-site"}))[0] == 403
            assert (await post(session, url, change, **{**KNOWN, "Host": "evil.example"}))[0] == 403
            assert (await post(session, url, change, **{**KNOWN, "Content-Type": "text/plain"}))[0] == 415
            assert node.server.raft.current_term == before
        for address in ("0.0.0.0:0", "[::]:0"):
            with pytest.raises(ValueError, match="set a token, or ask visitors for certificates"):
                async with page.served(node, address):
                    pass

    on(2, tmp_path, scenario)


def test_changes(tmp_path: Path) -> None:
    """A member is added, promoted, demoted, removed, and leads; and bad requests are refused, each with its reason."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        leader = cluster.leader()
        other = cluster.followers()[0]
        async with site(cluster.nodes[1], TOKEN) as (session, url):

            async def change(what: str, id: int, **more: str) -> tuple[int, Any]:
                return await post(session, url, {"change": what, "member": str(id), **more}, **KNOWN, Origin=url)

            assert await change("demote", other.id) == (200, {"done": None})
            await until(lambda: cluster.roles(leader).count("standby") == 1)
            assert await change("promote", other.id) == (200, {"done": "voter"})
            assert await change("transfer", other.id) == (200, {"done": other.id})
            assert cluster.leader() is other
            assert await change("add", 7, address=cluster.addresses[7]) == (200, {"done": None})
            await until(lambda: cluster.roles(other) == ["voter", "voter", "spare"])
            assert await change("remove", 7) == (200, {"done": None})
            await until(lambda: cluster.roles(other) == ["voter"] * 2)
            status, found = await change("demote", 1)
            assert (status, "is not a member" in found["error"]) == (409, True)
            status, found = await change("add", 7, address=other.address)
            assert (status, f"is server {other.id}" in found["error"]) == (409, True)
            asked: Any
            for asked in (
                *({"change": "explode", "member": "1"}, {"change": "remove"}, [], None, 7, "x", {"change": []}),
                *({"change": [], "member": "1"}, {"change": "remove", "member": float("inf")}),
                {"change": "remove", "member": [1]},
                *(
                    {"change": "remove", "member": "x"},
                    {"change": "remove", "member": "0"},
                    {"change": "add", "member": 7},
                ),
                *({"change": "remove", "member": -1}, {"change": "remove", "member": 1 << 64}),
                *({"change": "add", "member": 7, "address": text} for text in ("x", "", "a:99999", 7, None)),
            ):
                assert (await post(session, url, asked))[0] == 400, asked
            for data in (b"[" * 60_000, b"", b"\xff"):
                async with session.post(f"{url}/change", data=data, headers=KNOWN) as answer:
                    assert answer.status == 400, data[:100]
            strange = {**KNOWN, "Content-Type": "application/json; charset=none"}
            async with session.post(f"{url}/change", data=b"{}", headers=strange) as answer:
                assert answer.status == 400
            async with session.post(f"{url}/change", data=b"x" * 70_000, headers=KNOWN) as answer:
                assert answer.status == 413

    on(2, tmp_path, scenario)


@unclosed_by_asyncio
def test_over_tls_with_certificates_of_those_who_ask(tmp_path: Path) -> None:
    """A certificate of the authority is a proof, at an address that others reach; none gets the probes and no more.

    One of another authority does not get through the handshake.
    """
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    cert, key = authority.issue("page", "127.0.0.1")

    def context(own: tuple[Path, Path] | None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(authority.path))
        if own is not None:
            made.load_cert_chain(*own)
        return made

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        node = cluster.nodes[1]
        https = page.Https(cert, key, authority.path)
        async with page.served(node, "0.0.0.0:0", https=https) as where, aiohttp.ClientSession() as session:
            url = f"https://127.0.0.1:{where.rpartition(':')[2]}"
            assert (await node._desk.status())["page"] == f"{url}/"

            async def ask(own: tuple[Path, Path] | None, path: str, **options: Any) -> int:
                method = "POST" if options else "GET"
                async with session.request(method, f"{url}/{path}", ssl=context(own), **options) as answer:
                    return answer.status

            operator = authority.issue("operator", "operator.example")
            assert [await ask(operator, path) for path in ("", "status", "cluster", "health")] == [200] * 4
            assert [await ask(None, path) for path in ("", "health", "ready", "page.js")] == [200] * 4
            assert [await ask(None, path) for path in ("status", "cluster", "metrics")] == [401] * 3
            remove = {"json": {"change": "remove", "member": "7"}}
            assert await ask(operator, "change", **remove) == 200
            assert await ask(None, "change", **remove) == 401
            assert await ask(operator, "change", **remove, headers={"Origin": "https://evil.example"}) == 403
            with pytest.raises(aiohttp.ClientError):
                await ask(other.issue("stranger", "operator.example"), "health")
        for wrong in (page.Https(cert, other.path), page.Https(cert, key, key), page.Https(tmp_path / "no", key)):
            with pytest.raises(Refused, match=r"load (a certificate|authorities) from"):
                async with page.served(node, "127.0.0.1:0", https=wrong):
                    pass
        with pytest.raises(ValueError, match="set a token"):
            async with page.served(node, "0.0.0.0:0", https=page.Https(cert, key)):
                pass
        revoked = authority.issue("revoked", "operator.example")
        crl = tmp_path / "lists.pem"
        crl.write_bytes(authority.revocations(revoked[0]))
        https = page.Https(cert, key, authority.path, crl)
        async with page.served(node, "127.0.0.1:0", https=https) as where, aiohttp.ClientSession() as session:
            url = f"https://{where}"
            assert await ask(operator, "status") == 200
            with pytest.raises(aiohttp.ClientError):
                await ask(revoked, "status")

    on(1, tmp_path / "data", scenario)


@unclosed_by_asyncio
def test_renewed_files_of_the_page_are_taken(tmp_path: Path) -> None:
    """New connections meet them while it runs, those of before end, so that a revoked one is out.

    Without files that are of use all stays, connections too.
    """
    authority, newer = Authority(tmp_path), Authority(tmp_path, "newer")
    cert, key = authority.issue("page", "127.0.0.1")
    lists = tmp_path / "lists.pem"
    lists.write_bytes(authority.revocations())
    operator = authority.issue("operator", "operator.example")

    def context(trusted: Authority) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(trusted.path))
        made.load_cert_chain(*operator)
        return made

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        node = cluster.nodes[1]
        with pytest.raises(Refused, match="uses no certificates"):
            node.reload_certificates()
        https = page.Https(cert, key, authority.path, lists)
        async with page.served(node, "127.0.0.1:0", https=https) as where:
            session = aiohttp.ClientSession()
            url = f"https://{where}/status"
            old = context(authority)
            reader, writer = await asyncio.open_connection(*where.split(":"), ssl=old)
            kept = cert.read_bytes()
            cert.write_text("none")
            with pytest.raises(Refused, match="load a certificate from"):
                node.reload_certificates()
            cert.write_bytes(kept)
            writer.write(f"GET /health HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            newer.issue("page", "127.0.0.1")  # in the place of the old files
            lists.write_bytes(authority.revocations(operator[0]))
            node.reload_certificates()
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), door.IDLE_SECONDS / 2)  # up to its end
            writer.close()
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(url, ssl=old)
            with pytest.raises(aiohttp.ClientError):  # revoked
                await session.get(url, ssl=context(newer))
            lists.write_bytes(authority.revocations())
            https.renew()
            async with session.get(url, ssl=context(newer)) as answer:
                assert answer.status == 200
            await session.close()
        assert (https.users, node._desk.renewals) == ([], [])

    on(1, tmp_path / "data", scenario)


def test_a_cluster_is_watched_on_a_page(tmp_path: Path) -> None:
    """A process beside it shows the page until Ctrl-C, at this machine only, and nobody changes anything there."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        result = await pyraft("watch", "--http", "0.0.0.0:0")
        assert (result.exit_code, "for this one only" in result.output) == (2, True)
        words = ("watch", "--http", "127.0.0.1:0", "--via", cluster.addresses[1], "--json")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "faulthandler", "-m", "pyraft", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            url = json.loads(await process.stdout.readline())["page"].rstrip("/")
            async with aiohttp.ClientSession() as session:
                status, found = await get(session, f"{url}/cluster")
                assert (status, found["leader"], found["here"]) == (200, str(cluster.leader().id), None)
                assert (await get(session, f"{url}/health"))[0] == 200
                for path in ("status", "ready", "metrics"):
                    assert (await get(session, f"{url}/{path}"))[0] == 404
                assert (await post(session, url, {"change": "remove", "member": "7"}))[0] == 403
            process.send_signal(signal.SIGINT)
            ended = asyncio.create_task(process.communicate())
            if not (await asyncio.wait([ended], timeout=120))[0]:
                process.send_signal(signal.SIGABRT)  # It writes down where it is.
            more, err = await ended
            assert (process.returncode, more.decode(), err.decode()) == (0, "", "")
        finally:
            if process.returncode is None:  # the test has failed
                process.kill()
                await process.wait()

    on(1, tmp_path, scenario)
