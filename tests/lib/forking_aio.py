"""An asyncio program that forks beside its server: the child is a copy of a coroutine in a copy of a running loop.

`python -m tests.lib.forking_aio HOST HOW DIR`: HOST is asyncio or uvloop, whose loop the server is a guest of. The
child leaves the program, or goes on in the loop as one that has turned itself into a daemon, with a command under way
or from the start of the server on, while a thread reads its log. Prints what both saw, and
dies by SIGKILL.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from io_uv import pyuv
from io_uv.pyuv import forked
from pyraft import RaftApply, errors, raft_apply
from pyraft.aio import RaftError
from tests.integration.test_aio import Member
from tests.lib import ports

HOSTS = ("asyncio", "uvloop")
HOW = ("leaves", "goes on", "goes on from start")


async def answer(awaitable: Any) -> str:
    """Return what comes of an awaitable, within a minute."""
    try:
        await asyncio.wait_for(awaitable, 60)
    except RaftError as exc:
        return errors.raft_strerror(exc.code)
    except (asyncio.TimeoutError, TimeoutError):
        return "silence"
    return "done"


async def live(member: Member, under_way: "asyncio.Future[Any]", called_back: list[int], tell: int) -> None:
    """The child that goes on: ask everything, and tell."""
    server = member.server
    # asyncio forgets in a child that a loop is running, from Python 3.12 on.
    asyncio._set_running_loop(member.loop._former)
    said = {
        "under way": await answer(under_way),
        "apply": await answer(server.apply(b"in child")),
        "barrier": await answer(server.barrier()),
        "wait_leader": await answer(server.wait_leader()),
        "close": await answer(server.close()),
        "leads": str(server.is_leader),
        "sleeps": await answer(asyncio.sleep(0.01)),
        "called back": str(called_back),
    }
    os.write(tell, json.dumps(said).encode())


class UvloopPolicy(asyncio.DefaultEventLoopPolicy):
    """Gives asyncio.run a loop of the kind that pyuv has."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Return a uvloop."""
        inner = pyuv.Loop()
        made: asyncio.AbstractEventLoop = type(inner._uv)()
        inner.close()
        return made


async def main(how: str, dir: Path) -> None:
    """Fork with a command under way; see afterwards that the parent works as before."""
    told, tell = os.pipe()
    members = ports.free_addresses(1)
    member = Member(dir, 1, members[1])
    member.bootstrap(members)
    starting = asyncio.ensure_future(member.server.start())
    if how == "goes on from start":
        await asyncio.sleep(0)
        ports.let_go()
        child = os.fork()
        if child == 0:
            signal.alarm(250)
            await live(member, starting, [], tell)
            os._exit(0)
    await starting
    await member.server.wait_leader()
    done = [await member.server.apply(b"command1")]
    backend = forked.backend(asyncio.get_running_loop())
    assert backend is not None
    before = sorted(forked.watched(backend))
    # A command of a program that uses the core's own function beside.
    called_back: list[int] = []
    raft = member.server.raft
    assert raft_apply(raft, RaftApply(), [b"command1"], 1, lambda req, rv, result: called_back.append(result)) == 0
    under_way = asyncio.ensure_future(member.server.apply(b"command2"))
    await asyncio.sleep(0)
    if how != "goes on from start":
        ports.let_go()
        child = os.fork()
    if child == 0:
        signal.alarm(250)
        if how == "leaves":
            raise SystemExit(0)
        await live(member, under_way, called_back, tell)
        os._exit(0)
    if type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
        # Two processes that use one ring of libuv's at the same time may both be aborted (io_uv/README.md, Forks).
        ended = os.waitpid(child, 0)[1]
    else:
        ended = await asyncio.to_thread(lambda: os.waitpid(child, 0)[1])
    status = os.waitstatus_to_exitcode(ended)
    second = await asyncio.wait_for(under_way, 60)
    done += [*called_back, second]
    for _ in range(20):
        done.append(await asyncio.wait_for(member.server.apply(bytes(64 * 1024)), 60))
    said = json.loads(os.read(told, 10_000)) if how != "leaves" and status == 0 else {}
    missed = sorted(set(before) - set(forked.watched(backend)))
    print(json.dumps({"status": status, "done": done, "child": said, "missed": missed}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    host, how, dir = sys.argv[1:]
    if host == "uvloop":
        asyncio.set_event_loop_policy(UvloopPolicy())
    asyncio.run(main(how, Path(dir)))
