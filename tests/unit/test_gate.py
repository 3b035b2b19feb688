"""How much time handshakes of strangers get, and in which order."""

import time
from typing import Any

import pytest

from io_uv.gate import Gate
from io_uv.pyuv import Loop


class Clock:
    """A clock that both of the gate's ask, and that only the steps of handshakes move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


class Stranger:
    """A handshake whose step takes some seconds."""

    closed = False

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.steps = 0

    def step(self) -> None:
        """Take the time."""
        self.steps += 1
        self.clock.now += self.seconds


def test_the_time_of_a_step_is_charged_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store at hand is used up by steps, and comes back five times as slowly."""
    loop: Any = Loop()
    clock = Clock(monkeypatch)
    gate = Gate(loop)
    strangers = [Stranger(clock, 0.03) for _ in range(3)]
    for stranger in strangers:
        gate.ask(stranger, "192.0.2.1", False)
    assert [stranger.steps for stranger in strangers] == [1, 0, 0]
    clock.now += 0.01  # worth 0.002 of the 0.004 s that are owed
    gate._run()
    assert [stranger.steps for stranger in strangers] == [1, 0, 0]
    clock.now += 0.02
    gate._run()
    assert [stranger.steps for stranger in strangers] == [1, 0, 1]  # the newest first
    gate.close()
    loop.close()


def test_known_hosts_come_first_then_what_has_begun_then_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many strangers have asked before."""
    loop: Any = Loop()
    clock = Clock(monkeypatch)
    gate = Gate(loop)
    gate.trust("192.0.2.9")
    gate.ask(Stranger(clock, 0.03), "192.0.2.1", False)  # The time at hand is used up.
    order: list[str] = []

    class Named(Stranger):
        def __init__(self, name: str) -> None:
            super().__init__(clock, 0.0)
            self.name = name

        def step(self) -> None:
            order.append(self.name)

    gate.ask(Named("old"), "192.0.2.2", False)
    gate.ask(Named("new"), "192.0.2.3", False)
    gate.ask(Named("begun"), "192.0.2.4", True)
    gate.ask(Named("also begun"), "192.0.2.5", True)
    gate.ask(Named("known"), "192.0.2.9", False)
    clock.now += 1
    gate._run()
    assert order == ["known", "begun", "also begun", "new", "old"]
    gate.close()
    loop.close()


def test_handshakes_take_a_part_of_the_time_only_and_known_peers_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """50 steps of 5 ms take more than a second; known hosts, and handshakes that have begun, pass those that wait."""
    loop: Any = Loop()
    clock = Clock(monkeypatch)
    gate = Gate(loop)
    gate.trust("10.0.0.1")
    begin = clock.now
    strangers = [Stranger(clock, 0.005) for _ in range(50)]
    for stranger in strangers:
        gate.ask(stranger, "10.0.0.2", False)
    assert [stranger.steps for stranger in strangers] == [1] * 6 + [0] * 44
    begun, known = Stranger(clock, 0.05), Stranger(clock, 0.05)
    gate.ask(begun, "10.0.0.2", True)
    gate.ask(known, "10.0.0.1", False)
    orders = []
    while sum(stranger.steps for stranger in [*strangers, begun, known]) < 52:
        clock.now += 0.001
        gate._run()
        orders.append((known.steps, begun.steps, strangers[49].steps))
    assert list(dict.fromkeys(orders)) == [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)]
    assert clock.now - begin > 1.1
    gate.close()
    loop.close()
