"""What the command `pyraft` does about nodes: `pyraft init` and `pyraft join`.

Duty: `add_to` gives the two to a parser; each ends with one line about the member that the directory is now.

Happy path: `pyraft init data/1 --address 10.0.0.1:9001`, and once a node runs there,
`pyraft join data/2 --address 10.0.0.2:9001 --via 10.0.0.1:9001`.

Failure modes: what is refused, or fails, is told on standard error, exit code 1.
"""

import argparse
import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

from pyraft.aio import RaftError
from pyraft.node.errors import NodeError
from pyraft.node.founding import init, join
from pyraft.node.identity import Identity
from pyraft.node.tls import Tls


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the commands. What is parsed has a `run` then, which is to be called with it."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    one = commands.add_parser("init", help="make a directory that of a new cluster's only member, once")
    other = commands.add_parser("join", help="make a directory that of a new member of a cluster that runs")
    for command in (one, other):
        command.add_argument("directory", metavar="DIR", help="where its data is to be; made if it is not there")
        text = "where the others reach the new member: a port that it listens on"
        command.add_argument("--address", metavar="HOST:PORT", required=True, help=text)
    text = "where a member is; may be given several times"
    other.add_argument("--via", metavar="HOST:PORT", required=True, action="append", help=text)
    text = "how long to wait for a leader, in seconds (30)"
    other.add_argument("--timeout", metavar="SECONDS", type=float, default=30.0, help=text)
    for name, text in (
        ("cert", "its certificate"),
        ("key", "its key"),
        ("ca", "the authorities"),
        ("crl", "their lists"),
    ):
        other.add_argument(f"--{name}", metavar="FILE", help=f"with TLS: {text}, a PEM file")
    one.set_defaults(run=_init)
    other.set_defaults(run=_join)


def _init(args: argparse.Namespace) -> int:
    return _tell(init(args.directory, args.address), "began cluster")


def _join(args: argparse.Namespace) -> int:
    files = [args.cert, args.key, args.ca]
    if any(files) and not all(files):
        print("pyraft: with TLS --cert, --key and --ca are needed", file=sys.stderr)
        return 1
    tls = Tls(args.cert, args.key, args.ca, args.crl) if all(files) else None
    return _tell(join(args.directory, args.address, *args.via, timeout_seconds=args.timeout, tls=tls), "joined cluster")


def _tell(doing: "Coroutine[Any, Any, Identity]", what: str) -> int:
    try:
        identity = asyncio.run(doing)
    except (NodeError, RaftError, OSError) as exc:
        print(f"pyraft: {exc}", file=sys.stderr)
        return 1
    print(f"member {identity.id} at {identity.address} {what} {identity.cluster}")
    return 0
