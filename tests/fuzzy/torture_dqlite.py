"""Two nodes of go-dqlite and a witness of ours, SIGKILL at random moments under load from both kinds of clients.

    python -m tests.fuzzy.torture_dqlite [--kills 30] [--nodes 3] [--seed SEED]

Duty: nodes are killed (one, two, all) and started again while database/sql with go-dqlite's driver inserts rows and
this project's client inserts rows and works on registers. In the end, after all were killed at once, every row that was
acknowledged is there, those of ours once and none that was refused, all nodes have the same pages, which are sound, and
the history of the registers is linearizable. Of five nodes three are Go's, and one of ours is a witness, one a voter
that joined as a stand-by.

Happy path: a line per ten kills, and the figures at the end. Failure modes: AssertionError; the directory is kept and
named. Without Go or libdqlite it says so and returns 0. The seed repeats the choices, not the timing.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path

from io_uv.dqlite import responses
from pyraft.dqlite import Cluster as Admin
from tests.interop.dqlite.driver import Cluster, Lines, build
from tests.interop.dqlite.load import Load
from tests.lib import never_said
from tests.lib.kept import kept_if_failed
from tests.lib.ports import let_go

GO_ROWS = 20
"""Rows that database/sql inserts between two kills."""


def found(both: Cluster, n: int) -> None:
    """Start a cluster of `n` nodes, all of them voters."""
    go = [both.go() for _ in range(n - n // 3 if n < 5 else n - 2)]
    for node in go:
        node.start()
    client = both.client()
    for node in go[1:]:
        client.ask(f"add {node.id} {node.address}")
        client.ask(f"assign {node.id} 0")
    both.python().start()
    if n == 5:
        other = both.python("standby", "--any-role")
        other.start()
        client.ask(f"assign {other.id} {responses.VOTER}")
    client.end()


async def torture(both: Cluster, kills: int, seed: int) -> Load:
    """Kill so many times; return what the clients saw."""
    dice = random.Random(f"{seed} kills")
    load = Load(both, 6, seed)
    loop = asyncio.get_running_loop()
    done = 0
    async with load:
        go = both.client()
        while done < kills:
            await load.until(dice.randint(5, 60))
            _go_on(load, go)
            victims = dice.sample(both.nodes, dice.choice((1, 1, 1, 2, len(both.nodes))))
            for node in victims:
                node.kill()
            done += len(victims)
            load.counts["kills"] += len(victims)
            if len(victims) == 1 and dice.random() < 0.5:
                await load.until(dice.randint(1, 20))
            await asyncio.gather(*[loop.run_in_executor(None, node.start) for node in victims])
            if done % 10 < len(victims):
                print(f"{done} kills, {dict(load.counts)}", flush=True)
                hear(both)
        await load.until(20)
    await loop.run_in_executor(None, go.read, 120)
    load.counts["rows of database/sql"] += GO_ROWS
    return load


def _go_on(load: Load, go: Lines) -> None:
    """Have database/sql insert further rows, unless it is still at the last ones."""
    if load.counts["loads of database/sql"] and not go.has_answered():
        return
    if load.counts["loads of database/sql"]:
        load.counts["errors of database/sql"] += int(go.read())
        load.counts["rows of database/sql"] += GO_ROWS
    load.counts["loads of database/sql"] += 1
    go.send(f"load {GO_ROWS} insert into t(b) values('load {load.counts['loads of database/sql']}-' || ?)")


def judge(both: Cluster, load: Load, folder: Path) -> Counter[str]:
    """Kill all, start them again, and see that everything is there."""
    for node in both.nodes:
        node.kill()
    for node in both.nodes:
        node.start()
    asyncio.run(Admin([one.address for one in both.nodes], timeout_seconds=60).leader())
    client = both.client()
    client.ask("exec insert into t(b) values('load last')")
    content = both.until_equal(both.nodes)
    load.judge(content, folder)
    rows = int(client.ask("query select count(distinct b) from t where b like 'load %'"))
    assert rows == load.counts["rows of database/sql"] + 1, f"{rows} of database/sql, {dict(load.counts)}"
    hear(both)
    load.counts["operations on registers"] = len(load.operations)
    load.counts["rows of ours"] = len(load.done)
    return load.counts


def hear(both: Cluster) -> None:
    """See that none of our nodes has said what it never should. Of go-dqlite's words others are the judges."""
    logs = [node.dir.with_suffix(".log") for node in both.nodes if node.ours]
    never_said.check([log for log in logs if log.exists()])


def run(program: Path, dir: Path, kills: int, nodes: int, seed: int) -> Counter[str]:
    """Make a cluster in a directory, kill its nodes, and judge."""
    both = Cluster(program, dir, threshold=64, trailing=64)
    try:
        found(both, nodes)
        return judge(both, asyncio.run(torture(both, kills, seed)), dir)
    finally:
        both.close()
        let_go()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--nodes", type=int, choices=(3, 5), default=3)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with kept_if_failed("torture-dqlite-", args.seed) as dir:
        if problem := build(dir / "peer"):
            print(f"dqlite is left out: {problem}")
            return 0
        began = time.monotonic()
        counts = run(dir / "peer", dir, args.kills, args.nodes, args.seed)
    print(f"{dict(counts)} in {time.monotonic() - began:.0f} s: nothing that was acknowledged is missing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
