"""Spans of OpenTelemetry, by its API alone: the application chooses the SDK that exports them, and where to.

The only module that uses opentelemetry-api, which the extra `otel` installs. A trace context travels as text,
in the form of the W3C: `traceparent`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from workflow_engine.errors import ExtraMissing
from workflow_engine.telemetry.exposition import DISTRIBUTION

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"

INSTRUMENTATION = "workflow_engine"
"""The name of the tracer, by which a backend knows who made a span."""

Attributes = Mapping[str, str | int | float | bool]


def is_sampled(traceparent: str | None) -> bool:
    """Return whether the trace of this context is recorded."""
    return traceparent is not None and traceparent[-1:] in "13579bdf" and len(traceparent) == 55


class Tracing:
    """Makes spans. Raises `ExtraMissing` if opentelemetry-api is not installed."""

    def __init__(self) -> None:
        if not _is_installed():
            raise ExtraMissing("opentelemetry-api", f"{DISTRIBUTION}[otel]")
        from opentelemetry import context, trace

        self._trace = trace
        self._context = context
        # It becomes one of the application's SDK once that is set up.
        self._tracer = trace.get_tracer(INSTRUMENTATION)
        token = context.attach(context.get_current())
        self.current: ContextVar[Context] = token.var
        """The variable behind `attach` and `detach`: every hop that is not sampled would call both."""
        context.detach(token)

    @contextmanager
    def producer(self, name: str, attributes: Attributes) -> Iterator[dict[str, str]]:
        """Make a span around the block, below the caller's own; yield its context, as a carrier of texts.

        The carrier is empty where nothing traces.
        """
        with self._tracer.start_as_current_span(
            name, kind=self._trace.SpanKind.PRODUCER, attributes=dict(attributes)
        ) as span:
            yield _carrier(span.get_span_context())

    @contextmanager
    def consumer(
        self, name: str, parent: Mapping[str, str], cause: str | None, attributes: Attributes
    ) -> Iterator[Span]:
        """Make a span around the block, below `parent` and linked to the span `cause`."""
        about = self._context_of(parent.get(TRACEPARENT), parent.get(TRACESTATE))
        around = self._trace.set_span_in_context(self._trace.NonRecordingSpan(about)) if about else None
        linked = self._context_of(cause)
        span = self._tracer.start_span(
            name,
            context=around,
            kind=self._trace.SpanKind.CONSUMER,
            attributes=dict(attributes),
            links=[self._trace.Link(linked)] if linked is not None else None,
        )
        with self._trace.use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            yield span

    @lru_cache(maxsize=1024)  # noqa: B019 - there is one tracing for the process
    def unsampled(self, traceparent: str) -> Context | None:
        """Return a context that has this trace, and nothing else; None if the trace is recorded."""
        if is_sampled(traceparent):
            return None
        about = self._context_of(traceparent)
        span = self._trace.INVALID_SPAN if about is None else self._trace.NonRecordingSpan(about)
        return self._trace.set_span_in_context(span, self._context.Context())

    def merged(self, around: Context, following: Context) -> Context:
        """Return the second context, with what only the first has."""
        return self._context.Context({**around, **following})

    def fail(self, span: Span, type: str, message: str) -> None:
        """Mark a span as that of something that failed."""
        span.set_attribute("error.type", type)
        span.set_status(self._trace.StatusCode.ERROR, message)

    def text_of(self, span: Span) -> str | None:
        """Return the context of a span as text; None if it has none."""
        return _carrier(span.get_span_context()).get(TRACEPARENT)

    def _context_of(self, traceparent: str | None, tracestate: str | None = None) -> SpanContext | None:
        """Read a context; return None for a text that is none, as a foreign message may have it."""
        if traceparent is None:
            return None
        try:
            _, trace_id, span_id, flags = traceparent.split("-")
            about = self._trace.SpanContext(
                int(trace_id, 16),
                int(span_id, 16),
                is_remote=True,
                trace_flags=self._trace.TraceFlags(int(flags, 16)),
                trace_state=self._trace.TraceState.from_header([tracestate]) if tracestate else None,
            )
        except ValueError:
            return None
        return about if about.is_valid else None


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.trace") is not None
    except ModuleNotFoundError:  # no package of OpenTelemetry at all
        return False


def _carrier(about: SpanContext) -> dict[str, str]:
    if not about.is_valid:
        return {}
    traceparent = f"00-{about.trace_id:032x}-{about.span_id:016x}-{about.trace_flags:02x}"
    state = about.trace_state.to_header() if about.trace_state else ""
    return {TRACEPARENT: traceparent, **({TRACESTATE: state} if state else {})}
