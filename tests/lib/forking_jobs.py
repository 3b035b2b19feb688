"""A child that goes on in the copy of its parent's loop, and waits in it, while threads wake the parent.

`python -m tests.lib.forking_jobs HOST N`: HOST is asyncio or uvloop, whose loop a loop of ours is a guest of. The
parent has N jobs done in threads, one after the other. Prints how many came back.
"""

import asyncio
import json
import os
import signal
import sys

from io_uv import pyuv
from tests.lib.forking_aio import UvloopPolicy


async def main(jobs: int) -> None:
    """Fork, and do jobs beside the child."""
    running = asyncio.get_running_loop()
    guest = pyuv.Loop(running)
    await asyncio.sleep(0.01)  # in its first turn libuv has not registered what wakes it
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        asyncio._set_running_loop(running)
        while os.getppid() != 1:
            await asyncio.sleep(0.001)
        os._exit(0)
    done = 0
    try:
        for _ in range(jobs):
            await asyncio.wait_for(running.run_in_executor(None, int), 20)
            done += 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if done < jobs:
            signal.alarm(1)  # a job that nobody hears of keeps the program from ending
        print(json.dumps({"done": done}), flush=True)
    guest.close()


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        asyncio.set_event_loop_policy(UvloopPolicy())
    asyncio.run(main(int(sys.argv[2])))
