"""A merge goes on with as many branches as it asks for, and fails if fewer have arrived than it requires."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Workers
from support.workflows import calling
from workflow_engine import ExecutionStatus, NodeStatus, WorkflowBuilder, WorkflowClient


def quick() -> str:
    return "quick"


def slow() -> str:
    return "slow"


def never_needed() -> str:
    raise AssertionError("the merge goes on without it")


def breaks() -> None:
    raise ValueError("no funds")


@pytest.fixture
def run(client: WorkflowClient, workers: Workers) -> Callable[[WorkflowBuilder], str]:
    """Return a function that runs a workflow to its end, and returns the id of its execution."""

    def to_end(flow: WorkflowBuilder) -> str:
        client.deploy(flow.build())
        execution = client.start(flow.id).id
        workers.drain()
        return execution

    return to_end


@pytest.mark.parametrize("mode", [{"hops": "spread"}, {"hops": "inline"}], ids=["spread", "inline"])
def test_a_merge_of_a_number_goes_on_with_the_first_branches_and_ends_the_others(
    client: WorkflowClient, run: Callable[[WorkflowBuilder], str], mode: dict[str, Any]
) -> None:
    flow = WorkflowBuilder("quorum", settings=mode)
    later = flow.delay("later", duration=1, unit="hours")
    branches = [later, *(calling(flow, each) for each in (quick, slow, never_needed))]
    flow.trigger("start") >> branches >> flow.merge("quorum", join=2)
    execution = run(flow)

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert client.get(execution).result == {"quick": "quick", "slow": "slow"}
    assert [row.node_id for row in client.journal(execution)] == ["start", "later", "quick", "slow", "quorum"]
    assert client.journal(execution)[1].wait.status == "CANCELLED"  # type: ignore[union-attr]


FAILED = "failed with ValueError: no funds"


def elsewhere(flow: WorkflowBuilder) -> dict[str, str]:
    """Let one of three branches leave by its error edge, away from the merge."""
    fails = calling(flow, breaks)
    fails.on_error >> flow.function("mourn", 0)
    flow.trigger("start") >> [calling(flow, quick), calling(flow, slow), fails]
    return {"breaks": FAILED}


def into_the_merge(flow: WorkflowBuilder) -> dict[str, str]:
    """Let one of three branches come by its error edge."""
    flow.trigger("start") >> [calling(flow, quick), calling(flow, slow), calling(flow, breaks)]
    return {"breaks": FAILED}


def before_the_merge(flow: WorkflowBuilder) -> dict[str, str]:
    """Let the failure happen two nodes before the one that would have led to the merge."""
    fails = calling(flow, breaks)
    fails.on_error >> flow.function("mourn", 0)
    fails >> flow.function("between", 1) >> flow.function("never", 2)
    flow.trigger("start") >> [calling(flow, quick), calling(flow, slow), fails]
    return {"never": f"was not reached: breaks {FAILED}"}


def chosen(flow: WorkflowBuilder) -> dict[str, str]:
    """Let two branches go other ways."""
    asked = flow.condition("asked", expression="{{ 1 > 2 }}")
    asked["false"] >> flow.function("other", 0)
    picked = flow.switch("picked", field="{{ 1 }}", cases=[{"value": 2, "handle": "two"}])
    flow.trigger("start") >> [calling(flow, quick), asked, picked]
    return {"asked": "left by 'false'", "picked": "left by 'default'"}


WAYS: dict[Callable[[WorkflowBuilder], dict[str, str]], tuple[str, ...]] = {
    elsewhere: ("quick", "slow", "breaks"),
    into_the_merge: ("quick", "slow", "breaks", "breaks error"),
    before_the_merge: ("quick", "slow", "never"),
    chosen: ("quick", "asked true", "picked two"),
}


def joined(
    way: Callable[[WorkflowBuilder], dict[str, str]], **options: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a definition whose branches meet in `join`, and why some of them do not arrive there."""
    flow = WorkflowBuilder("joins")
    missing = way(flow)
    content = flow.build().to_dict()
    content["nodes"].append({"id": "join", "type": "logic", "subType": "merge", **options})
    for edge in WAYS[way]:
        source, _, handle = edge.partition(" ")
        content["edges"].append(
            {"source": source, "target": "join", **({"sourceHandle": handle} if handle else {})}
        )
    return content, missing


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_a_merge_that_lacks_a_branch_it_requires_fails_and_says_why_the_branch_did_not_arrive(
    client: WorkflowClient,
    workers: Workers,
    way: Callable[[WorkflowBuilder], dict[str, str]],
    concurrency: int,
) -> None:
    definition, missing = joined(way, config={"require": "all"}, retry={"maxAttempts": 5})
    client.deploy({**definition, "settings": {"concurrency": concurrency}})
    execution = client.start("joins").id
    workers.drain()

    failed = client.get(execution)
    arrived = [name for name in ("quick", "slow") if name in WAYS[way]]
    assert failed.status is ExecutionStatus.FAILED
    assert failed.error == (
        f"{len(arrived)} of 3 required branches have arrived; missing: "
        + "; ".join(f"{name} {why}" for name, why in missing.items())
    )
    assert failed.error_details == {
        "nodeId": "join",
        "type": "JOIN_INCOMPLETE",
        "details": {"required": 3, "arrived": arrived, "missing": missing},
    }
    assert [row.status for row in client.journal(execution) if row.node_id == "join"] == [NodeStatus.FAILED]


