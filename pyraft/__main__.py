"""`python -m pyraft --version`: which version this is, of which library, and whether it is compiled.

Duty: that, and to say where to go on.

Failure modes: any other argument is a usage error, exit code 2.
"""

import argparse

from pyraft import __version__, _install, raft_version_number, types


def main() -> None:
    """Parse the command line and answer."""
    compiled = not types.__file__.endswith(".py")
    parser = argparse.ArgumentParser("python -m pyraft", description="The Raft consensus algorithm; see the README.")
    version = _install.describe(__version__, raft_version_number(), compiled)
    parser.add_argument("--version", action="version", version=version)
    parser.parse_args()
    parser.print_help()


if __name__ == "__main__":
    main()
