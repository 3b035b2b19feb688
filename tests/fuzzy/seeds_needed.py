"""How many simulated clusters it takes to see each fault of the past: `make seeds ARGS='B46 B47'`.

Each fault is put back into a copy of the core (tests.fuzzy.faults). Of the clusters 0, 1, 2, … those whose theme may
show it are simulated until one breaks; with `--all` the others too. A line for each says which, and what was seen.
Exit status 1 if one is not found in `--limit` clusters.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

from tests.fuzzy.faults import FAULTS, simulate, write_copy


def main() -> int:
    """Look for the faults asked for, all by default; return the exit status."""
    parser = argparse.ArgumentParser(description="Count the clusters that show each fault of the past.")
    parser.add_argument("names", nargs="*", help="which faults, by the beginnings of their names; all by default")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--limit", type=int, default=2000, help="give up after so many")
    parser.add_argument("--all", action="store_true", help="clusters of all themes")
    args = parser.parse_args()
    missed = 0
    for name, fault in FAULTS.items():
        if args.names and not any(name.startswith(word) for word in args.names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_copy(Path(folder), fault.edits)
            done = simulate(Path(folder), args.first, args.limit, "" if args.all else fault.themes)
        seed = re.search(r"repeat: make sim SEED=(\d+)", done.stdout)
        shows = done.stdout.split("\n")[0][:150] if seed else "nothing"
        found = f"seed {seed[1]}" if seed else f"not found in {args.limit}"
        print(f"| {name} | {fault.what} | {found} | {shows} |{done.stderr[-300:]}", flush=True)
        missed += seed is None
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
