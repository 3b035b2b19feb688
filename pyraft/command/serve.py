"""`pyraft serve`: a node from the shell, or as a service.

Duty: find the machine that MODULE:MACHINE names, run a node with it on a directory until SIGTERM or SIGINT, and tell
systemd, if that has started it, when the node is there.

Happy path: `pyraft serve shop:Shop data/1`, in the directory with shop.py. The log goes to standard error. A signal
ends the node properly: it hands over first if it leads. A second one ends it at once, which loses nothing either.
SIGHUP has it take certificates that were renewed.

Failure modes: exit code 1, with a line, for a module or machine that is not there, for a directory that is not a
member's, and when the node stops by itself: whoever has started it then starts it again.
"""

import asyncio
import contextlib
import importlib
import inspect
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import click

from pyraft.aio import RaftError
from pyraft.command import text
from pyraft.command.reach import json_option, renew, tls_options, told
from pyraft.errors import printable
from pyraft.node import Machine, Node, NodeError, Settings
from pyraft.node.council import View
from pyraft.node.systemd import Notifier
from pyraft.node.tls import Tls


@click.command(epilog="Example: pyraft serve shop:Shop data/1")
@click.argument("machine", metavar="MODULE:MACHINE")
@click.argument("directory", metavar="DIR")
@click.option("--name", default="", help="What the node is called in the sessions of the cluster.")
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="One of pyraft.node.Settings.")
@click.option("--http", metavar="HOST:PORT", help="Serve the page, metrics and probes there; see OPERATING.md.")
@click.option("--http-token-file", metavar="FILE", help="A file with the token that they need.")
@click.option("--http-cert", metavar="FILE", help="Serve them over TLS: a certificate that names this host, PEM.")
@click.option("--http-key", metavar="FILE", help="With --http-cert: its key, PEM.")
@click.option("--http-ca", metavar="FILE", help="A certificate of these authorities is as good as the token, PEM.")
@click.option("--http-crl", metavar="FILE", help="With --http-ca: their revocation lists, PEM.")
@click.option("--http-name", "names", metavar="HOST", multiple=True, help="A name under which they are reached.")
@click.option("--debug", is_flag=True, help="Log more.")
@tls_options
@json_option
def serve(
    machine: str,
    directory: str,
    name: str,
    settings: tuple[str, ...],
    http: str | None,
    names: tuple[str, ...],
    debug: bool,
    tls: Tls | None,
    as_json: bool,
    **http_files: str | None,
) -> None:
    """Run a node with a machine on DIR, which `pyraft init` or `pyraft join` has made.

    MODULE is looked for in the current directory first; MACHINE is a class in it, or a function that makes a machine.
    With --json the line that says that it runs is one of JSON.
    """
    _log(debug)
    node = Node(directory, find(machine), settings=settings_of(settings), name=name, tls=tls)
    cause = told(run(node, Notifier(), _site(node, http, names, **http_files), as_json))
    if cause:
        raise click.ClickException(printable(f"the node has stopped: {cause}"))


def find(given: str) -> Machine:
    """Return a new machine by the name of its class or maker."""
    module, colon, name = given.partition(":")
    if not colon or not module or not name or module.startswith("."):
        raise click.UsageError(f"{given!r} is not of the form MODULE:MACHINE")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (module == exc.name or module.startswith(exc.name + ".")):
            raise  # the module's own mistake
        raise click.ClickException(f"there is no module {module} in {os.getcwd()}, nor among those installed") from None
    except AttributeError:
        raise click.ClickException(f"there is no {name} in module {module}") from None
    if callable(found) and not _needs_nothing(found):
        raise click.ClickException(f"{given} cannot be called without arguments, as a machine is made")
    machine = found() if callable(found) else found
    if not isinstance(machine, Machine):
        raise click.ClickException(f"{given} is a {type(machine).__name__}, not a pyraft.node.Machine")
    return machine


