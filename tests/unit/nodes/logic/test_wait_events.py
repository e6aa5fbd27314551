"""logic/wait-events goes on once enough events have come, or when its time is up."""

from __future__ import annotations

from typing import Any

import pytest

from support.node_runs import error_of, problems, resume, run
from workflow_engine.execution.context import Wake
from workflow_engine.nodes.logic.wait_events import NODE_TYPE
from workflow_engine.nodes.results import Wait, success, waiting

PAID, SHIPPED = {"amount": 42}, {"parcel": "p-1"}


def wait_for(*events: Any, **config: Any) -> dict[str, Any]:
    named = [{"name": event} if isinstance(event, str) else event for event in events]
    return {"correlationId": "{{ placed.order }}", "events": named, **config}


def wait_of(config: dict[str, Any], wake: Wake | None = None) -> Wait:
    """Return the wait of a node with this config, at first or after it was woken."""
    outputs = {"placed": {"order": 7}}
    result = run(NODE_TYPE, config, outputs) if wake is None else resume(NODE_TYPE, config, wake, outputs)
    assert result.kind == "waiting"
    assert result.wait is not None
    return result.wait


def woken(config: dict[str, Any], *, waited: float = 1.0, reason: Any = "events", **events: Any) -> Any:
    return resume(NODE_TYPE, config, Wake(reason, events, waited), {"placed": {"order": 7}})


# -- strategies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "required"),
    [
        (wait_for("paid", "shipped"), ("paid", "shipped")),
        (wait_for("paid", "shipped", strategy="any"), "any"),
        (
            wait_for("paid", {"name": "rated", "required": False}, "shipped", strategy="required_only"),
            ("paid", "shipped"),
        ),
        (wait_for("paid", "shipped", strategy="custom", condition="{{ events.paid.amount > 9 }}"), "any"),
    ],
    ids=["all", "any", "required_only", "custom"],
)
def test_a_strategy_says_which_events_wake_the_node(config: dict[str, Any], required: Any) -> None:
    wait = wait_of(config)

    assert wait.events == tuple(event["name"] for event in config["events"])
    assert wait.required == required
    assert wait.correlation_id == "7"
    assert wait.timeout is None


def test_without_a_correlation_id_events_are_sent_to_the_execution() -> None:
    assert run(NODE_TYPE, {"events": [{"name": "paid"}]}).wait == Wait(
        events=("paid",), required=("paid",), correlation_id="e-1"
    )


@pytest.mark.parametrize(
    ("config", "events"),
    [
        (wait_for("paid", "shipped"), {"paid": PAID, "shipped": SHIPPED}),
        (wait_for("paid", "shipped", strategy="any"), {"shipped": SHIPPED}),
        (
            wait_for("paid", {"name": "rated", "required": False}, strategy="required_only"),
            {"paid": PAID},
        ),
        (
            wait_for("paid", {"name": "rated", "required": False}, strategy="required_only"),
            {"paid": PAID, "rated": None},
        ),
    ],
    ids=str,
)
def test_the_output_is_the_payloads_by_event_name(config: dict[str, Any], events: dict[str, Any]) -> None:
    assert woken(config, **events) == success(events)


def test_events_that_came_in_time_count_however_late_the_node_is_woken() -> None:
    config = wait_for({"name": "paid", "timeout": 5}, timeout=10)

    assert woken(config, waited=3_600, paid=PAID) == success({"paid": PAID})


def test_an_output_mapping_reads_the_events_and_what_all_expressions_read() -> None:
    config = wait_for("paid", output={"total": "{{ events.paid.amount }}", "for": ["{{ placed.order }}"]})

    assert woken(config, paid=PAID) == success({"total": 42, "for": [7]})


# -- custom conditions ---------------------------------------------------------------------------------------

TWO_YES = wait_for(
    "ann",
    "bob",
    "cid",
    strategy="custom",
    condition="{{ (events.ann | default(0)) + (events.bob | default(0)) + (events.cid | default(0)) >= 2 }}",
    timeout=60,
)


def test_a_custom_condition_is_decided_with_each_event() -> None:
    first = wait_of(TWO_YES, Wake("events", {"ann": 1}, waited=20))
    second = woken(TWO_YES, ann=1, cid=1)

    assert first == Wait(events=("bob", "cid"), required="any", correlation_id="7", timeout=40)
    assert second == success({"ann": 1, "cid": 1})


def test_a_condition_that_stays_false_after_the_last_event_fails_instead_of_waiting_for_ever() -> None:
    error = error_of(woken(TWO_YES, ann=1, bob=0, cid=0))

    assert error.type == "CONDITION_NOT_MET"


def test_a_condition_that_reads_an_event_that_is_not_there_yet_says_so() -> None:
    config = wait_for("paid", "shipped", strategy="custom", condition="{{ events.paid.amount > 1 }}")

    error = error_of(woken(config, shipped=SHIPPED))

    assert error.type == "ExpressionError"
    assert "events.paid" in error.message


def test_a_condition_that_is_no_boolean_fails_the_node() -> None:
    config = wait_for("paid", strategy="custom", condition="{{ events.paid.amount }}")

    assert "condition: must be true or false, but is 42" in error_of(woken(config, paid=PAID)).message


