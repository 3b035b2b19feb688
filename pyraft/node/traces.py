"""Traces of OpenTelemetry: the context of a call travels with it, and each part of its way is a span.

Duty: `find` returns a `Tracing` where a program has set up a TracerProvider (with the extra `otel`) before its node or
client began, else None, which costs nothing. The spans are `pyraft submit MACHINE.COMMAND` where the call is made,
`pyraft commit` at the leader, from the entry to its outcome, and `pyraft apply` on every member.

Happy path: contexts travel as a call of a machine of this layer, `Traces`, ahead of the calls that they belong to, so
the form of messages and of entries stays as it is; nothing is stored by it.

Failure modes: an older leader refuses that one call, and the others go on; a leader lets it into the log only where
each member has told that its program knows it (`admission`). A context that cannot be read is passed over. Entries that
are older than a minute, as at a start, make no spans.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from pyraft.node.codec import Codec, unframe
from pyraft.node.errors import Malformed
from pyraft.node.machine import Machine, command
from pyraft.node.proposer import Done, Wire
from pyraft.node.replica import NO_SESSION

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from pyraft.node.outbox import Call

TRACES: Final = "pyraft.traces"
"""The name of the machine."""

_MARK: Final = TRACES.encode()
_OLD_MICROSECONDS: Final = 60_000_000
_MOST: Final = 1024
"""Contexts that one call may have."""


class Traces(Machine):
    """The machine that contexts are addressed to; it has no state."""

    optional = True

    @command
    def note(self, contexts: list[Any]) -> None:
        """Do nothing: the member that applies it has looked at it before."""


def find() -> "Tracing | None":
    """Return a `Tracing`, None where OpenTelemetry is not installed, or the program has not set it up."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    return Tracing()


class Tracing:
    """The spans of one node or client; see the head of this module."""

    def __init__(self) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = trace.get_tracer("pyraft")
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._codec = Codec()

    # At the one who calls.

    @contextmanager
    def submit(self, name: str) -> Iterator[dict[str, str]]:
        """Make the span of a call; yields its context as it travels, {} where it is not recorded."""
        with self._tracer.start_as_current_span(f"pyraft submit {name}", kind=self._trace.SpanKind.CLIENT) as span:
            carrier: dict[str, str] = {}
            if span.get_span_context().trace_flags.sampled:
                self._propagator.inject(carrier)
            yield carrier

    def attach(self, calls: "list[Call]", wires: list[Wire], done: Done) -> tuple[list[Wire], Done]:
        """Return calls with their contexts ahead of them, and the callback for the outcomes of both."""
        contexts = [call.context for call in calls if call.context]
        if not contexts:
            return wires, done
        arguments = self._codec.pack([[contexts[:_MOST]], {}])

        def answered(outcomes: list[bytes] | None) -> None:
            done(None if outcomes is None else outcomes[1:])

        return [[NO_SESSION, 0, 0, TRACES, "note", 1, arguments], *wires], answered

    # At the leader, and where entries are applied.

    def commit(self, calls: list[Wire]) -> Callable[[bool], None]:
        """Begin the spans of an entry that is about to be replicated; return what ends them."""
        spans = self._begin("pyraft commit", calls)

        def end(known: bool) -> None:
            for span in spans:
                if not known:
                    span.set_status(self._trace.StatusCode.ERROR, "the outcome is not known here")
                span.end()

        return end

    def around(self, apply: Callable[[Any], Any], microseconds: Callable[[], int]) -> Callable[[Any], Any]:
        """Return a function that does what `apply(entry)` does, and makes spans; `microseconds()` is the time."""

        def watched(entry: Any) -> Any:
            spans = self._spans_of(bytes(entry), microseconds()) if _MARK in bytes(entry) else []
            try:
                return apply(entry)
            finally:
                for span in spans:
                    span.end()

        return watched

    def _spans_of(self, entry: bytes, now: int) -> "list[Span]":
        with contextlib.suppress(Malformed, ValueError, TypeError):
            time, calls = self._codec.unpack(unframe(entry))
            if now - time < _OLD_MICROSECONDS:
                return self._begin("pyraft apply", calls)
        return []

    def _begin(self, name: str, calls: list[Wire]) -> "list[Span]":
        return [
            self._tracer.start_span(name, context=self._propagator.extract(carrier))
            for call in calls
            if call[3] == TRACES
            for carrier in self._contexts(call[6])
        ]

    def _contexts(self, arguments: bytes) -> list[dict[str, str]]:
        """Return what a call of `note` has in it, whoever has made it."""
        try:
            (contexts,), _ = self._codec.unpack(arguments)
        except (Malformed, ValueError, TypeError):
            return []
        if type(contexts) is not list:
            return []
        return [one for one in contexts[:_MOST] if type(one) is dict and type(one.get("traceparent")) is str]
