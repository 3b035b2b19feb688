"""Doing something once at the end of the loop's turn, or of an event, or in a later turn.

Duty: `EndOfTurn` runs functions after everything that is due in this turn has been handled and before the loop waits
again. A request of many callbacks of a turn is thus carried out once: `RaftIo.defer` is made of it. The handler of an
event that brings all at once, such as a read with many messages or the end of a write, says so with hold() and
release(): requests in between are carried out right after, without another round of the loop.

Happy path: add(function), any number of times; it runs once. add_last(function) for what may wait for all that.
then(function) for what may follow in the same event or turn, but only once in it, lest others never have their turn.
later(function) is for the rest of long work: it runs when timers and events that wait by then have been handled.
Failure modes: an exception goes to the loop's excepthook; all that has not run yet does in the next turn.
"""

from collections.abc import Callable

from io_uv.pyuv import Idle, Loop, Prepare


class EndOfTurn:
    """Functions to run once at the end of this turn or event, in the order in which they were first added.

    A function that is added by one of them runs as well, behind the others: so the core's flush reaches the sockets.
    """

    __slots__ = (
        "_followed",
        "_forgotten",
        "_functions",
        "_handle",
        "_held",
        "_idle",
        "_last",
        "_later",
        "_running",
        "_then",
    )

    def __init__(self, loop: Loop) -> None:
        self._functions: list[Callable[[], None]] = []
        self._last: list[Callable[[], None]] = []
        self._later: list[Callable[[], None]] = []
        self._handle = Prepare(loop)
        self._idle = Idle(loop)
        self._then: Callable[[], None] | None = None
        # Whether the function that may follow has been run at the end of this event or turn.
        self._followed = False
        self._held = False
        self._running = False
        self._forgotten = False

    def add(self, function: Callable[[], None]) -> None:
        """Run `function` at the end of the turn or event, once however often it is added."""
        functions = self._functions
        if not functions:
            if not self._running and not self._held:
                self._handle.start(self._end)
        elif function in functions:
            return
        functions.append(function)

    def add_last(self, function: Callable[[], None]) -> None:
        """Run `function` once, when all others have run and what they add."""
        if not self._last:
            if not self._running and not self._held:
                self._handle.start(self._end)
        elif function in self._last:
            return
        self._last.append(function)

    def then(self, function: Callable[[], None]) -> bool:
        """Run `function` behind all others at the end of the event or turn that is being handled, and what it adds.

        Return False, and do nothing, outside of an event or turn, or if such a function has been run in it already: the
        caller has it done in the next turn then. A close that comes first keeps it from running, too.
        """
        if not (self._held or self._running) or self._followed:
            return False
        self._then = function
        return True

    def later(self, function: Callable[[], None]) -> None:
        """Run `function` once in a later turn; the loop does not wait until then, but handles what there is."""
        if not self._later:
            self._idle.start(self._next)
        self._later.append(function)

    def _next(self, handle: Idle) -> None:
        functions, self._later = self._later, []
        handle.stop()
        for i, function in enumerate(functions):
            if self._forgotten:
                return
            try:
                function()
            except BaseException:
                for rest in functions[i + 1 :]:
                    self.later(rest)
                raise

    def hold(self) -> None:
        """An event begins. Each hold() is followed by a release(), whatever happens; they do not nest."""
        self._held = True

    def release(self) -> None:
        """The event has been handled: run what there is to run."""
        self._held = False
        if (self._functions or self._last or self._then is not None) and not self._running:
            self._run()

    def close(self, cb: Callable[[Idle], None]) -> None:
        """Forget what has not run; `cb(handle)` follows when nothing is left."""
        self._functions.clear()
        self._last.clear()
        self._later.clear()
        self._then = None
        self._handle.close(lambda _: self._idle.close(cb))

    def forget(self) -> None:
        """In a forked child: run nothing any more."""
        self._forgotten = True
        self._functions.clear()
        self._last.clear()
        self._later.clear()
        self._then = None

    def _end(self, handle: Prepare) -> None:
        handle.stop()
        self._run()

    def _run(self) -> None:
        self._running = True
        try:
            self._run_all()
            if self._then is not None:
                self._follow()
        finally:
            self._running = self._followed = False
            if self._functions or self._last or self._then is not None:
                self._handle.start(self._end)

    def _follow(self) -> None:
        # A method, as mypyc takes a field that was set to None for None from then on, whatever is called in between.
        then, self._then = self._then, None
        if then is not None:
            self._followed = True
            then()
            self._run_all()

    def _run_all(self) -> None:
        while self._functions or self._last:
            if not self._functions:
                self._functions, self._last = self._last, []
            functions, self._functions = self._functions, []
            for i, function in enumerate(functions):
                try:
                    function()
                except BaseException:
                    self._functions = functions[i + 1 :] + self._functions
                    raise
                if self._forgotten:
                    return
