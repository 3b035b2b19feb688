"""io_uv.end_of_turn: steps that are done once, and their order."""

from collections.abc import Callable

from io_uv.end_of_turn import EndOfTurn
from io_uv.pyuv import Loop, Timer


def run(first: Callable[[EndOfTurn, list[str]], None]) -> list[str]:
    """Call `first(end, log)` in a callback of a loop, and return the log when the loop has nothing left to do."""
    loop = Loop()
    raised: list[str] = []
    loop.excepthook = lambda typ, value, tb: raised.append(f"raised {value}")
    end, log = EndOfTurn(loop), raised
    timer = Timer(loop)

    def begin(_: Timer) -> None:
        first(end, log)
        log.append("turn")

    timer.start(begin, 0.0, 0.0)
    loop.run()
    timer.close()
    end.close(lambda _: None)
    loop.run()
    loop.close()
    return log


def test_a_function_runs_once_at_the_end_of_the_turn() -> None:
    """However often it was added, and in the order of the first time."""

    def first(end: EndOfTurn, log: list[str]) -> None:
        a, b = (lambda: log.append("a")), (lambda: log.append("b"))
        for function in (a, b, a, a, b):
            end.add(function)

    assert run(first) == ["turn", "a", "b"]


def test_what_may_wait_comes_behind_all_that_is_added() -> None:
    """It comes behind what a function adds after it, too; and it may add something itself."""

    def first(end: EndOfTurn, log: list[str]) -> None:
        def last() -> None:
            log.append("last")
            end.add(lambda: log.append("at the very end"))

        def a() -> None:
            end.add_last(last)
            end.add(b)
            end.add_last(last)

        def b() -> None:
            log.append("b")
            end.add(lambda: log.append("c"))

        end.add(a)

    assert run(first) == ["turn", "b", "c", "last", "at the very end"]


def test_what_may_wait_can_be_added_at_any_time() -> None:
    """It can before the end of the turn, and in an event, after which it runs behind the rest."""

    def first(end: EndOfTurn, log: list[str]) -> None:
        end.add_last(lambda: log.append("last"))
        end.add(lambda: log.append("a"))
        end.hold()
        end.add_last(lambda: log.append("in it"))
        log.append("event")
        end.release()
        end.add_last(lambda: log.append("next"))

    assert run(first) == ["event", "a", "last", "in it", "turn", "next"]


def test_what_may_follow_has_its_turn_once_in_an_event() -> None:
    """Behind all others, what it adds is run, but not what it asks for itself: that is for the next event."""

    def first(end: EndOfTurn, log: list[str]) -> None:
        def then() -> None:
            log.append("then")
            end.add(lambda: log.append("added"))
            assert not end.then(lambda: log.append("another"))

        for _ in range(2):
            end.hold()
            assert end.then(then)
            end.add_last(lambda: log.append("last"))
            end.add(lambda: log.append("a"))
            end.release()
            log.append("event")

    assert run(first) == ["a", "last", "then", "added", "event"] * 2 + ["turn"]


def test_what_may_follow_is_refused_outside_of_an_event() -> None:
    """In one of the functions that end a turn it is taken, and run even if one of them raises."""

    def first(end: EndOfTurn, log: list[str]) -> None:
        assert not end.then(lambda: log.append("never"))

        def ask_and_raise() -> None:
            assert end.then(lambda: log.append("then"))
            raise ValueError("bug")

        end.add(ask_and_raise)

    assert run(first) == ["turn", "raised bug", "then"]


def test_an_exception_does_not_take_the_others_along() -> None:
    """It goes to the loop's excepthook, and the rest runs in the next turn."""

    def first(end: EndOfTurn, log: list[str]) -> None:
        def fail() -> None:
            end.add_last(lambda: log.append("last"))
            raise ValueError("oops")

        end.add(fail)
        end.add(lambda: log.append("b"))

    assert run(first) == ["turn", "raised oops", "b", "last"]


def test_what_an_event_asks_for_is_done_right_after_it() -> None:
    """It is in the same turn, and together with what was waiting for the end of the turn."""

    def first(end: EndOfTurn, log: list[str]) -> None:
        end.add(lambda: log.append("before"))
        end.hold()
        end.add(lambda: log.append("in it"))
        log.append("event")
        end.release()
        log.append("afterwards")

    assert run(first) == ["event", "before", "in it", "afterwards", "turn"]


def test_an_event_inside_a_function_leaves_the_rest_in_order() -> None:
    """The work that it asks for comes behind what is waiting."""

    def first(end: EndOfTurn, log: list[str]) -> None:
        def a() -> None:
            end.add(lambda: log.append("b"))
            end.hold()
            end.add(lambda: log.append("c"))
            end.release()
            end.add_last(lambda: log.append("last"))
            log.append("a")

        end.add(a)

    assert run(first) == ["turn", "a", "b", "c", "last"]


def test_after_an_exception_in_an_event_the_rest_runs_in_the_next_turn() -> None:
    """Nothing is forgotten."""

    def first(end: EndOfTurn, log: list[str]) -> None:
        def fail() -> None:
            raise ValueError("oops")

        end.hold()
        end.add(fail)
        end.add(lambda: log.append("b"))
        try:
            end.release()
        except ValueError:
            log.append("raised")

    assert run(first) == ["raised", "turn", "b"]


def test_the_rest_of_long_work_waits_for_others() -> None:
    """Each piece that is asked for comes in a turn of its own, and timers that are due have theirs between them."""

    def first(end: EndOfTurn, log: list[str]) -> None:
        timer = Timer(end._handle._loop)

        def fired(timer: Timer) -> None:
            log.append("timer")
            timer.close()

        def piece() -> None:
            log.append("piece")
            if "timer" not in log:
                end.later(piece)

        end.later(piece)
        end.add(lambda: log.append("end"))
        timer.start(fired, 0.01, 0.0)

    log = run(first)
    assert log[:3] == ["turn", "piece", "end"]
    assert log[3:] == ["piece"] * (len(log) - 5) + ["timer", "piece"]


def test_a_piece_that_raises_keeps_none_of_the_others() -> None:
    """They come in the next turn; and a close forgets what has not come."""

    def first(end: EndOfTurn, log: list[str]) -> None:
        def bad() -> None:
            raise ValueError("bad")

        end.later(bad)
        end.later(lambda: log.append("other"))

    assert run(first) == ["turn", "raised bad", "other"]

    def closing(end: EndOfTurn, log: list[str]) -> None:
        end.later(lambda: log.append("never"))
        end._later.clear()

    assert run(closing) == ["turn"]
