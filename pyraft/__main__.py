"""The command `pyraft`, which is `python -m pyraft`: directories of members, and which version this is.

Duty: `pyraft init` and `pyraft join` (`node.commands`); `--version` says which version this is, of which library, and
whether it is compiled.

Failure modes: other arguments are a usage error, exit code 2; the commands have 1 for what they could not do.
"""

import argparse
import sys

from pyraft import __version__, _install, raft_version_number, types
from pyraft.node import commands


def main() -> None:
    """Parse the command line and answer."""
    compiled = not types.__file__.endswith(".py")
    parser = argparse.ArgumentParser("python -m pyraft", description="The Raft consensus algorithm; see the README.")
    version = _install.describe(__version__, raft_version_number(), compiled)
    parser.add_argument("--version", action="version", version=version)
    commands.add_to(parser)
    args = parser.parse_args()
    if "run" in args:
        sys.exit(args.run(args))
    parser.print_help()


if __name__ == "__main__":
    main()
