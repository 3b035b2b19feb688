"""Which form of the core is under test, for tests that give it arguments of types that it is not made for.

Compiled functions check types by themselves: there such an argument is a TypeError, in the pure form a code.
"""

from pyraft import start

COMPILED = not start.__file__.endswith(".py")


def takes(kind: type, value: object) -> bool:
    """Return whether a function whose parameter has this type gets to see the value."""
    return not COMPILED or isinstance(value, kind)
