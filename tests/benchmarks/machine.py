"""The machine and the interpreters that were measured on: how busy others kept it, and how quick each Python was.

Duty: `beside` tells how much of the processors others take while the benchmark waits, and how much the host keeps to
itself; `interpreter` describes a Python, and `loop` times one that does nothing but count, so that whoever reads two
reports can tell a slower machine from slower code. `system_python` finds the distribution's interpreter, where its
extension modules are interchangeable with those of the running one.

Failure modes: the host of a virtual machine slows it down in ways that no counter shows (shared caches, the other
thread of a core); only the loop tells these.
"""

import json
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/usr/bin/python3")

_DESCRIBE = """
import json, platform, sys, sysconfig
v = sysconfig.get_config_vars()
flags = [f for f in str(v.get("PY_CFLAGS")).split() if f.startswith("-O")]
flags += [f for f in str(v.get("CONFIG_ARGS")).replace("'", "").split() if "optimiz" in f or "lto" in f]
print(json.dumps([platform.python_version(), sys.implementation.cache_tag, list(dict.fromkeys(flags))]))
"""
_LOOP = """
import time
times = []
for _ in range(5):
    began, n = time.perf_counter(), 0
    for i in range(1000000):
        n += i
    times.append(time.perf_counter() - began)
print(min(times))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python: where it is, its version, the tag of its bytecode, and its compiler's flags that matter."""

    path: str
    version: str
    tag: str
    flags: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.version} ({self.path}, {' '.join(self.flags) or 'no flags known'})"


def interpreter(path: str) -> Interpreter:
    """Ask a Python what it is. Raises OSError or subprocess.CalledProcessError if it does not run."""
    version, tag, flags = json.loads(_run(path, _DESCRIBE))
    return Interpreter(path, version, tag, tuple(flags))


def loop(path: str) -> float:
    """Return the seconds that a million additions take there, the best of five times."""
    return float(_run(path, _LOOP))


def system_python(path: Path = SYSTEM) -> Interpreter | str:
    """Return the distribution's interpreter, or why it cannot stand beside the running one."""
    if not path.exists():
        return f"there is no {path}"
    if path.resolve() == Path(sys.executable).resolve():
        return f"{path} is the interpreter of the other sides"
    try:
        found = interpreter(str(path))
    except (OSError, subprocess.CalledProcessError, ValueError) as exc:
        return f"{path}: {exc}"
    if found.tag != sys.implementation.cache_tag:
        return f"{path} is {found.tag}, the installed extension modules are for {sys.implementation.cache_tag}"
    return found


def installed() -> str:
    """Return where this environment's packages are, for another interpreter's PYTHONPATH."""
    return sysconfig.get_path("purelib")


def _run(path: str, program: str) -> str:
    return subprocess.run([path, "-c", program], capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Beside:
    """Shares of all processors, 0 to 1: what others used, and what the host gave to other machines."""

    busy: float
    stolen: float


def beside(seconds: float = 0.5) -> Beside:
    """Wait, and return what others did meanwhile."""
    before = _ticks()
    time.sleep(seconds)
    spent = [after - earlier for earlier, after in zip(before, _ticks(), strict=True)]
    total = sum(spent) or 1
    idle, stolen = spent[3] + spent[4], spent[7]
    return Beside((total - idle - stolen) / total, stolen / total)


def _ticks() -> list[int]:
    """The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal."""
    return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
