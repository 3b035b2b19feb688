"""Calls on their way, and a path that answers, loses, is missing, or is full."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pyraft.node.errors import Stopped, Unknown
from pyraft.node.outbox import GROUP_CALLS, GROUPS, UNRESOLVED, Call, Outbox, Session


class Road:
    """A path by hand: it keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[list[Any], Callable[[Any], None]]] = []

    def send(self, calls: list[Any], done: Callable[[Any], None]) -> None:
        """Keep a group."""
        self.sent.append((calls, done))


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


async def turns(n: int = 5) -> None:
    """Let the loop go round."""
    for _ in range(n):
        await asyncio.sleep(0)


def call(session: Session, text: bytes = b"") -> Call:
    return session.begin("", "note", 1, text)


def test_place_of_one_who_is_cancelled_goes_to_the_next() -> None:
    """A waiter that is cancelled at the moment at which there is room lets the next one have it."""

    async def scenario() -> None:
        outbox = Outbox(lambda: None, 1, 1000)
        session = Session(b"s")
        first = call(session)
        outbox.put(first)
        assert outbox.is_full
        waiting = [asyncio.ensure_future(outbox.room(lambda future: None)) for _ in range(3)]
        await turns()
        outbox.release(first)
        waiting[0].cancel()
        await waiting[1]
        assert not waiting[2].done()
        second = call(session)
        outbox.put(second)
        outbox.release(second)
        await waiting[2]
        outbox.close(Stopped)

    run(scenario)


def test_groups_that_are_lost_one_after_the_other_keep_their_order() -> None:
    """A connection that ends loses its groups in the order in which they were sent; so are they sent again. Otherwise
    a session's first call would come before the one that opens it, and be taken for one of a session that is over.
    """

    async def scenario() -> None:
        for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
            road = Road()
            outbox = Outbox(lambda road=road: road, 10_000, 1 << 20)
            session = Session(b"s")
            for size in (2, 1, 3):
                for _ in range(size):
                    outbox.put(call(session))
                await turns()
            assert [[wire[1] for wire in group] for group, _ in road.sent] == [[1, 2], [3], [4, 5, 6]]
            for lost in order:
                road.sent[lost][1](None)
            outbox.put(call(session))
            outbox.wake()
            await turns()
            assert [wire[1] for wire in road.sent[3][0]] == [1, 2, 3, 4, 5, 6, 7]
            outbox.close(Stopped)

    run(scenario)


def test_room_is_there_when_both_bounds_are_kept() -> None:
    """One call less is not enough where those that are left are too large."""

    async def scenario() -> None:
        outbox = Outbox(lambda: None, 2, 1000)
        session = Session(b"s")
        small, large = call(session), call(session, b"x" * 1000)
        outbox.put(small)
        outbox.put(large)
        waiting = asyncio.ensure_future(outbox.room(lambda future: None))
        await turns()
        outbox.release(small)
        await turns()
        assert not waiting.done()
        outbox.release(large)
        await waiting
        outbox.close(Stopped)

    run(scenario)


def test_groups_that_are_lost_go_first_again() -> None:
    """Calls keep their order when a group's outcomes are lost; those whose caller is gone are not sent again."""

    async def scenario() -> None:
        road = Road()
        outbox = Outbox(lambda: road, 10_000, 1 << 20)
        session = Session(b"s")
        calls = [call(session) for _ in range(5)]
        futures = [outbox.put(c) for c in calls[:3]]
        await turns()
        futures += [outbox.put(c) for c in calls[3:]]
        await turns()
        assert [[wire[1] for wire in group] for group, _ in road.sent] == [[1, 2, 3], [4, 5]]
        futures[1].cancel()
        road.sent[0][1](None)
        while len(road.sent) < 3:
            await asyncio.sleep(0.001)
        assert [wire[1] for wire in road.sent[2][0]] == [1, 3]
        road.sent[1][1]([b"4", b"5"])
        road.sent[2][1]([b"1", b"3"])
        assert [futures[n].result() for n in (0, 2, 3, 4)] == [b"1", b"3", b"4", b"5"]
        assert [c.sends for c in calls] == [2, 1, 2, 1, 1]
        outbox.close(Stopped)

    run(scenario)


def test_so_many_groups_may_be_under_way() -> None:
    """No more than GROUPS groups are without an answer, none has more than GROUP_CALLS calls; the rest waits."""

    async def scenario() -> None:
        road = Road()
        outbox = Outbox(lambda: road, 1 << 20, 1 << 30)
        session = Session(b"s")
        total = GROUP_CALLS * (GROUPS + 2)
        futures = [outbox.put(call(session)) for _ in range(total)]
        await turns()
        assert [len(group) for group, _ in road.sent] == [GROUP_CALLS] * GROUPS
        answered = 0
        while answered < len(road.sent):
            group, done = road.sent[answered]
            done([b"x"] * len(group))
            answered += 1
            await turns()
            assert len(road.sent) - answered <= GROUPS
        assert sum(len(group) for group, _ in road.sent) == total
        assert all(future.done() for future in futures)
        outbox.close(Stopped)

    run(scenario)


