"""The survivors that people have looked at, in survivors.txt beside this.

Each is some lines: the file and the surroundings, the lines as they are (`-`) and as the mutant has them (`+`), then
`=` and the reason why no test can or should notice. Line numbers do not matter.
"""

from pathlib import Path

from tests.mutants.changes import Edit

FILE = Path(__file__).with_name("survivors.txt")


def key(edit: Edit, source: str) -> str:
    """Return how a change is written in the file, without the reason."""
    before, after = edit.lines(source)
    return "\n".join([f"{edit.path} {edit.where}", *(f"- {line}" for line in before), *(f"+ {line}" for line in after)])


def read(text: str) -> dict[str, str]:
    """Return the reasons by key."""
    found: dict[str, str] = {}
    for block in text.split("\n\n"):
        lines = [line for line in block.strip().splitlines() if not line.startswith("#")]
        if lines:
            reasons = [line.removeprefix("= ") for line in lines if line.startswith("= ")]
            found["\n".join(line for line in lines if not line.startswith("= "))] = " ".join(reasons)
    return found


def known() -> dict[str, str]:
    """Return what the file says."""
    return read(FILE.read_text()) if FILE.exists() else {}
