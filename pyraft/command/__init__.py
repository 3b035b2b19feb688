"""The command `pyraft`: nodes from the shell, and the data directories of stopped servers.

Duty: `program` is the click group behind the console script and `python -m pyraft`: `init` and `join` (`members`),
`serve`, what is asked of running clusters (`clusters`) and `dir …` (`dirs`, `readdress`). The output of the commands is
put together in `text`; their work is done by `pyraft.node` and `io_uv.datadir`, which programs can call as well.

Happy path: `pyraft dir show data/1`. Every command has an example in its --help, and takes --json, for one value;
those that run until they are told to end, and `dir log`, print lines of JSON then.

Failure modes: exit code 1 for what could not be done, or was found wrong, with a line on standard error; 2 for
arguments that make no sense. With --json the line is on standard output too, as JSON. No traceback for either.
"""

import click

from pyraft import __version__, _install, raft_version_number, types
from pyraft.command import clusters, dirs, dqlite, members, readdress, serve, watch
from pyraft.command.group import Group

_COMPILED = not types.__file__.endswith(".py")


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="Exit codes: 0 done, 1 not done or found wrong, 2 wrong arguments.",
)
@click.version_option(__version__, message=_install.describe(__version__, raft_version_number(), _COMPILED))
def program() -> None:
    """The Raft consensus algorithm: nodes from the shell, and the data directories of stopped servers."""


program.add_command(members.init)
program.add_command(members.join)
program.add_command(serve.serve)
program.add_command(watch.watch)
program.add_command(watch.watch, "top")
program.add_command(dirs.dir)
dirs.dir.add_command(readdress.readdress)
program.add_command(dqlite.dqlite)
for _command in (clusters.status, clusters.members, clusters.ping, clusters.check, clusters.add, clusters.remove):
    program.add_command(_command)
for _command in (
    clusters.replace,
    clusters.promote,
    clusters.demote,
    clusters.transfer,
    clusters.snapshot,
    clusters.backup,
):
    program.add_command(_command)
