"""Finds machines that are not deterministic, whose members would drift apart in a cluster.

Duty: `check_deterministic` has the same commands executed by several instances of a machine, in processes with other
hash seeds and time zones, one of which goes through a snapshot on its way, and compares results and states after each.

    def test_shop_is_deterministic():
        check_deterministic(Shop, [call("put", "apple", n=3), call("take", "apple")])

Happy path: all are equal after every command, and nothing is returned.

Failure modes: the first command after which they are not equal is an AssertionError that says where and how. A machine
that another process cannot import, by module and name, is a ValueError. Differences on other data, versions of Python
or processors are not found; nor is a clock whose difference nobody can see in the state.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from pyraft.node.codec import Codec
from pyraft.node.machine import Machine
from pyraft.node.replica import SESSIONS, Replica
from pyraft.node.testing.compare import difference, state

_RUNS: Final = (("0", "UTC0", False), ("1", "NPT-5:45", False), ("2", "UTC0", True))
"""Hash seed, time zone, and whether the machine goes through a snapshot after each command."""

_PROGRAM: Final = "from pyraft.node.testing.determinism import execute_script; execute_script()"
"""The other processes run this. `python -m` would warn: the package around this module imports it, too."""

_START: Final = 1_800_000_000_000_000
_STEP: Final = 1_234_567
_TIMEOUT: Final = 120.0


class Execution(NamedTuple):
    """A command to be executed."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __str__(self) -> str:
        given = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.name}({', '.join(given)})"


def call(name: str, /, *args: Any, **kwargs: Any) -> Execution:
    """Return a command with its arguments, for `check_deterministic`."""
    if not isinstance(name, str):
        raise TypeError(f'a command is called by its name, call("put", "apple"), and not {name!r:.60}')
    return Execution(name, args, kwargs)


def check_deterministic(machine: Callable[[], Machine], commands: Iterable[Execution]) -> None:
    """Raise AssertionError if `machine()` makes machines that differ after the same `commands`."""
    listed = list(commands)
    for one in listed:
        if not isinstance(one, Execution):
            raise TypeError(f'commands are made by call("put", "apple"), and this one is {one!r:.60}')
    if not callable(machine):
        raise TypeError(f"check_deterministic() takes what makes a machine, as its class, and not {machine!r:.60}")
    where = (getattr(machine, "__module__", "__main__"), getattr(machine, "__qualname__", "<"))
    if where[0] == "__main__" or "<" in where[1]:
        raise ValueError(f"{machine!r} cannot be imported by another process: put it into a module")
    script = Codec().pack([*where, sys.path, _codec(machine).pack([list(one) for one in listed])])
    with ThreadPoolExecutor(len(_RUNS)) as pool:
        results = list(pool.map(lambda run: _run(script, *run), _RUNS))
    for number, one in enumerate(listed):
        first = results[0][number]
        for (seed, zone, restored), result in zip(_RUNS, results, strict=True):
            found = difference(first, result[number])
            if found:
                how = "after a snapshot" if restored else f"with PYTHONHASHSEED={seed}, TZ={zone}"
                raise AssertionError(f"command {number + 1}, {one}, is not deterministic: {how} {found}")


def _codec(factory: Callable[[], Machine]) -> Codec:
    """Return a codec for arguments, which may be of the machine's own types.

    They are read off the class: to make one more machine for that could change what the others do.
    """
    codec = Codec()
    try:
        made: Any = factory if isinstance(factory, type) else factory()
    except Exception:  # the other processes tell of it
        return codec
    for cls in getattr(made, "types", ()):
        codec.add(cls)
    return codec


def _run(script: bytes, seed: str, zone: str, restored: bool) -> list[Any]:
    """Have another process execute the commands; return result and state after each of them."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", _PROGRAM, "restored" if restored else "straight"]
    done = subprocess.run(command, input=script, env=environment, capture_output=True, timeout=_TIMEOUT, check=False)
    if done.returncode != 0:
        raise AssertionError(f"the machine fails in a process of its own:\n{done.stderr.decode(errors='replace')}")
    found = Codec().unpack(done.stdout)
    assert isinstance(found, list)
    return found


# In the other process.


def execute(factory: Callable[[], Machine], commands: list[Any], restored: bool) -> list[Any]:
    """Execute commands on a machine; return result and state after each of them."""
    replica = Replica({"": factory()})
    replica.do_apply(replica.entry(_START, [[b"", 0, 0, SESSIONS, "open", 1, replica.codec.pack([[b"s", ""], {}])]]))
    found = []
    for number, (name, args, kwargs) in enumerate(commands, 1):
        arguments = replica.codec.pack([list(args), kwargs])
        version = replica.newest("", name)
        entry = replica.entry(_START + _STEP * number, [[b"s", number, number - 1, "", name, version, arguments]])
        _, (outcome,) = replica.do_apply(entry)
        if restored:
            replica = _through_snapshot(replica, factory)
        found.append({"result": _text(replica.codec.unpack(outcome)), "state": _text(state(replica))})
    return found


def _through_snapshot(replica: Replica, factory: Callable[[], Machine]) -> Replica:
    """Return another replica with the state of this one, brought there by a snapshot, as for a member far behind."""
    _, head = replica.do_snapshot()
    _, pieces = replica.do_snapshot_async(head)
    data = b"".join(pieces)
    replica.do_snapshot_finalize(pieces)
    other = Replica({"": factory()})
    if other.do_restore(data) != 0:
        raise AssertionError("the machine does not take its own snapshot")
    return other


def _text(value: Any) -> Any:
    """Return a value as containers and texts that are equal in all processes if the values are."""
    if isinstance(value, dict):
        return {repr(key): _text(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_text(member) for member in value]
    if isinstance(value, (set, frozenset)):
        return {"set": sorted(repr(_text(member)) for member in value)}
    return repr(value)


def execute_script() -> None:
    """Execute the script that is on standard input, and write what it comes to to standard output."""
    out = os.dup(1)
    os.dup2(2, 1)  # what the machine prints is not for the other end
    module, name, path, packed = Codec().unpack(sys.stdin.buffer.read())
    sys.path[:] = path
    factory: Any = importlib.import_module(module)
    for part in name.split("."):
        factory = getattr(factory, part)
    commands = _codec(factory).unpack(packed)

    with os.fdopen(out, "wb") as stream:
        stream.write(Codec().pack(execute(factory, commands, sys.argv[1:] == ["restored"])))
