"""The start of `python -m pyraft` and of the console script `pyraft`.

Duty: `main` runs the command with the arguments of the process.

Failure modes: the exit codes of `pyraft.command`.
"""

from pyraft.command import program


def main() -> None:
    """Run the command; it ends the process with its exit code."""
    program(prog_name="pyraft")


if __name__ == "__main__":
    main()