def test_without_a_path_calls_wait_until_there_is_one() -> None:
    """A path that comes is used when the outbox is woken; a closed outbox ends what waits, and whoever comes."""

    async def scenario() -> None:
        roads: list[Road] = []
        outbox = Outbox(lambda: roads[0] if roads else None, 10, 1000)
        session = Session(b"s")
        future = outbox.put(call(session))
        await turns()
        roads.append(Road())
        outbox.wake()
        await turns()
        assert len(roads[0].sent) == 1
        roads[0].sent[0][1]([b"done"])
        assert await future == b"done"
        waiting = outbox.put(call(session))
        room = [outbox.put(call(session)) for _ in range(9)]
        queued = asyncio.ensure_future(outbox.room(lambda future: None))
        await turns()
        outbox.close(lambda: Stopped("closed"))
        for end in (waiting, *room, queued, outbox.put(call(session))):
            with pytest.raises(Stopped):
                await end
        with pytest.raises(Stopped):
            await outbox.room(lambda future: None)
        roads[0].sent[-1][1](None)  # too late to matter

    run(scenario)


def test_sessions_acknowledge_what_nobody_waits_for() -> None:
    """They do up to the lowest number that is open or unresolved; beyond a limit the oldest of these is given up."""
    session = Session(b"s")
    calls = [call(session) for _ in range(5)]
    assert session.acknowledged == 0
    session.end(calls[1])
    session.end(calls[0])
    assert session.acknowledged == 2
    session.leave(calls[2])
    session.end(calls[3])
    session.end(calls[4])
    assert session.acknowledged == 2
    assert session.is_unresolved(calls[2])
    session.end(calls[2])
    assert session.acknowledged == 5
    assert not session.is_unresolved(calls[2])
    left = [call(session) for _ in range(UNRESOLVED + 1)]
    for one in left:
        session.leave(one)
    assert not session.is_unresolved(left[0])
    assert session.is_unresolved(left[1])
    assert session.acknowledged == left[0].number


@pytest.mark.parametrize("seed", range(20))
def test_a_session_acknowledges_up_to_the_first_call_that_is_open_or_unknown(seed: int) -> None:
    """It does in whichever order calls end, with outcomes or without."""
    draw = random.Random(seed)
    session = Session(b"s")
    waiting: list[Call] = []
    unknown: list[Call] = []
    for _ in range(200):
        kind = draw.choice(["begin", "begin", "end", "leave", "lose", "outcome"])
        if kind == "begin" or not waiting:
            waiting.append(call(session))
        elif kind == "outcome" and unknown:
            session.end(unknown.pop(draw.randrange(len(unknown))))
        else:
            ended = waiting.pop(draw.choice([0, draw.randrange(len(waiting))]))
            if kind in ("leave", "lose"):
                session.lose(ended, Unknown("late", ended))
                unknown.append(ended)
            else:
                session.end(ended)
        assert [session.is_unresolved(c) for c in unknown] == [True] * len(unknown)
        wanted = min([c.number for c in waiting + unknown], default=None)
        begun = session._next
        assert session.acknowledged == (begun if wanted is None else wanted) - 1


def test_a_call_that_was_not_sent_is_not_kept() -> None:
    """One whose caller was cancelled is not kept either: nobody asks for them."""
    for exc in (Unknown("no room", sent=False), asyncio.CancelledError(), Stopped("closed")):
        session = Session(b"s")
        ended = call(session)
        session.lose(ended, exc)
        assert not session.is_unresolved(ended)
        assert session.acknowledged == 1


def test_calls_end_when_they_are_late() -> None:
    """They end with what is known of them, and not before; one timer does, and none is left when nobody waits."""

    async def scenario() -> None:
        road = Road()
        outbox = Outbox(lambda: road, 10, 1000)
        session = Session(b"s")
        calls = [call(session) for _ in range(3)]
        futures = [outbox.put(c, seconds) for c, seconds in zip(calls, (0.0, 1000.0, 0.0), strict=True)]
        with pytest.raises(Unknown, match="may have happened") as caught:
            await futures[2]
        assert caught.value.sent
        assert futures[0].done()
        assert futures[0].exception() is not None
        assert not futures[1].done()
        for c in calls:
            outbox.release(c)
        outbox._sweep()
        assert outbox._sweeper is None
        road_is_closed = Outbox(lambda: None, 10, 1000)
        road_is_closed.reason = lambda: "roadworks"
        with pytest.raises(Unknown, match="was not sent, and will not be: roadworks") as caught:
            await road_is_closed.put(call(session), 0.0)
        assert not caught.value.sent
        outbox.close(Stopped)
        road_is_closed.close(Stopped)

    run(scenario)
