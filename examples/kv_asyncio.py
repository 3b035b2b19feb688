"""The key-value store of kv.py inside a running asyncio program: here one that serves it over TCP.

    kv_asyncio.py DIR ID 1=HOST:PORT,2=HOST:PORT,… SERVICE_PORT --new  then for instance: nc 127.0.0.1 SERVICE_PORT

The same lines as kv.py, on any number of connections; each answers in order. `set` and `del` wait until the command is
committed. A server that does not lead says who does. Ctrl-C stops. `--new` is for the first start only.
"""

import asyncio
import contextlib
import signal
import sys
from typing import Any

from kv import EMPTY, Store, encode

import io_uv
import pyraft
from io_uv import pyuv
from pyraft import aio


class Service:
    """One program's use of one raft server."""

    def __init__(self, dir: str, id: int, members: dict[int, str], new: bool) -> None:
        self.dir = dir
        # The pyuv loop wraps the asyncio loop that is running: no thread, no second loop.
        self.loop = pyuv.Loop(asyncio.get_running_loop())
        self.transport = io_uv.RaftUvTransport()
        self.io = pyraft.RaftIo()
        self.store = Store()
        self.tcp: asyncio.Server | None = None
        self.connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        for rv in (
            io_uv.raft_uv_tcp_init(self.transport, self.loop),
            io_uv.raft_uv_init(self.io, self.loop, dir, self.transport),
        ):
            if rv != 0:
                raise aio.RaftError(rv, self.io.errmsg)
        self.server = aio.Server(self.io, self.store, id, members[id])
        pyraft.raft_set_pre_vote(self.server.raft, True)
        pyraft.raft_set_snapshot_threshold(self.server.raft, 1000)
        if new:
            self.bootstrap(members)

    def bootstrap(self, members: dict[int, str]) -> None:
        conf = pyraft.RaftConfiguration()
        for id, address in members.items():
            rv = pyraft.raft_configuration_add(conf, id, address, pyraft.RAFT_VOTER)
            if rv != 0:
                raise aio.RaftError(rv)
        self.server.bootstrap(conf)

    async def start(self, port: int) -> int:
        """Take part, and serve; return the port."""
        await self.server.start()
        if pyraft.raft_last_index(self.server.raft) == 0:  # in the turn of the start, so it has not taken part yet
            sys.exit(f"{self.dir} is empty: {EMPTY}")
        self.tcp = await asyncio.start_server(self.connected, "127.0.0.1", port)
        return int(self.tcp.sockets[0].getsockname()[1])

    async def close(self) -> None:
        # Clients may stay for as long as they like: wait for none of them.
        if self.tcp is not None:
            self.tcp.close()
        for task, writer in self.connections.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*self.connections, return_exceptions=True)
        await self.server.close()
        io_uv.raft_uv_close(self.io)
        io_uv.raft_uv_tcp_close(self.transport)
        self.loop.close()

    async def answer(self, words: list[str]) -> str:
        match words:
            case ["set", key, value]:
                return f"was {await self.submit(['set', key, value])!r}"
            case ["del", key]:
                return f"was {await self.submit(['del', key])!r}"
            case ["get", key]:
                return repr(self.store.content.get(key))
            case ["leader"]:
                return str(await self.server.wait_leader())
            case _:
                return "set KEY VALUE | del KEY | get KEY | leader"

    async def submit(self, command: list[Any]) -> Any:
        return await self.server.apply(encode(command))

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self.serve(reader, writer))
        self.connections[task] = writer
        task.add_done_callback(self.connections.pop)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            async for line in reader:
                try:
                    text = await self.answer(line.decode().split())
                except aio.RaftError as exc:
                    text = f"{exc.message} ({exc.code}); the leader is {self.server.leader}"
                writer.write(text.encode() + b"\n")
                await writer.drain()
            writer.close()
            await writer.wait_closed()


async def main() -> None:
    if len(sys.argv) not in (5, 6) or sys.argv[5:] not in ([], ["--new"]):
        sys.exit("usage: kv_asyncio.py DIR ID 1=HOST:PORT,2=HOST:PORT,… SERVICE_PORT [--new]")
    members = {int(id): address for id, _, address in (item.partition("=") for item in sys.argv[3].split(","))}
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    service = Service(sys.argv[1], int(sys.argv[2]), members, sys.argv[5:] == ["--new"])
    try:
        print(f"serving on port {await service.start(int(sys.argv[4]))}", flush=True)
        await stop.wait()
    finally:
        await service.close()


if __name__ == "__main__":
    asyncio.run(main())
