"""The builder builds the same workflow as YAML, and refuses mistakes at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.definitions import ORDER_FULFILMENT, REGISTRY, charge
from workflow_engine.definition.builder import WorkflowBuilder
from workflow_engine.definition.built_nodes import BuiltNode
from workflow_engine.definition.workflow import Retry, RetryRule
from workflow_engine.errors import DefinitionInvalid
from workflow_engine.nodes.registry import node
from workflow_engine.validation import validate, validate_text


def order_fulfilment() -> WorkflowBuilder:
    flow = WorkflowBuilder(
        "order-fulfilment",
        name="Order fulfilment",
        settings={"concurrency": 1, "hops": "spread"},
        variables={"currency": "EUR"},
    )
    placed = flow.trigger("orderPlaced", schema={"type": "object", "required": ["orderId", "items"]})
    in_stock = flow.condition(
        "inStock",
        expression="{{ orderPlaced['items'] | map(attribute='stock') | min > 0 }}",
        label="Everything in stock?",
    )
    charged = flow.python(
        "charge",
        "shop.charge",
        arguments={"orderId": "{{ _trigger.orderId }}", "currency": "{{ currency }}"},
    )
    backorder = flow.function("backorder", "{{ {'later': orderPlaced.orderId} }}")
    done = flow.merge("done", strategy="first")

    placed >> in_stock
    in_stock["true"] >> charged >> done
    in_stock["false"] >> backorder >> done
    return flow


def edges(flow: WorkflowBuilder) -> list[tuple[str, str, str | None]]:
    return [(edge.source, edge.target, edge.source_handle) for edge in flow.build().edges]


@pytest.fixture
def flow() -> WorkflowBuilder:
    return WorkflowBuilder("flow")


@pytest.fixture
def start(flow: WorkflowBuilder) -> BuiltNode:
    return flow.trigger("start")


def merges(flow: WorkflowBuilder, *ids: str) -> list[BuiltNode]:
    return [flow.merge(node_id) for node_id in ids]


def test_the_builder_gives_the_same_workflow_as_yaml() -> None:
    written = validate_text(ORDER_FULFILMENT, REGISTRY)

    built = order_fulfilment().build()

    assert built == written
    assert built.to_json() == written.to_json()
    assert built.content_hash() == written.content_hash()


def test_what_was_built_passes_validation_unchanged() -> None:
    built = order_fulfilment().build()

    assert validate(built, REGISTRY).to_json() == built.to_json()


def test_every_sort_of_node_gives_the_same_as_yaml() -> None:
    flow = WorkflowBuilder("sorts", description="All of them")
    start = flow.trigger("start", sub_type="event", config={"description": "by hand"})
    ask = flow.condition("ask", conditions={"all": [{"field": "{{ a }}", "operator": "exists"}]})
    choose = flow.switch("choose", field="{{ a }}", cases={"DE": "domestic", "FR": "europe"})
    numbers = flow.switch("numbers", field="{{ a }}", cases=[{"value": 1, "handle": "one"}], priority=3)
    call = flow.node("call", "action/shop.charge", {"orderId": 1}, queue="payments", label="Pay")
    start >> ask
    ask["true"] >> choose
    ask["false"] >> numbers
    choose["europe"] >> call
    choose["default"] >> flow.merge("end", join="any", on_error="continue")

    written = validate_text(
        """
        id: sorts
        description: All of them
        nodes:
          - {id: start, type: trigger, subType: event, config: {description: by hand}}
          - id: ask
            type: logic
            subType: condition
            config: {conditions: {all: [{field: "{{ a }}", operator: exists}]}}
          - id: choose
            type: logic
            subType: switch
            config: {field: "{{ a }}", cases: [{value: DE, handle: domestic}, {value: FR, handle: europe}]}
          - {id: numbers, type: logic, subType: switch, priority: 3,
             config: {field: "{{ a }}", cases: [{value: 1, handle: one}]}}
          - {id: call, type: action, subType: shop.charge, queue: payments, label: Pay, config: {orderId: 1}}
          - {id: end, type: logic, subType: merge, config: {join: any}, onError: continue}
        edges:
          - {source: start, target: ask}
          - {source: ask, target: choose, sourceHandle: true}
          - {source: ask, target: numbers, sourceHandle: false}
          - {source: choose, target: call, sourceHandle: europe}
          - {source: choose, target: end, sourceHandle: default}
        """,
        REGISTRY,
    )

    assert flow.build() == written
    assert flow.build().content_hash() == written.content_hash()


def test_nodes_that_wait_give_the_same_as_yaml() -> None:
    flow = WorkflowBuilder("waits")
    start = flow.trigger("start")
    rest = flow.delay("rest", duration="{{ start.days }}", unit="days")
    sleep = flow.delay("sleep", until="2030-01-01T09:00:00Z")
    hear = flow.wait_events(
        "hear",
        ["paid", {"name": "rated", "required": False, "timeout": 60}],
        correlation_id="{{ start.order }}",
        strategy="required_only",
        wait_timeout=3600,
        on_timeout="continue_with_partial",
        output={"amount": "{{ events.paid.amount }}"},
        timeout=5,
    )
    start >> rest >> sleep >> hear

    written = validate_text(
        """
        id: waits
        nodes:
          - {id: start, type: trigger, subType: manual}
          - {id: rest, type: logic, subType: delay, config: {duration: "{{ start.days }}", unit: days}}
          - {id: sleep, type: logic, subType: delay, config: {until: "2030-01-01T09:00:00Z"}}
          - id: hear
            type: logic
            subType: wait-events
            timeout: 5
            config:
              events: [{name: paid}, {name: rated, required: false, timeout: 60}]
              correlationId: "{{ start.order }}"
              strategy: required_only
              timeout: 3600
              onTimeout: continue_with_partial
              output: {amount: "{{ events.paid.amount }}"}
        edges:
          - {source: start, target: rest}
          - {source: rest, target: sleep}
          - {source: sleep, target: hear}
        """,
        REGISTRY,
    )
    assert flow.build().content_hash() == written.content_hash()


def test_a_merge_takes_how_many_branches_it_goes_on_with_and_requires(
    flow: WorkflowBuilder, start: BuiltNode
) -> None:
    start >> merges(flow, "a", "b", "c") >> flow.merge("m", join=3, require=2)

    assert flow.build().nodes[-1].config == {"join": 3, "require": 2}


def test_variables_failures_and_outputs_give_the_same_as_yaml() -> None:
    flow = WorkflowBuilder("checks")
    start = flow.trigger("start")
    total = flow.set("total", {"sum": "{{ start.net * 2 }}"}, output="{{ _response.sum }}")
    check = flow.condition("check", expression="{{ sum > 9 }}", output={"large": "{{ _response }}"})
    start >> total >> check
    check["true"] >> flow.fail("large", "TOO_LARGE", "{{ sum }} is too much", details={"sum": "{{ sum }}"})
    check["false"] >> flow.fail("small", "TOO_SMALL", "{{ sum }}", label="Not enough")

    written = validate_text(
        """
        id: checks
        nodes:
          - {id: start, type: trigger, subType: manual}
          - id: total
            type: logic
            subType: set
            config: {variables: {sum: "{{ start.net * 2 }}"}}
            output: "{{ _response.sum }}"
          - id: check
            type: logic
            subType: condition
            config: {expression: "{{ sum > 9 }}"}
            output: {large: "{{ _response }}"}
          - id: large
            type: logic
            subType: fail
            config: {type: TOO_LARGE, message: "{{ sum }} is too much", details: {sum: "{{ sum }}"}}
          - {id: small, type: logic, subType: fail, label: Not enough,
             config: {type: TOO_SMALL, message: "{{ sum }}"}}
        edges:
          - {source: start, target: total}
          - {source: total, target: check}
          - {source: check, target: large, sourceHandle: true}
          - {source: check, target: small, sourceHandle: false}
        """,
        REGISTRY,
    )
    assert flow.build().content_hash() == written.content_hash()


@pytest.mark.parametrize("draw", [lambda end, to: end >> to, lambda end, to: end.on_error >> to])
def test_no_edge_leaves_a_node_that_fails_on_purpose(flow: WorkflowBuilder, draw: Any) -> None:
    (after,) = merges(flow, "after")

    with pytest.raises(DefinitionInvalid, match="'end' fails on purpose and ends its branch"):
        draw(flow.fail("end", "A", "b"), after)


def test_a_node_fans_out_to_several_and_several_join_in_one(flow: WorkflowBuilder, start: BuiltNode) -> None:
    a, b, c, d = merges(flow, "a", "b", "c", "d")

    start >> [a, b] >> c >> d

    assert edges(flow) == [
        ("start", "a", None),
        ("start", "b", None),
        ("a", "c", None),
        ("b", "c", None),
        ("c", "d", None),
    ]


def test_branches_join_with_nodes(flow: WorkflowBuilder, start: BuiltNode) -> None:
    ask = flow.condition("ask", expression="{{ a }}")
    (done,) = merges(flow, "done")

    start >> ask
    [ask["false"], start] >> done

    assert edges(flow)[1:] == [("ask", "done", "false"), ("start", "done", None)]


def test_failures_leave_by_the_error_edge(flow: WorkflowBuilder) -> None:
    a, b = merges(flow, "a", "b")
    ask = flow.condition("ask", expression="{{ a }}")

    a["error"] >> b
    ask.on_error >> b

    assert edges(flow) == [("a", "b", "error"), ("ask", "b", "error")]


def test_a_function_is_named_by_itself_once_it_is_registered(flow: WorkflowBuilder) -> None:
    @node("shop.refund")
    def refund(order_id: int) -> None: ...

    flow.python("refund", refund)

    assert flow.build().nodes[0].config == {"function": "shop.refund"}
    with pytest.raises(TypeError, match="decorate it with @node"):
        flow.python("pay", charge)


def test_retries_are_given_as_an_object_or_in_the_spelling_of_either_language(flow: WorkflowBuilder) -> None:
    retries: list[Any] = [Retry(max_attempts=5), {"max_attempts": 5}, {"maxAttempts": 5}]

    for number, retry in enumerate(retries):
        flow.node(f"n{number}", "logic/merge", retry=retry)

    assert [node["retry"] for node in flow.build().to_dict()["nodes"]] == [{"maxAttempts": 5}] * 3


def test_rules_of_a_retry_are_given_as_objects_or_in_the_spelling_of_either_language(
    flow: WorkflowBuilder,
) -> None:
    rules: list[Any] = [
        RetryRule(on=("TimeoutError",), max_attempts=5),
        {"on": ["5xx"], "max_attempts": 2},
        {"on": "all", "maxAttempts": 1},
    ]

    flow.node("n", "logic/merge", retry=rules)

    assert flow.build().to_dict()["nodes"][0]["retry"] == [
        {"on": ["TimeoutError"], "maxAttempts": 5},
        {"on": ["5xx"], "maxAttempts": 2},
        {"on": "all", "maxAttempts": 1},
    ]


def test_what_was_built_does_not_change_with_the_builder_or_its_data(flow: WorkflowBuilder) -> None:
    config = {"expression": [1]}
    flow.node("a", "action/function", config)
    built = flow.build()

    config["expression"].append(2)
    merges(flow, "b")

    assert built.to_dict()["nodes"] == [
        {"id": "a", "type": "action", "subType": "function", "config": {"expression": [1]}}
    ]
    assert flow.build().nodes[0] == built.nodes[0]


def _mistakes() -> dict[str, tuple[Callable[[WorkflowBuilder, BuiltNode], object], str]]:
    return {
        "an id twice": (lambda flow, start: flow.merge("start"), "nodes[start].id: another node has"),
        "a bad id": (lambda flow, start: flow.merge("two words"), "nodes[two words].id: 'two words' is not"),
        "a bad type": (lambda flow, start: flow.node("a", "merge"), "must be 'trigger', 'logic' or 'action'"),
        "a misspelt option": (
            lambda flow, start: flow.merge("a", lable="A"),  # type: ignore[call-arg]
            "nodes[a].lable: unknown key; did you mean 'label'?",
        ),
        "a bad option": (lambda flow, start: flow.merge("a", priority=10), "must be at most 9, not 10"),
        "a value that is not JSON": (
            lambda flow, start: flow.function("a", {"deep": [float("nan")]}),
            "nodes[a].config.expression.deep[0]: nan is not JSON",
        ),
        "a misspelt way out": (
            lambda flow, start: flow.condition("ask", expression="{{ a }}")["ture"],
            "nodes[ask]: 'ask' has no way out 'ture'; did you mean 'true'?",
        ),
        "a way out that is not a case": (
            lambda flow, start: flow.switch("choose", field="{{ a }}", cases={"1": "one"})["two"],
            "'choose' has no way out 'two'; it has 'one' or 'default'",
        ),
        "a name for the only way out": (
            lambda flow, start: flow.merge("a")["out"],
            "'a' has no way out 'out'; it has one, without a name",
        ),
        "a failure of a trigger": (lambda flow, start: start.on_error, "'start' has no way out 'error'"),
        "no way out named": (
            lambda flow, start: flow.condition("ask", expression="{{ a }}") >> flow.merge("a"),
            "say by which way this leaves 'ask': ask['true'] or ask['false']",
        ),
        "an edge twice": (
            lambda flow, start: start >> [flow.merge("a")] * 2,
            "edges[1]: the edge from 'start' to 'a' exists already",
        ),
        "an edge into a trigger": (lambda flow, start: start >> start, "no edge may lead into it"),
        "an edge between workflows": (
            lambda flow, start: start >> WorkflowBuilder("other").merge("a"),
            "'start' and 'a' are nodes of different workflows",
        ),
        "a bad workflow id": (
            lambda flow, start: WorkflowBuilder("two words"),
            "id: 'two words' is not allowed",
        ),
        "a misspelt setting": (
            lambda flow, start: WorkflowBuilder("a", settings={"hop": "spread"}),
            "settings.hop: unknown key; did you mean 'hops'?",
        ),
    }


@pytest.mark.parametrize(("mistake", "message"), _mistakes().values(), ids=_mistakes())
def test_a_mistake_is_raised_where_it_is_made(
    flow: WorkflowBuilder,
    start: BuiltNode,
    mistake: Callable[[WorkflowBuilder, BuiltNode], object],
    message: str,
) -> None:
    with pytest.raises(DefinitionInvalid) as refusal:
        mistake(flow, start)

    assert message in str(refusal.value)


def test_a_function_with_ways_of_its_own_may_leave_by_any_name(flow: WorkflowBuilder) -> None:
    review = flow.python("review", "shop.review")
    (done,) = merges(flow, "done")

    review["approved"] >> done

    assert edges(flow) == [("review", "done", "approved")]


def test_a_body_is_written_with_a_builder_of_its_own(flow: WorkflowBuilder, start: BuiltNode) -> None:
    one = WorkflowBuilder("one", variables={"rate": 2}, settings={"hops": "spread"})
    one.function("double", "{{ item * rate }}") >> one.function("after", "{{ double }}")
    ask = WorkflowBuilder("ask")
    ask.function("state", "{{ _index }}")

    (
        start
        >> flow.loop("each", "{{ start.items }}", body=one, config={"concurrency": 4})
        >> (flow.loop("poll", body=ask, config={"until": "{{ _previous > 2 }}"}))
        >> flow.sub_workflow("call", "other", data={"n": "{{ poll }}"}, on_parent_end="leave")
    )

    built = validate(flow.build(), REGISTRY)
    configs = {node.id: node.config for node in built.nodes}
    assert configs["each"]["body"]["edges"] == [{"source": "double", "target": "after"}]
    assert configs["each"]["body"]["variables"] == {"rate": 2}
    assert configs["poll"]["body"]["nodes"][0]["id"] == "state"
    assert configs["call"] == {"workflow": "other", "data": {"n": "{{ poll }}"}, "onParentEnd": "leave"}