def _needs_nothing(maker: Callable[..., Any]) -> bool:
    """Return whether something can be called without arguments. One without a signature passes."""
    try:
        inspect.signature(maker).bind()
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def _site(
    node: Node[Machine],
    address: str | None,
    names: tuple[str, ...],
    http_token_file: str | None,
    http_cert: str | None,
    http_key: str | None,
    http_ca: str | None,
    http_crl: str | None,
) -> AbstractAsyncContextManager[str]:
    """Return what serves HTTP, if that is asked for."""
    if address is None:
        if any((http_token_file, http_cert, http_key, http_ca, http_crl, names)):
            raise click.UsageError("--http is needed, where the others of its kind are given")
        return contextlib.nullcontext("")
    try:
        from pyraft import page
    except ImportError:
        raise click.ClickException("--http needs aiohttp: pip install 'pyraft-uv[http]'") from None
    if (http_cert is None) != (http_key is None) or (http_ca and not http_cert) or (http_crl and not http_ca):
        raise click.UsageError("--http-cert and --http-key go together, --http-ca goes with these, --http-crl with it")
    https = None if http_cert is None or http_key is None else page.Https(http_cert, http_key, http_ca, http_crl)
    token = "" if http_token_file is None else _token(http_token_file)
    try:
        if not token and not http_ca and not page.is_loopback(address):
            raise click.UsageError(f"{address} can be reached from other machines: give --http-token-file or --http-ca")
    except OSError as exc:
        raise click.UsageError(str(exc)) from None
    return _at(page.served(node, address, token, names, https), "http" if https is None else "https")


@contextlib.asynccontextmanager
async def _at(served: "AbstractAsyncContextManager[str]", scheme: str) -> AsyncIterator[str]:
    """Serve, and yield where a browser finds it."""
    async with served as where:
        yield f"{scheme}://{where}/"


def _token(file: str) -> str:
    """Return the token that a file has."""
    try:
        token = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise click.ClickException(f"{file}: {exc}") from None
    if not token:
        raise click.ClickException(f"{file} is empty: the token is expected in it")
    return token


def settings_of(given: tuple[str, ...]) -> Settings:
    """Return the settings that --set gives."""
    values: dict[str, Any] = {}
    for one in given:
        name, equals, number = one.partition("=")
        try:
            values[name] = float(number) if "." in number or "e" in number else int(number)
        except ValueError:
            raise click.UsageError(f"--set {one}: a number is needed") from None
        if not equals or name not in Settings.__dataclass_fields__:
            known = ", ".join(sorted(Settings.__dataclass_fields__))
            raise click.UsageError(f"--set {one}: NAME=VALUE, with a name of {known}")
    try:
        return Settings(**values)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from None


def _log(debug: bool) -> None:
    """Have the loggers write to standard error; systemd's journal has the time of each line by itself."""
    time = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    level = logging.DEBUG if debug else logging.INFO
    logging.basicConfig(level=level, format=f"{time}%(levelname)s %(name)s: %(message)s")


async def run(
    node: Node[Machine],
    notifier: Notifier,
    site: "AbstractAsyncContextManager[str] | None" = None,
    as_json: bool = False,
) -> str:
    """Run a node until a signal, "", or until it stops by itself: return why. `site` serves HTTP meanwhile."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, renew, node.reload_certificates, NodeError)
    async with node, site or contextlib.nullcontext("") as where:
        sentence = printable(f"member {node.id} at {node.address} of cluster {node.cluster} runs")
        page = (node._desk.page or where) if where else ""
        if as_json:
            facts = {"id": node.id, "address": node.address, "cluster": node.cluster, "page": page or None}
            text.dump_line(facts)
        else:
            text.say([sentence, *([f"page at {page}"] if page else [])])
        notifier.ready(sentence)
        duties = [loop.create_task(_tell(node, notifier)), loop.create_task(stop.wait())]
        beat = loop.create_task(_beat(notifier))
        await asyncio.wait(duties, return_when=asyncio.FIRST_COMPLETED)
        for task in (*duties, beat):
            task.cancel()
        await asyncio.wait([*duties, beat])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
        notifier.stopping()
        cause = "" if stop.is_set() else node.server.raft.cause or "it has ended"
        await node.close()  # before the site, whose probes tell of it meanwhile
        return cause


async def _tell(node: Node[Machine], notifier: Notifier) -> None:
    """Say who leads, and who the members are, at each change; end with the node."""
    with contextlib.suppress(RaftError):
        async for view in node.changes():
            notifier.status(_status(node, view))


def _status(node: Node[Machine], view: View) -> str:
    leader = next((member.address for member in view.members if member.id == view.leader), "nobody")
    who = "this member leads" if view.leader == node.id else f"{leader} leads"
    return f"{who}, {len(view.members)} members"


async def _beat(notifier: Notifier) -> None:
    while notifier.interval > 0:
        notifier.alive()
        await asyncio.sleep(notifier.interval)
