"""Objects that cannot be copied, as each owns something of the operating system.

Duty: the base `Alone` refuses to be copied or pickled. A copy of a handle, a loop or a lock has its descriptors, and
closes them when it is thrown away: behind `dataclasses.asdict` of something that refers to a server, for example, the
real one would wait for what nobody delivers any more.

Failure modes: `copy.copy`, `copy.deepcopy` and `pickle.dumps` raise TypeError.
"""

from typing import NoReturn, SupportsIndex


class Alone:
    """A base of what cannot be copied."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled")
