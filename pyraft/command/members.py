"""`pyraft init` and `pyraft join`: directories of members.

Duty: make a data directory that of a new cluster's only member, or of a new member of a cluster that runs. Each ends
with one line about the member that the directory is now.

Happy path: `pyraft init data/1 --address 10.0.0.1:9001`, and once a node runs there,
`pyraft join data/2 --address 10.0.0.2:9001 --via 10.0.0.1:9001`.

Failure modes: a refusal or failure is told on standard error, exit code 1.
"""

from collections.abc import Coroutine
from typing import Any

import click

from pyraft import node
from pyraft.command import text
from pyraft.command.reach import Number, json_option, tls_options, told
from pyraft.node.identity import Identity
from pyraft.node.tls import Tls

_ADDRESS = click.option(
    "--address", metavar="HOST:PORT", required=True, help="Where the others reach it: a port that it listens on."
)


@click.command(epilog="Example: pyraft init data/1 --address 10.0.0.1:9001")
@click.argument("directory", metavar="DIR")
@_ADDRESS
@json_option
def init(directory: str, address: str, as_json: bool) -> None:
    """Make DIR that of a new cluster's only member, once.

    DIR is made if it is not there. A node is started on it by `pyraft serve`, or a program: async with Node("DIR", …).
    """
    _tell(node.init(directory, address), "began cluster", as_json)


@click.command(epilog="Example: pyraft join data/2 --address 10.0.0.2:9001 --via 10.0.0.1:9001")
@click.argument("directory", metavar="DIR")
@_ADDRESS
@click.option("--via", metavar="HOST:PORT", required=True, multiple=True, help="Where a member is; may be repeated.")
@click.option(
    "--timeout",
    type=Number(0.001, 86_400),
    default=30.0,
    show_default=True,
    help="How long to wait for a leader, in s.",
)
@tls_options
@json_option
def join(
    directory: str,
    address: str,
    via: tuple[str, ...],
    timeout: float,
    tls: Tls | None,
    as_json: bool,
) -> None:
    """Make DIR that of a new member of a cluster that runs."""
    _tell(node.join(directory, address, *via, timeout_seconds=timeout, tls=tls), "joined cluster", as_json)


def _tell(doing: Coroutine[Any, Any, Identity], what: str, as_json: bool) -> None:
    found = told(doing)
    sentence = f"member {found.id} at {found.address} {what} {found.cluster}"
    text.done(sentence, as_json, id=found.id, address=found.address, cluster=found.cluster)
