"""The start of `python -m pyraft` and of the console script `pyraft`.

Duty: `main` runs the command with the arguments of the process.

Failure modes: the exit codes of `pyraft.command`. Ctrl-C while its modules are loaded, which takes longer than most
commands, ends it as Ctrl-C does later.
"""

import json
import sys


def main() -> None:
    """Run the command; it ends the process with its exit code."""
    try:
        from pyraft.command import program
    except KeyboardInterrupt:
        if "--json" in sys.argv:
            print(json.dumps({"error": "interrupted"}))
        sys.exit("\nAborted!")  # click's words, and exit code 1
    program(prog_name="pyraft")


if __name__ == "__main__":
    main()
