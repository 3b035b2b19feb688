"""The way from the shell into a running cluster: the options for it, and errors as lines.

Duty: `reach` gives a command the options --via, --timeout and those of TLS, and hands it a `Way`; `tls_options` has the
latter alone, and `renew` takes renewed certificates. `Way.run` carries out a coroutine with an `Operator`.

Happy path: `PYRAFT_VIA="10.0.0.1:9001 10.0.0.2:9001"` in the environment takes the place of --via.

Failure modes: what is refused, or cannot be reached, is told in a line on standard error, exit code 1.
"""

import asyncio
import functools
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from pyraft.aio import RaftError
from pyraft.configuration import is_id
from pyraft.errors import printable
from pyraft.node import NodeError
from pyraft.node.council import Member
from pyraft.node.link import require_form
from pyraft.node.operate import Operator
from pyraft.node.tls import Tls

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_logger = logging.getLogger("pyraft")

VIA: Final = "PYRAFT_VIA"


class Number(click.FloatRange):
    """A number in a range. Python takes "nan" for a number, which every range would let through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return it as a float."""
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return found


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""For commands that print JSON when asked."""


@dataclass(frozen=True)
class Way:
    """The addresses, limits and certificates that a command was given."""

    via: tuple[str, ...]
    seconds: float
    tls: Tls | None

    def run(self, job: Callable[[Operator], Awaitable[T]]) -> T:
        """Return what `job(operator)` returns."""

        async def main() -> T:
            async with Operator(self.via, tls=self.tls, seconds=self.seconds) as operator:
                return await job(operator)

        result: T = told(main())
        return result


def told(doing: Any, *others: type[Exception]) -> Any:
    """Return what a coroutine returns; an error, `others` too, ends the command with a line."""
    kinds: tuple[type[Exception], ...] = (NodeError, RaftError, OSError, *others)
    try:
        return asyncio.run(doing)
    except kinds as exc:
        raise click.ClickException(printable(str(exc))) from None
    except KeyboardInterrupt:
        raise click.Abort from None


def tls_of(cert: str | None, key: str | None, ca: str | None, crl: str | None) -> Tls | None:
    """Return what the options of TLS say together."""
    if cert is not None and key is not None and ca is not None:
        return Tls(cert, key, ca, crl)
    if cert or key or ca or crl:
        raise click.UsageError("with TLS --cert, --key and --ca are needed")
    return None


def tls_options(function: F) -> F:
    """Give a command the options of TLS: it gets `tls`."""

    @functools.wraps(function)
    def command(*args: Any, cert: str | None, key: str | None, ca: str | None, crl: str | None, **options: Any) -> Any:
        return function(*args, tls=tls_of(cert, key, ca, crl), **options)

    made: Any = command
    for name, text in (
        ("--crl", "With TLS: their lists, a PEM file."),
        ("--ca", "With TLS: the authorities, a PEM file."),
        ("--key", "With TLS: its key, a PEM file."),
        ("--cert", "With TLS: the certificate of this end, a PEM file."),
    ):
        made = click.option(name, metavar="FILE", envvar=f"PYRAFT_{name[2:].upper()}", help=text)(made)
    return made  # type: ignore[no-any-return]


def renew(reload: Callable[[], object], refused: type[Exception]) -> None:
    """Take renewed certificates by `reload`. If it raises `refused` the log says why, and those in use stay."""
    try:
        reload()
    except refused as exc:
        _logger.warning("certificates stay as they were: %s", printable(str(exc)))
    else:
        _logger.info("certificates were read again")


def reach(function: F) -> F:
    """Give a command the options of the way into a cluster: it gets `way`."""

    @functools.wraps(function)
    def command(*args: Any, via: tuple[str, ...], timeout: float, tls: Tls | None, **options: Any) -> Any:
        for one in via:
            check_address("--via", one)
        return function(*args, way=Way(via, timeout, tls), **options)

    made: Any = tls_options(command)
    made = click.option(
        "--timeout",
        type=Number(min=0, min_open=True),
        default=10.0,
        show_default=True,
        help="How long an answer may take, in s.",
    )(made)
    return click.option(  # type: ignore[no-any-return]
        "--via",
        metavar="HOST:PORT",
        multiple=True,
        required=True,
        envvar=VIA,
        help=f"Where a member is; may be repeated. Also by {VIA}, with blanks in between.",
    )(made)


def check_address(what: str, address: str) -> None:
    """End the command where an address has not the form of one: nothing would come of asking again and again."""
    try:
        require_form(address)
    except ValueError as exc:
        raise click.UsageError(printable(f"{what}: {exc}")) from None


def is_number(given: str) -> bool:
    """Return whether a word consists of digits, and not of more than an id, a term or an index has."""
    return given.isascii() and given.isdigit() and len(given) <= 20


def id_and_address(given: str) -> tuple[int, str]:
    """Return the parts of ID=HOST:PORT."""
    id, equals, address = given.partition("=")
    if not equals or not is_number(id) or not address:
        raise click.UsageError(f"{given!r} is not of the form ID=HOST:PORT")
    if not is_id(int(id)):
        raise click.UsageError(f"{id} is not an id: a number from 1 to 2^64 - 1")
    check_address(given, address)
    return int(id), address


async def find(operator: Operator, given: str) -> Member:
    """Return the member that is called by its id or its address, as the leader knows it."""
    members = await operator.members()
    found = [one for one in members if given in (str(one.id), one.address)]
    if not found:
        known = ", ".join(f"{one.id} at {one.address}" for one in members)
        raise click.ClickException(printable(f"{given} is not a member; members are {known}"))
    return found[0]
