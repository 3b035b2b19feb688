"""Mutants: small random changes to pyraft and io_uv, each of which some test should notice.

`python -m tests.mutants --help` tells the choices, tests/README.md what came out.
"""