@pytest.mark.parametrize("way", [elsewhere, into_the_merge, before_the_merge])
def test_a_merge_that_requires_no_more_than_have_arrived_goes_on(
    client: WorkflowClient, workers: Workers, way: Callable[[WorkflowBuilder], dict[str, str]]
) -> None:
    definition, _ = joined(way, config={"require": 2, "strategy": "first"})
    client.deploy(definition)
    execution = client.start("joins").id
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_branch_that_goes_on_after_its_failure_has_arrived(
    client: WorkflowClient, workers: Workers
) -> None:
    flow = WorkflowBuilder("tolerant")
    branches = [calling(flow, quick), calling(flow, breaks, on_error="continue")]
    join = flow.merge("join", require="all", output={"n": "{{ _response | length }}"})
    flow.trigger("start") >> branches >> join
    client.deploy(flow.build())
    execution = client.start("tolerant").id
    workers.drain()

    assert client.get(execution).result == {"n": 2}


@pytest.mark.parametrize("way", ["error", "continue"])
def test_an_incomplete_join_takes_its_error_edge_or_goes_on(
    client: WorkflowClient, workers: Workers, way: str
) -> None:
    options = {"onError": "continue"} if way == "continue" else {}
    definition, _ = joined(elsewhere, config={"require": 3}, **options)
    end = {"id": "end", "type": "action", "subType": "function"}
    definition["nodes"].append({**end, "config": {"expression": "{{ join.error.details.missing }}"}})
    edge = {"source": "join", "target": "end", **({"sourceHandle": "error"} if way == "error" else {})}
    definition["edges"].append(edge)
    client.deploy(definition)
    execution = client.start("joins").id
    workers.drain()

    result = client.get(execution).result
    assert isinstance(result, dict)
    assert result["end"] == {"breaks": FAILED}


def test_a_rerun_from_the_branch_that_failed_completes_the_join(
    client: WorkflowClient, workers: Workers
) -> None:
    answers: list[Any] = [ValueError("no funds"), "paid"]

    def pays() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    flow = WorkflowBuilder("repaired")
    paid = calling(flow, pays)
    paid.on_error >> flow.function("mourn", 0)
    flow.trigger("start") >> [calling(flow, quick), paid] >> flow.merge("join", require="all")
    client.deploy(flow.build())
    execution = client.start("repaired").id
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.FAILED

    client.control.rerun(execution, "pays")
    workers.drain()

    assert client.get(execution).result == {"join": {"quick": "quick", "pays": "paid"}}
