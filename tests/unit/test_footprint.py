"""The soak's measure of growth."""

import pytest

from tests.fuzzy.footprint import Footprint, Watch


def sample(pid: int = 1, rss: float = 30e6, fds: int = 24, files: int = 14, bytes: float = 25e6) -> Footprint:
    """A sample of a process that nobody has started."""
    found = object.__new__(Footprint)
    found.pid, found.rss, found.fds, found.threads = pid, int(rss), fds, 6
    found.files, found.bytes = files, int(bytes)
    return found


def watch(*servers: list[Footprint]) -> Watch:
    """A watch that has seen these samples of servers 1, 2, …"""
    seen = Watch()
    seen._samples = dict(enumerate(servers, 1))
    return seen


STEADY = [sample() for _ in range(40)]
KILLED = [sample(pid=2 + n // 10) for n in range(40)]


def test_steady_servers_pass() -> None:
    """The figures are those of the server that was never killed."""
    assert watch(STEADY, KILLED).judge(3600, 1) == (
        "server 1 early to late: rss 30000000 to 30000000, fds 24 to 24, threads 6 to 6, files 14 to 14, "
        "bytes 25000000 to 25000000"
    )


def test_a_server_that_joins_late_passes() -> None:
    """It had next to nothing on its disk as long as it was not a member."""
    late = [sample(pid=2, files=2, bytes=1e5) for _ in range(25)] + [sample(pid=3) for _ in range(15)]
    watch(STEADY, late).judge(3600, 1)


@pytest.mark.parametrize(
    ("what", "late"),
    [
        ("rss", sample(rss=34e6)),
        ("fds", sample(fds=33)),
        ("files", sample(files=23)),
        ("bytes", sample(bytes=50e6)),
    ],
)
def test_growth_fails(what: str, late: Footprint) -> None:
    """That of the server that was never killed does, by little; a peak in the middle does not count."""
    watch([*STEADY[:20], late, *STEADY[21:]], KILLED).judge(3600, 1)
    with pytest.raises(AssertionError, match=f"{what} of server 1 went from"):
        watch([*STEADY[:30], *[late] * 10], KILLED).judge(3600, 1)


@pytest.mark.parametrize(("what", "late"), [("files", sample(files=23)), ("bytes", sample(bytes=50e6))])
def test_growth_over_lives_fails(what: str, late: Footprint) -> None:
    """A directory that has grown over the lives of its processes."""
    late.pid = 9
    with pytest.raises(AssertionError, match=f"{what} of server 2"):
        watch(STEADY, [*KILLED[:28], *[late] * 12]).judge(3600, 1)


def test_a_last_life_that_grows_fails() -> None:
    """The use of a process at the end of its life, beside what the first one used early."""
    leaking = [*KILLED[:20], *(sample(pid=9, rss=30e6 + 2e6 * n) for n in range(20))]
    with pytest.raises(AssertionError, match="rss of server 2, last life"):
        watch(STEADY, leaking).judge(3600, 1)
