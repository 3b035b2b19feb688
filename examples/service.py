"""A web service on three members, which survives the loss of any of them.

    service.py DIR 9001:8001 9002:8002 9003:8003      starts all, a process for each RAFT-PORT:HTTP-PORT, in DIR/1, …
    service.py DIR 9004:8004 --via 127.0.0.1:9001     one more member, or a replacement, or one that was stopped

Each has PUT and GET /map/KEY (?ttl=SECONDS), POST /hits/CLIENT/NUMBER, which counts once, and GET /status.
"""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

from aiohttp import web

from pyraft.node import Machine, Node, init, join


async def job(node: Node[Machine]) -> None:
    while await node.counter("job").add():  # on one member at a time
        await asyncio.sleep(1)


def application(node: Node[Machine]) -> web.Application:
    values, hits, runs = node.map("values"), node.counter("hits"), node.counter("job")

    async def put(request: web.Request) -> web.Response:
        ttl = float(request.query["ttl"]) if "ttl" in request.query else None
        return web.json_response(await values.set(request.match_info["key"], await request.text(), ttl=ttl))

    async def get(request: web.Request) -> web.Response:
        return web.json_response(await values.get(request.match_info["key"]))

    async def hit(request: web.Request) -> web.Response:
        session = node.session(request.match_info["client"])
        return web.json_response(await session.call(int(request.match_info["number"]), hits.add))

    async def status(request: web.Request) -> web.Response:
        members = [[m.id, m.address, m.role, m.leads] for m in await node.members()]
        return web.json_response({"hits": await hits.get(), "job": await runs.get(), "members": members})

    app = web.Application()
    app.add_routes([web.put("/map/{key}", put), web.get("/map/{key}", get), web.post("/hits/{client}/{number}", hit)])
    app.add_routes([web.get("/status", status)])
    return app


async def member(directory: str, ports: str, via: list[str]) -> None:
    raft_port, http_port = ports.split(":")
    await join(directory, f"127.0.0.1:{raft_port}", *via)  # nothing, if it has before
    async with Node(directory, Machine()) as node:
        runner = web.AppRunner(application(node))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(http_port)).start()
        cron = asyncio.ensure_future(node.elect("job", lambda: job(node)))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, cron.cancel)
        await asyncio.wait([cron])
        await runner.cleanup()


def start(directory: Path, ports: list[str]) -> None:
    via = [f"127.0.0.1:{port.split(':')[0]}" for port in ports]
    if not directory.exists():  # only then: nobody begins a second cluster because its disk was lost
        asyncio.run(init(directory / "1", via[0]))
    command = [sys.executable, __file__]
    started = [subprocess.Popen([*command, f"{directory}/{n}", port, "--via", *via]) for n, port in enumerate(ports, 1)]
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: list(map(subprocess.Popen.terminate, started)))
    sys.exit(max(one.wait() for one in started))


match sys.argv[1:]:
    case [directory, port, "--via", *via]:
        asyncio.run(member(directory, port, via))
    case [directory, *ports] if ports:
        start(Path(directory), ports)
    case _:
        sys.exit(__doc__)
