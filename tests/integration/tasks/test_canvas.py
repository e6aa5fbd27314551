"""A canvas of Celery becomes a workflow with the value that Celery gives, and loses nothing on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from celery import Signature, chain, chord, group

from support import shop
from support.broker import Broker, Workers
from support.canvases import SHAPES, Make, celerys_value
from support.command_line import run as run_command
from support.shop import add, declines, echo, mul, noted, same, total
from workflow_engine import Execution, ExecutionStatus, WorkflowClient, durable
from workflow_engine.broker.wire_format import task_body
from workflow_engine.definition.text import read_definition
from workflow_engine.errors import DefinitionInvalid
from workflow_engine.nodes.loading import load_node_types
from workflow_engine.validation import validate, validate_text


def test_every_shape_gives_the_value_that_celery_gives(client: WorkflowClient, workers: Workers) -> None:
    started = {name: durable(make(), client=client).start() for name, (make, _) in SHAPES.items()}
    workers.drain()

    differences = {}
    for name in SHAPES:
        celerys = celerys_value(name)
        execution = client.get(started[name].id)
        if (execution.status, execution.result) != (ExecutionStatus.COMPLETED, celerys):
            differences[name] = (celerys, execution.result, execution.status, execution.error)
    assert differences == {}
    assert len(SHAPES) >= 60


def test_a_shape_goes_through_yaml_and_keeps_its_hash() -> None:
    registry = load_node_types()

    for name, (make, _) in SHAPES.items():
        workflow = durable(make()).workflow
        text = json.dumps(workflow.to_dict())
        assert validate_text(text, registry).content_hash() == workflow.content_hash(), name
        assert durable(make()).workflow == workflow, name


def test_a_result_is_there_once_whichever_hop_is_repeated(
    client: WorkflowClient, workers: Workers, broker: Broker
) -> None:
    """A message that comes twice, and a worker that loses the cached context, at every hop."""
    make, _ = SHAPES["everything"]
    execution = durable(make(), client=client).start()
    repeated = set()
    while broker.queue:
        if (first := broker.queue[0]).message not in repeated:
            repeated.add(first.message)
            broker.queue.append(first)
        message = workers.hop()
        client._engine.cache.remove_from_cache(message.execution_id)

    assert client.get(execution.id).result == celerys_value("everything")
    rows = client.journal(execution.id)
    assert len({row.node_id for row in rows}) == len(rows)


# -- the shape is the workflow, the arguments are data -----------------------------------------------------


def test_starts_of_one_shape_are_executions_of_one_version(client: WorkflowClient, workers: Workers) -> None:
    started = [durable(add.s(i, 1) | group(add.s(i), mul.s(i)), client=client).start() for i in range(5)]
    other = durable(add.s(1, 1) | group(add.s(1), add.s(1)), client=client).start()
    workers.drain()

    executions = [client.get(each.id) for each in started]
    assert {(each.workflow_id, each.version) for each in executions} == {(executions[0].workflow_id, 1)}
    assert [each.result for each in executions] == [[2 * i + 1, (i + 1) * i] for i in range(5)]
    assert client.get(other.id).workflow_id != executions[0].workflow_id


def test_a_canvas_may_have_a_name_whose_shapes_are_its_versions(
    client: WorkflowClient, workers: Workers
) -> None:
    first = durable(add.s(1, 1), "sums", client=client).start(idempotency_key="k")
    second = durable(add.s(1, 1) | add.s(1), "sums", client=client).start()
    again = durable(add.s(1, 1), "sums", client=client).start()
    same_key = durable(add.s(1, 1), "sums", client=client).start(idempotency_key="k")
    workers.drain()

    assert [client.get(each.id).version for each in (first, second, again)] == [1, 2, 1]
    assert [client.get(each.id).result for each in (first, second, again)] == [2, 3, 2]
    assert same_key.id == first.id


@pytest.mark.parametrize("members", [10, 201, 2_000])
def test_a_message_is_short_however_many_members_there_are(
    client: WorkflowClient, workers: Workers, broker: Broker, members: int
) -> None:
    execution = durable(chord([add.s(i, 1) for i in range(members)], total.s()), client=client).start()

    sizes = [len(orjson.dumps(task_body(dispatch.message))) for dispatch in broker.queue]
    assert max(sizes) < 1_000
    if members < 2_000:
        workers.drain()
        assert client.get(execution.id).result == sum(range(1, members + 1))


def test_a_large_group_is_a_loop_whose_shape_does_not_depend_on_its_size() -> None:
    small, large = (durable(group(add.s(i, i) for i in range(size))) for size in (300, 5_000))

    assert small.workflow == large.workflow
    assert [node.kind for node in small.workflow.nodes] == ["trigger/manual", "logic/loop"]


def test_a_large_group_of_several_tasks_is_refused_by_path() -> None:
    with pytest.raises(DefinitionInvalid, match=r"group\[299\]: differs from the first of 300 members"):
        durable(group([*(add.s(i, i) for i in range(299)), mul.s(1, 2)]))


# -- links, options, stamps ------------------------------------------------------------------------------


def run(canvas: Signature, client: WorkflowClient, workers: Workers) -> Execution:
    """Start a canvas, serve its messages, and return the execution."""
    execution = durable(canvas, client=client).start()
    workers.drain()
    return client.get(execution.id)


def test_a_link_is_a_branch_beside_the_value(client: WorkflowClient, workers: Workers) -> None:
    first = add.s(1, 1)
    first.link(noted.s(note="first"))
    last = add.s(10)
    last.link(chain(mul.s(2), noted.s(note="last")))

    assert run(first | last, client, workers).result == 12
    assert sorted(shop.calls) == [("noted", 2, "first"), ("noted", 24, "last")]


def test_an_errback_is_called_as_celery_calls_it(client: WorkflowClient, workers: Workers) -> None:
    failing = declines.s()
    failing.link_error(shop.handle_error.s(note="mine"))
    failing.link_error(shop.handle_id.s())

    execution = run(add.s(1, 1) | failing | add.s(1), client, workers)

    assert (execution.status, execution.error) == (ExecutionStatus.FAILED, "no money")
    failed = f"{execution.id}:declines_2:1"
    assert [call for call in shop.calls if "errback" in call[0]] == [
        ("errback", failed, "shop.declines", "Declined", "no money", "mine"),
        ("old errback", failed),
    ]


def test_an_errback_of_a_chain_or_a_chord_is_one_of_each_of_its_tasks(
    client: WorkflowClient, workers: Workers
) -> None:
    body = total.s().on_error(shop.handle_error.s(note="chord"))
    execution = run(chord([add.s(1, 1), declines.s()], body), client, workers)
    assert execution.status is ExecutionStatus.FAILED
    assert [call[-1] for call in shop.calls if call[0] == "errback"] == ["chord"]

    shop.calls.clear()
    line = chain(add.s(1, 1), declines.s())
    line.link_error(shop.handle_error.s(note="chain"))
    run(line, client, workers)
    assert [call[-1] for call in shop.calls if call[0] == "errback"] == ["chain"]


def test_a_retry_goes_on_from_the_member_that_failed(client: WorkflowClient, workers: Workers) -> None:
    rejects = shop.rejects.s(1, False)
    execution = run(chord([add.s(1, 1), rejects], same.s()), client, workers)
    assert execution.status is ExecutionStatus.FAILED

    client.control.retry(execution.id)
    workers.drain()

    assert client.get(execution.id).result == [2, "taken, retries 0"]
    assert [row.node_id for row in client.journal(execution.id)].count("add_1") == 1


def test_a_countdown_and_an_eta_are_delays(
    client: WorkflowClient,
    workers: Workers,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], Any],
) -> None:
    due = datetime.now(UTC) + timedelta(hours=2)
    canvas = add.s(1, 1).set(countdown=60) | group(add.s(1).set(eta=due), add.s(2))
    execution = run(canvas, client, workers)
    assert execution.status is ExecutionStatus.WAITING

    for seconds in (61, 7_200):
        time_passes(seconds)
        wake_due()
        workers.drain()

    assert client.get(execution.id).result == [3, 4]


def test_options_are_those_of_the_node(client: WorkflowClient, workers: Workers, broker: Broker) -> None:
    options = {"queue": "fast", "priority": 1, "time_limit": 30, "soft_time_limit": 20, "shadow": "sum"}
    canvas = durable(add.s(1, 1).set(**options), client=client)
    canvas.start()

    (node,) = [node for node in canvas.workflow.nodes if node.type == "action"]
    assert (node.queue, node.priority, node.timeout, node.label) == ("fast", 1, 30, "sum")
    assert node.config["softTimeLimit"] == 20
    assert [(each.queue, each.priority) for each in broker.queue] == [("fast", 1)]


def test_seconds_after_which_a_task_expires_are_those_it_may_stand_in_its_queue(
    client: WorkflowClient, workers: Workers, sql: Callable[..., Any]
) -> None:
    canvas = add.s(1, 1) | add.s(1).set(expires=60)
    execution = durable(canvas, client=client).start()
    workers.hop()
    assert sql("SELECT node_id, seconds FROM queue_deadlines") == [("add_2", 60.0)]

    sql("UPDATE queue_deadlines SET expires_at = now() - interval '1 second'")
    workers.drain()

    assert client.get(execution.id).error_details["type"] == "QUEUE_TIMEOUT"
    delayed = durable(add.s(1).set(expires=60, countdown=20)).workflow
    large = durable(group(add.s(i).set(expires=60) for i in range(201))).workflow
    assert [node.queue_timeout for node in delayed.nodes if node.type == "action"] == [40]
    assert large.nodes[1].config["body"]["nodes"][0]["queueTimeout"] == 60


def test_options_of_a_group_are_those_of_its_members() -> None:
    workflow = durable(group(add.s(1), add.s(2).set(queue="own")).set(queue="all")).workflow

    assert [node.queue for node in workflow.nodes if node.kind == "action/celery-task"] == ["all", "all"]


def test_stamps_and_headers_reach_the_task(client: WorkflowClient, workers: Workers) -> None:
    canvas = shop.stamps.s().set(headers={"tenant": "north"})
    canvas.stamp(order="o-1")

    assert run(canvas, client, workers).result == {
        "stamps": {"order": ["o-1"]},
        "headers": {"tenant": "north"},
    }


# -- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (
            lambda: add.s(1) | add.s(2).set(expires=datetime(2026, 1, 1, tzinfo=UTC)),
            "chain[1].options.expires: a shape has no point in time",
        ),
        (
            lambda: add.s(1).set(expires=5, countdown=9),
            "shop.add.options.expires: it is over before the countdown",
        ),
        (lambda: group(add.s(1), add.s(object())), "group[1].args: kombu cannot write it as JSON"),
        (lambda: chord([add.s(1)], total.s(x=object())), "chord.body.kwargs: kombu cannot write it as JSON"),
        (
            lambda: add.s(1).set(exchange="topics"),
            "shop.add.options.exchange: nodes are sent to queues by name",
        ),
        (lambda: add.s(1).set(colour="red"), "shop.add.options.colour: is no option that a node can have"),
        (lambda: {"task": "celery.chord", "kwargs": {"header": []}}, "chord.body: is missing"),
        (lambda: {"task": "celery.group", "kwargs": {"tasks": 5}}, "group: has int in place of a list"),
        (lambda: {"task": None}, "canvas: is dict, not the signature of a task"),
        (
            lambda: add.s(1).on_error(add.s(1) | add.s(2)),
            "shop.add.options.link_error[0]: must be one task",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_a_workflow_cannot_have_is_refused_by_name_and_path(make: Make, problem: str) -> None:
    with pytest.raises(DefinitionInvalid) as refusal:
        durable(make())

    assert [str(each) for each in refusal.value.problems if str(each).startswith(problem)], refusal.value


# -- a task alone, and the command -------------------------------------------------------------------------


def test_a_task_is_started_without_a_definition(client: WorkflowClient, workers: Workers) -> None:
    first = client.start_task("shop.add", [1, 2], idempotency_key="order-1")
    twice = client.start_task(add, [1, 2], idempotency_key="order-1")
    other = client.start_task(add, kwargs={"x": Decimal("1.5"), "y": Decimal(2)})
    retried = client.start_task(declines, retry={"maxAttempts": 2, "waitDuration": 0})
    workers.drain()

    assert twice.id == first.id
    assert client.get(first.id).result == 3
    assert client.get(other.id).result == {"__type__": "decimal", "__value__": "3.5"}
    assert client.get(first.id).workflow_id == client.get(other.id).workflow_id
    assert client.get(first.id).workflow_id.startswith("task-shop-add-")
    assert client.get(retried.id).status is ExecutionStatus.FAILED
    assert len([row for row in client.journal(retried.id) if row.type == "action"]) == 2


def test_a_task_whose_workflow_was_removed_is_deployed_again(
    client: WorkflowClient, workers: Workers, sql: Callable[..., Any]
) -> None:
    client.start_task(echo, [1])
    workers.drain()
    sql("DELETE FROM executions")
    sql("DELETE FROM triggers")
    sql("DELETE FROM workflow_versions")
    sql("DELETE FROM workflows")

    execution = client.start_task(echo, [2])
    workers.drain()

    assert client.get(execution.id).result == {"args": [2], "kwargs": {}}


checkout = chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s())


def test_the_command_prints_the_workflow_of_a_canvas() -> None:
    printed = run_command("canvas", f"{__name__}:checkout", "--name", "checkout")

    assert printed.exit_code == 0, printed.output
    content = read_definition(printed.stdout)
    assert validate(content, load_node_types()) == durable(checkout, "checkout").workflow
    refused = run_command("canvas", f"{__name__}:nothing")
    assert "has no 'nothing'" in refused.output
