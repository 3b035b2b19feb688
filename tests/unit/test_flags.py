"""Feature flags: 64-bit sets."""

from pyraft import flags
from tests.lib.covers import covers


@covers("flags/empty")
def test_nothing_is_set_in_the_empty_set() -> None:
    """No bit of 0 is set."""
    assert not any(flags.is_set(0, 1 << i) for i in range(64))
    assert flags.DEFAULT_FEATURES == 0


@covers("flags/setClear")
def test_each_flag_is_set_and_cleared_alone() -> None:
    """Setting and clearing a bit touches no other."""
    for i in range(64):
        value = flags.set(0, 1 << i)
        assert [j for j in range(64) if flags.is_set(value, 1 << j)] == [i]
        assert flags.clear(value, 1 << i) == 0


@covers("flags/setMultipleClearMultiple")
def test_several_flags_at_once() -> None:
    """A set can be added and taken away as a whole."""
    several = 1 << 0 | 1 << 4 | 1 << 13 | 1 << 40 | 1 << 63
    value = flags.set(0, several)
    assert [i for i in range(64) if flags.is_set(value, 1 << i)] == [0, 4, 13, 40, 63]
    assert flags.clear(value, several) == 0


@covers("flags/setMultipleClearSingle")
def test_one_of_several_is_cleared() -> None:
    """The others stay."""
    value = flags.set(0, 1 << 3 | 1 << 5 | 1 << 18 | 1 << 32 | 1 << 35)
    value = flags.clear(value, 1 << 32)
    assert [i for i in range(64) if flags.is_set(value, 1 << i)] == [3, 5, 18, 35]


def test_sets_have_64_flags() -> None:
    """The bits that do not fit are cut off, as in the C type."""
    assert flags.set(0, 1 << 64) == 0
    assert flags.clear((1 << 65) - 1, 0) == (1 << 64) - 1


def test_what_servers_announce_keeps_its_bit() -> None:
    """Servers of other versions read it from the wire."""
    assert flags.PROVEN_ANSWERS == 0x8000
