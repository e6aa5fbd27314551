"""An execution that runs on several workers is one trace, with Celery's own instrumentation and without."""

from __future__ import annotations

from itertools import pairwise

import pytest
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from support.fleet import Fleet
from support.json_lines import lines_of
from support.polling import poll
from workflow_engine import WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine

APP = """
import json, os
from celery.signals import worker_process_init
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from workflow_engine.worker.app import app


class Lines(SpanExporter):
    def export(self, spans):
        with open("spans", "a") as file:
            for span in spans:
                line = {
                    "name": span.name, "trace": span.context.trace_id, "span": span.context.span_id,
                    "parent": span.parent and span.parent.span_id, "worker": os.getppid(),
                    "links": [link.context.span_id for link in span.links],
                }
                file.write(json.dumps(line) + "\\n")
        return SpanExportResult.SUCCESS


@worker_process_init.connect(weak=False)
def trace_here(**_):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Lines()))
    trace.set_tracer_provider(provider)
    if IS_INSTRUMENTED:
        CeleryInstrumentor().instrument()
"""
QUEUES = ("north", "south", "east")
PRODUCER = SpanContext(0xA11CE << 96, 0xB0B, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


@pytest.mark.parametrize("is_instrumented", [True, False], ids=["instrumented", "by itself"])
def test_five_nodes_on_three_workers_are_one_trace(own_fleet: Fleet, is_instrumented: bool) -> None:
    fleet = own_fleet
    (fleet.folder / "traced.py").write_text(APP.replace("IS_INSTRUMENTED", str(is_instrumented)))
    workers = [
        fleet.add_worker(queue, "-Q", queue, app="traced", concurrency=1, WORKFLOW_ENGINE_TRACING="true")
        for queue in QUEUES
    ]
    flow = WorkflowBuilder("journey")
    last = flow.trigger("begin")
    for number in range(5):
        last = last >> flow.python(
            f"stop{number}", "test.echo", arguments={"value": number}, queue=QUEUES[number % 3]
        )
    for worker in workers:
        worker.ready()
    producer = WorkflowClient(engine=Engine.assemble(fleet.settings.model_copy(update={"tracing": True})))
    producer.deploy(flow.build())

    token = context.attach(trace.set_span_in_context(NonRecordingSpan(PRODUCER)))
    try:
        execution = producer.start("journey").id
    finally:
        context.detach(token)
    fleet.completed(execution)

    names = [f"journey/stop{number}" for number in range(5)]
    written = fleet.folder / "spans"
    poll(lambda: {span["name"] for span in lines_of(written)} >= set(names), "every attempt has a span")
    spans = lines_of(written)
    attempts = [next(span for span in spans if span["name"] == name) for name in names]
    assert {span["trace"] for span in spans} == {PRODUCER.trace_id}
    assert len({span["worker"] for span in attempts}) == 3
    assert len({span["parent"] for span in attempts}) == 1, "all are below the start"
    for before, after in pairwise(attempts):
        assert after["links"] == [before["span"]]
    assert any(span["name"].startswith("run/") for span in spans) is is_instrumented
