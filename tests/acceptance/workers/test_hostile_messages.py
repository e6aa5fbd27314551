"""No message that lies in a queue ends a worker; each is reported in one short line."""

from __future__ import annotations

import json
import uuid
from base64 import b64encode
from typing import Any

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import WorkflowBuilder
from workflow_engine.broker.wire_format import TASK_NAME

EXECUTION = str(uuid.uuid4())
BODY = {"execution_id": EXECUTION, "workflow": "w", "version": 1, "node_id": "n", "seq": 1}
LONG = "x" * 100_000


def envelope(body: Any, **headers: Any) -> dict[str, Any]:
    """Return a message as kombu keeps it in Redis."""
    return {
        "body": b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": TASK_NAME, "id": str(uuid.uuid4()), **headers},
        "properties": {
            "correlation_id": "c",
            "delivery_info": {"exchange": "", "routing_key": "workflow"},
            "delivery_tag": str(uuid.uuid4()),
            "body_encoding": "base64",
        },
    }


def hop(**changes: Any) -> list[Any]:
    return [[], {**BODY, **changes}, {}]


NO_MESSAGES = [
    "no json",
    "",
    "null",
    "5",
    "[]",
    "{}",
    '{"headers": {}}',
    '{"properties": 5}',
    "[" * 100_000,
    b"\xff\xfe",
    json.dumps({**envelope(hop()), "properties": {}}),
    json.dumps({**envelope(hop()), "properties": {**envelope(hop())["properties"], "delivery_tag": ["a"]}}),
    json.dumps({**envelope(hop()), "body": 5}),
    json.dumps({**envelope(hop()), "body": "no base64!"}),
    json.dumps({**envelope(hop()), "headers": "none"}),
    json.dumps({"__type__": "uuid", "__value__": "none"}),
]
NO_HOPS = [
    *(envelope(body) for body in (None, 5, "text", [], {}, [[], [], {}], [[], {"seq": 1}, {}])),
    *(
        envelope(hop(**changes))
        for changes in ({"seq": "1"}, {"seq": 2**70}, {"execution_id": "a\nERROR: b"})
    ),
    envelope(hop(node_id="n\n[2026-01-01 00:00:00,000: ERROR/MainProcess] forged")),
    envelope(hop(node_id=LONG)),
    envelope(hop(), id="a\n[2026-01-01 00:00:00,000: ERROR/MainProcess] forged"),
    envelope(hop(), id=LONG),
    envelope(hop(), id=["a"]),
    envelope(hop(), task=["a"]),
    envelope(hop(), task={"a": 1}),
    envelope(hop(), shadow=["a"]),
    envelope(hop(), root_id={"a": 1}),
    envelope(hop(), retries="many"),
    envelope(hop(), timelimit=5),
    envelope(hop(), timelimit=["a", "b"]),
    envelope(hop(), eta="tomorrow"),
    envelope(hop(), eta=5),
    envelope(hop(), expires="2026-13-45"),
    {**envelope(hop()), "content-type": "application/x-python-serialize"},
    {**envelope(hop()), "body": b64encode(b"{no json").decode()},
]


def test_no_message_ends_a_worker_or_writes_lines_of_its_own(own_fleet: Fleet) -> None:
    flow = WorkflowBuilder("sound")
    flow.trigger("start") >> flow.function("only", 1)
    own_fleet.client.deploy(flow.build())
    worker = own_fleet.add_worker("one")
    worker.ready()
    pid, processes = worker.pid, worker.pool_pids

    hostile = [*NO_MESSAGES, *map(json.dumps, NO_HOPS)]
    for content in hostile:
        own_fleet.redis.lpush(own_fleet.settings.queue, content)

    assert own_fleet.completed(own_fleet.start("sound"), 60).result == 1
    poll(lambda: len(worker.lines("Refused ")) == len(hostile), "each of them is told of")
    assert (worker.pid, worker.pool_pids) == (pid, processes)
    lines = worker.logs().splitlines()
    assert not [line for line in lines if "forged" in line and "Refused " not in line]
    assert max(map(len, lines)) < 1_000
    assert not worker.lines("Traceback")
    # Their places in the worker's prefetch are free again.
    started = [own_fleet.start("sound") for _ in range(10)]
    assert [own_fleet.completed(each, 30).result for each in started] == [1] * 10