# -- time limits -----------------------------------------------------------------------------------------


def test_the_first_time_limit_is_the_one_that_wakes() -> None:
    config = wait_for("paid", {"name": "shipped", "timeout": "{{ 5 * 60 }}"}, timeout=600)

    assert wait_of(config).timeout == 300


def test_a_time_limit_of_nothing_still_looks_at_what_has_arrived() -> None:
    assert wait_of(wait_for("paid", timeout=0)).timeout == 0


@pytest.mark.parametrize("waited", [60.0, 59.9999])
def test_when_the_time_is_up_the_node_fails_and_names_what_is_missing(waited: float) -> None:
    config = wait_for("paid", "shipped", timeout=60)

    error = error_of(woken(config, reason="timeout", waited=waited, paid=PAID))

    assert error.type == "EVENTS_TIMED_OUT"
    assert error.message == "no 'shipped' within 60 s; arrived: 'paid'"
    assert error.details == {"arrived": ["paid"], "missing": ["shipped"]}


@pytest.mark.parametrize(
    ("on_timeout", "output"), [("continue", {}), ("continue_with_partial", {"paid": PAID})]
)
def test_a_node_may_go_on_when_the_time_is_up(on_timeout: str, output: Any) -> None:
    config = wait_for("paid", "shipped", timeout=60, onTimeout=on_timeout)

    assert woken(config, reason="timeout", waited=60, paid=PAID) == success(output)


def test_a_partial_output_is_mapped_as_a_whole_one() -> None:
    config = wait_for(
        "paid",
        "shipped",
        timeout=60,
        onTimeout="continue_with_partial",
        output={"parcel": "{{ events.shipped.parcel | default('none') }}"},
    )

    assert woken(config, reason="timeout", waited=60, paid=PAID) == success({"parcel": "none"})


def test_an_event_that_all_need_gives_up_the_wait_with_its_own_time_limit() -> None:
    config = wait_for("paid", {"name": "shipped", "timeout": 5}, timeout=600)

    assert error_of(woken(config, reason="timeout", waited=5, paid=PAID)).type == "EVENTS_TIMED_OUT"


def test_after_the_time_limit_of_an_event_that_came_the_rest_is_waited_for() -> None:
    config = wait_for("paid", {"name": "shipped", "timeout": 5}, timeout=600)

    wait = wait_of(config, Wake("timeout", {"shipped": SHIPPED}, waited=5))

    assert wait == Wait(events=("paid",), required=("paid",), correlation_id="7", timeout=595)


def test_an_event_that_can_be_missed_is_dropped_at_its_time_limit() -> None:
    config = wait_for("paid", {"name": "shipped", "timeout": 5}, strategy="any")

    assert wait_of(config, Wake("timeout", {}, waited=5)).events == ("paid",)
    assert wait_of(config, Wake("timeout", {}, waited=5)).timeout is None


def test_a_wait_of_which_every_event_was_dropped_is_over() -> None:
    config = wait_for({"name": "paid", "timeout": 3}, {"name": "shipped", "timeout": 5}, strategy="any")

    assert wait_of(config, Wake("timeout", {}, waited=3)).events == ("shipped",)
    assert error_of(woken(config, reason="timeout", waited=5)).type == "EVENTS_TIMED_OUT"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (wait_for("paid", timeout="{{ 'soon' }}"), "timeout: must be a number, but is 'soon'"),
        (
            wait_for({"name": "paid", "timeout": "{{ placed }}"}),
            "timeout of 'paid': must be a number, but is an object",
        ),
        (wait_for("paid") | {"correlationId": "{{ placed }}"}, "correlationId: must be text"),
        (wait_for("paid") | {"correlationId": ""}, "correlationId: must be text"),
    ],
    ids=str,
)
def test_a_config_whose_expressions_give_something_else_fails_the_node(
    config: dict[str, Any], message: str
) -> None:
    error = error_of(run(NODE_TYPE, config, {"placed": {"order": 7}}))

    assert error.type == "INVALID_WAIT"
    assert message in error.message


def test_a_wait_names_events_and_what_they_have_in_common() -> None:
    assert run(NODE_TYPE, wait_for("paid", timeout=3), {"placed": {"order": 7}}) == waiting(
        events=["paid"], required=["paid"], correlation_id="7", timeout=3
    )


# -- correlation ids -------------------------------------------------------------------------------------


def test_a_correlation_id_that_no_sender_may_use_is_refused_by_the_wait() -> None:
    config = {"events": [{"name": "paid"}], "correlationId": "{{ start }}"}

    assert run(NODE_TYPE, config, {"start": "x" * 200}).wait is not None
    error = error_of(run(NODE_TYPE, config, {"start": "x" * 201}))
    assert error.type == "INVALID_WAIT"
    assert "have 1 to 200 characters" in error.message
    assert error.message.endswith("has 201")


def test_a_constant_correlation_id_that_no_sender_may_use_is_refused_by_validation() -> None:
    (problem,) = problems(NODE_TYPE, {"events": [{"name": "paid"}], "correlationId": "x" * 201})

    assert problem.message.endswith("has 201 characters, more than the 200 allowed")
