"""Flower shows executions and workflows from Postgres, and lets those act who have signed on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.broker import Workers
from support.flower_site import Site, flower_site
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient, node
from workflow_engine.engine.assembly import Engine


def shop() -> WorkflowBuilder:
    """Return a workflow that waits for the event `paid`, and then charges."""
    flow = WorkflowBuilder("shop", name="The shop")
    schema = {"type": "object", "required": ["orderId"], "properties": {"orderId": {"type": "string"}}}
    ordered = flow.trigger("ordered", schema=schema)
    paid = flow.wait_events("paid", ["paid"], correlation_id="{{ ordered.orderId }}")
    charge = flow.python("charge", "test.pages_charge", arguments={"amount": 7})
    ordered >> paid >> charge >> flow.function("ship", "shipped")
    return flow


@node("test.pages_charge")
def _charge(amount: int) -> int:
    raise ConnectionError("the bank does not answer")


@pytest.fixture
def site(engine: Engine) -> Iterator[Site]:
    with flower_site(engine) as running:
        yield running


@pytest.fixture
def waiting(client: WorkflowClient, workers: Workers) -> str:
    client.deploy(shop().build())
    started = client.start("shop", {"orderId": "order-7"}, idempotency_key="key-7")
    workers.drain()
    return started.id


@pytest.fixture
def failed(client: WorkflowClient, workers: Workers, waiting: str) -> str:
    client.send_event("order-7", "paid", {"amount": 7})
    workers.drain()
    assert client.get(waiting).status is ExecutionStatus.FAILED
    return waiting


PAGES = ("/executions", "/workflows", "/workflows/shop", "/statistics", "/queues")


def test_every_page_answers_with_flowers_frame_and_a_policy_without_inline_scripts(
    site: Site, failed: str
) -> None:
    for path in (
        *PAGES,
        f"/executions/{failed}",
        f"/executions/{failed}?seq=2",
        f"/executions/{failed}/actions/retry",
    ):
        answer = site.get(path)

        assert answer.status_code == 200, (path, answer.text[-2000:])
        assert "flower.css" in answer.text
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "unsafe-inline" not in answer.headers["Content-Security-Policy"]
        assert " style=" not in answer.text
        assert "<script>" not in answer.text


def test_no_page_is_shown_without_flowers_sign_on(site: Site, failed: str) -> None:
    for path in (*PAGES, f"/executions/{failed}", f"/executions/{failed}/journal/1"):
        assert site.get(path, user=None).status_code == 401
        assert site.get(path, user=("ann", "wrong")).status_code == 401


def test_the_page_of_an_execution_says_which_node_failed_and_why(site: Site, failed: str) -> None:
    text = site.get(f"/executions/{failed}").text

    assert "charge</a> failed" in text
    assert "the bank does not answer" in text
    assert "Traceback (most recent call last)" in text
    assert "ConnectionError" in text


def test_a_text_finds_executions_by_id_key_event_correlation_id_and_words_of_their_error(
    site: Site, client: WorkflowClient, workers: Workers, waiting: str
) -> None:
    other = client.start("shop", {"orderId": "order-8"}).id

    for text in (waiting, waiting[:18], "key-7", "paid", "order-7"):
        listed = site.get("/executions", params={"text": text}).text
        assert f'title="{waiting}"' in listed, text
    assert other not in site.get("/executions", params={"text": "order-7"}).text
    assert waiting not in site.get("/executions", params={"text": "no such thing"}).text

    client.send_event("order-7", "paid", {})
    workers.drain()
    assert waiting in site.get("/executions", params={"text": "bank answer"}).text
    assert waiting not in site.get("/executions", params={"text": "order-7"}).text


def test_the_list_goes_through_all_executions_page_by_page(
    site: Site, client: WorkflowClient, waiting: str
) -> None:
    started = [waiting] + [client.start("shop", {"orderId": str(number)}).id for number in range(120)]
    found: list[str] = []
    path: str | None = "/executions?workflow=shop"
    while path is not None:
        text = site.get(path).text
        found += [part.partition('"')[0] for part in text.split('class="engine-id" href="/executions/')[1:]]
        _, has_more, rest = text.partition('rel="next" href="')
        path = rest.partition('"')[0].replace("&amp;", "&") if has_more else None

    assert found == started[::-1]


def test_the_context_of_an_earlier_step_has_what_was_known_then_and_no_more(site: Site, failed: str) -> None:
    before = site.get(f"/executions/{failed}?seq=1").text

    assert "Context after step 1" in before
    assert "Output of" in before
    assert "the bank does not answer" not in before.partition("Step of the journal")[2]


def test_a_poll_that_finds_nothing_new_is_answered_without_a_page(
    site: Site, client: WorkflowClient, workers: Workers, waiting: str
) -> None:
    for path in (f"/executions/{waiting}", "/executions"):
        tag = site.get(path).headers["Etag"]
        again = site.get(path, headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b""), path

    tag = site.get(f"/executions/{waiting}").headers["Etag"]
    client.control.pause(waiting)
    assert site.get(f"/executions/{waiting}", headers={"If-None-Match": tag}).status_code == 200


def test_an_action_is_recorded_with_its_reason_under_the_name_of_flowers_user(
    site: Site, client: WorkflowClient, waiting: str
) -> None:
    answer = site.post(f"/executions/{waiting}/actions/pause", {"reason": "stocktaking"})

    assert answer.status_code == 303
    assert client.get(waiting).status is ExecutionStatus.PAUSED
    assert [(each.type, each.actor, each.reason) for each in client.control.audit(waiting)] == [
        ("PAUSED", "ann", "stocktaking")
    ]


BUTTON = r'href="/executions/{}/actions/([a-z-]+)(?:\?node=([a-z]+))?"'


@pytest.mark.parametrize(
    ("paused", "selected", "actions", "on_node"),
    [
        (False, "paid", {"pause", "cancel", "rerun", "send-event"}, {"skip", "complete", "pause-before"}),
        (False, "charge", {"pause", "cancel", "rerun", "send-event"}, {"pause-before"}),
        (
            True,
            "ordered",
            {"resume", "cancel", "rerun", "set-variable", "send-event"},
            {"set-output", "pause-before"},
        ),
    ],
)
def test_the_buttons_of_an_execution_and_of_a_node_are_those_that_its_state_allows(
    site: Site,
    client: WorkflowClient,
    waiting: str,
    paused: bool,
    selected: str,
    actions: set[str],
    on_node: set[str],
) -> None:
    if paused:
        client.control.pause(waiting)

    buttons = re.findall(BUTTON.format(waiting), site.get(f"/executions/{waiting}?node={selected}").text)

    assert {action for action, node_id in buttons if not node_id} == actions
    assert {action for action, node_id in buttons if node_id == selected} == on_node
    for action, node_id in buttons:
        answer = site.get(f"/executions/{waiting}/actions/{action}?node={node_id}")
        assert answer.status_code == 200
        assert 'name="reason"' in answer.text or action in ("rerun", "send-event"), action


def test_a_node_is_skipped_with_an_output_from_its_page(
    site: Site, client: WorkflowClient, workers: Workers, failed: str
) -> None:
    page = f"/executions/{failed}/actions/skip"
    assert "it runs ship" in site.get(f"{page}?node=charge").text

    form = {"node": "charge", "output": '{"receipt": "cash"}', "reason": "paid in cash"}
    assert site.post(page, form).status_code == 303
    workers.drain()

    assert client.get(failed).status is ExecutionStatus.COMPLETED
    (skipped,) = [each for each in client.control.audit(failed) if each.type == "NODE_SKIPPED"]
    assert (skipped.actor, skipped.reason) == ("ann", "paid in cash")


def test_a_wait_is_completed_an_output_replaced_and_a_variable_set_from_the_pages(
    site: Site, client: WorkflowClient, workers: Workers, waiting: str
) -> None:
    actions = f"/executions/{waiting}/actions"
    client.control.pause(waiting)
    replaced = {"node": "ordered", "output": '{"orderId": "order-8"}', "reason": "typed wrongly"}
    assert "order-7" in site.get(f"{actions}/set-output?node=ordered").text
    assert site.post(f"{actions}/set-output", replaced).status_code == 303
    variable = {"name": "rate", "value": "0.19", "reason": "the new rate"}
    assert site.post(f"{actions}/set-variable", variable).status_code == 303
    completed = {"node": "paid", "output": '{"paid": {"amount": 7}}', "reason": "seen in the bank"}
    assert site.post(f"{actions}/complete", completed).status_code == 303

    client.control.resume(waiting)
    workers.drain()

    context = client.context(waiting)
    assert context.node_outputs["ordered"] == {"orderId": "order-8"}
    assert context.node_outputs["paid"] == {"paid": {"amount": 7}}
    assert context.variables == {"rate": 0.19}


def test_a_breakpoint_is_set_shown_and_removed_on_the_pages(
    site: Site, client: WorkflowClient, workers: Workers, waiting: str
) -> None:
    actions = f"/executions/{waiting}/actions"
    assert site.post(f"{actions}/pause-before", {"node": "charge", "reason": "a look"}).status_code == 303
    client.send_event("order-7", "paid", {"amount": 7})
    workers.drain()

    assert client.get(waiting).status is ExecutionStatus.PAUSED
    assert "Paused before" in site.get(f"/executions/{waiting}").text
    assert f"{actions}/clear-breakpoints" in site.get(f"/executions/{waiting}").text
    assert site.post(f"{actions}/clear-breakpoints", {"reason": "seen"}).status_code == 303
    assert client.get(waiting).breakpoints == ()


@pytest.mark.parametrize(
    ("action", "form", "said"),
    [
        ("skip", {"node": "charge"}, "charge"),
        ("skip", {"node": "paid", "output": "{not json"}, "no JSON"),
        ("skip", {"node": "nowhere"}, "nowhere"),
        ("complete", {"node": "ordered", "output": "1"}, "ordered"),
        ("set-output", {"node": "paid", "output": "1"}, "set-output"),
        ("set-variable", {"name": "_x", "value": "1"}, "set-variable"),
    ],
)
def test_a_refused_form_says_why_and_keeps_what_was_written(
    site: Site, client: WorkflowClient, waiting: str, action: str, form: dict[str, str], said: str
) -> None:
    before = client.control.audit(waiting)

    answer = site.post(f"/executions/{waiting}/actions/{action}", {**form, "reason": "a try"})

    assert answer.status_code == 409
    assert said in answer.text
    assert client.control.audit(waiting) == before


def test_a_retry_shows_what_it_would_run_before_it_runs(
    site: Site, client: WorkflowClient, failed: str
) -> None:
    text = site.get(f"/executions/{failed}/actions/retry").text
    runs, _, rest = text.partition("Runs at once")[2].partition("May follow")
    follows, _, superseded = rest.partition("No longer counts")

    assert ">charge<" in runs
    assert ">ship<" in follows
    assert "charge FAILED" in superseded.partition("</dd>")[0]
    assert client.get(failed).status is ExecutionStatus.FAILED
    assert site.post(f"/executions/{failed}/actions/retry", {"reason": "bank is back"}).status_code == 303
    assert client.get(failed).status is ExecutionStatus.RUNNING


def test_a_move_that_is_not_possible_is_explained_and_changes_nothing(
    site: Site, client: WorkflowClient, failed: str
) -> None:
    answer = site.post(f"/executions/{failed}/actions/pause", {"reason": "too late"})

    assert answer.status_code == 409
    assert "FAILED" in answer.text
    assert client.control.audit(failed)[-1].type != "PAUSED"


def test_an_event_is_sent_to_the_execution_from_its_page(
    site: Site, client: WorkflowClient, workers: Workers, waiting: str
) -> None:
    path = f"/executions/{waiting}/actions/send-event"
    assert 'value="paid"' in site.get(path).text
    assert site.post(path, {"event": "paid", "payload": "{"}).status_code == 409
    assert site.post(path, {"event": "paid", "payload": '{"amount": 7}'}).status_code == 303
    workers.drain()

    assert client.get(waiting).status is ExecutionStatus.FAILED


@pytest.mark.parametrize(
    ("headers", "with_token"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Origin": "https://elsewhere.example"}, True),
        ({"Origin": "null"}, True),
        ({}, False),
    ],
)
def test_what_another_site_sends_changes_nothing(
    site: Site, client: WorkflowClient, waiting: str, headers: dict[str, str], with_token: bool
) -> None:
    for path in (f"/executions/{waiting}/actions/cancel", "/workflows/shop"):
        answer = site.post(path, {"reason": "an attack"}, headers=headers, with_token=with_token)
        assert answer.status_code == 403, path

    assert client.get(waiting).status is ExecutionStatus.WAITING
    assert sum(client.count().values()) == 1


@pytest.mark.parametrize(
    ("options", "changes", "is_allowed"),
    [
        ({"basic_auth": None}, {}, False),
        ({"basic_auth": None}, {"pages_read_only": False}, True),
        ({"read_only": True}, {"pages_read_only": False}, False),
        ({}, {"pages_read_only": True}, False),
        ({}, {}, True),
    ],
)
def test_actions_need_a_sign_on_or_the_setting_that_does_without(
    engine: Engine,
    client: WorkflowClient,
    waiting: str,
    options: dict[str, Any],
    changes: dict[str, Any],
    is_allowed: bool,
) -> None:
    settings = engine.settings.model_copy(update=changes)
    with flower_site(engine, settings=settings, **options) as site:
        assert ("Actions are off" in site.get(f"/executions/{waiting}").text) is not is_allowed
        answer = site.post(f"/executions/{waiting}/actions/cancel", {"reason": "a test"})
        started = site.post("/workflows/shop", {"field:orderId": "order-9", "trigger": "ordered"})

    assert answer.status_code == (303 if is_allowed else 403)
    assert started.status_code == (303 if is_allowed else 403)
    expected = ExecutionStatus.CANCELLED if is_allowed else ExecutionStatus.WAITING
    assert client.get(waiting).status is expected


def test_a_name_that_flower_has_not_checked_is_not_recorded(
    engine: Engine, client: WorkflowClient, waiting: str
) -> None:
    settings = engine.settings.model_copy(update={"pages_read_only": False})
    with flower_site(engine, settings=settings, basic_auth=None) as site:
        answer = site.post(f"/executions/{waiting}/actions/cancel", {"reason": "a test"})
        malformed = site.get("/executions", user=None, headers={"Authorization": "Basic %"})

    assert (answer.status_code, malformed.status_code) == (303, 200)
    assert client.control.audit(waiting)[-1].actor == "flower"


def test_a_workflow_is_started_with_the_form_of_its_schema(
    site: Site, client: WorkflowClient, waiting: str
) -> None:
    answer = site.post("/workflows/shop", {"field:orderId": "order-9", "trigger": "ordered", "key": "once"})
    execution_id = answer.headers["Location"].rpartition("/")[2]

    assert answer.status_code == 303
    assert client.context(execution_id).trigger_data == {"orderId": "order-9"}
    assert client.get(execution_id).idempotency_key == "once"


def test_data_that_the_schema_refuses_starts_nothing_and_stays_in_the_form(
    site: Site, client: WorkflowClient
) -> None:
    flow = WorkflowBuilder("strict")
    schema = {
        "type": "object",
        "properties": {
            "size": {"type": "integer", "maximum": 3},
            "colour": {"enum": ["red", "blue"]},
            "more": {},
        },
    }
    flow.trigger("asked", schema=schema) >> flow.function("done", "yes")
    client.deploy(flow.build())
    given = {"field:size": "7", "field:colour": '"red"', "field:more": '{"a": [1]}', "trigger": "asked"}

    answer = site.post("/workflows/strict", given)

    assert answer.status_code == 409
    assert 'value="7"' in answer.text
    assert client.count() == {}
    answer = site.post("/workflows/strict", {**given, "field:size": "3"})
    assert client.context(answer.headers["Location"].rpartition("/")[2]).trigger_data == {
        "size": 3,
        "colour": "red",
        "more": {"a": [1]},
    }


def test_two_versions_of_a_workflow_are_compared_line_by_line(
    site: Site, client: WorkflowClient, waiting: str
) -> None:
    changed = shop()
    changed.function("later", "{{ 1 }}")
    definition = shop().build().to_dict()
    definition["name"] = "The new shop"
    client.deploy(definition)

    text = site.get("/workflows/shop?version=2&compare=1").text

    assert "-name: The shop" in text
    assert "+name: The new shop" in text


def test_statistics_count_attempts_failures_and_durations_by_node(site: Site, failed: str) -> None:
    text = site.get("/statistics?workflow=shop").text
    charge = text.partition(">charge</th>")[2].partition("</tr>")[0]

    assert "100.0 %" in charge
    assert ">ship</th>" not in text


def test_a_row_of_the_journal_is_given_as_json(site: Site, failed: str) -> None:
    row = json.loads(site.get(f"/executions/{failed}/journal/1").content)

    assert row["output"] == {"orderId": "order-7"}
    assert site.get(f"/executions/{failed}/journal/99").status_code == 404


def test_what_does_not_exist_is_said_on_a_page(site: Site, waiting: str) -> None:
    for path in (
        "/executions/00000000-0000-0000-0000-000000000000",
        "/workflows/none",
        "/executions?status=BAD",
    ):
        answer = site.get(path)
        assert answer.status_code == 404, path
        assert "flower.css" in answer.text


def test_flowers_own_pages_lead_to_these(site: Site, waiting: str) -> None:
    text = site.get("/tasks").text

    for path in ("/executions", "/workflows", "/statistics", "/queues"):
        assert f'href="{path}"' in text


def hostile_texts() -> list[str]:
    """Return texts that a page must show and never obey."""
    shapes = (
        "<script>alert({n})</script>",
        '"><img src=x onerror=alert({n})>',
        "' onmouseover='alert({n})",
        "</pre></details><h1>broken {n}</h1>",
        "{{{{ {n} }}}} {{% raw x %}}",
        "<!-- {n}",
        "]]><svg/onload=alert({n})>",
        "\u202e\u2066{n}\x1b[31m",
    )
    return [shapes[number % len(shapes)].format(n=number) for number in range(200)]


def test_hostile_labels_keys_values_and_errors_are_text(
    site: Site, client: WorkflowClient, engine: Engine, workers: Workers, sql: Callable[..., Any]
) -> None:
    texts = [text for text in hostile_texts() if "{" not in text]
    flow = WorkflowBuilder("hostile", name=texts[0], variables={"seen": texts})
    last = flow.trigger("begun")
    for number, label in enumerate(texts[:40]):
        last = last >> flow.function(f"node{number}", "{{ begun }}", label=label)
    last >> flow.fail(
        "ended", type="Hostile", message="{{ begun.texts | join(' ') }}", details={"all": "{{ begun }}"}
    )
    client.deploy(flow.build())
    data = {"texts": texts, **{text: text for text in texts}}
    started = client.start("hostile", data, idempotency_key=texts[1])
    workers.drain()
    client.control.retry(started.id, reason=texts[2], actor=texts[3])
    workers.drain()

    for path in (
        f"/executions/{started.id}",
        f"/executions/{started.id}?node=begun&seq=1",
        "/executions",
        "/executions?text=" + texts[1].replace("<", "%3C").replace("#", "%23"),
        "/workflows",
        "/workflows/hostile",
        "/statistics",
    ):
        answer = site.get(path)
        assert answer.status_code == 200
        for mark in (
            "<script>alert",
            "<img src=x",
            "onmouseover='",
            "<h1>broken",
            "<svg/onload",
            "<!-- 5",
            "\x1b",
        ):
            assert mark not in answer.text, (path, mark)
    assert "&lt;script&gt;alert(0)" in site.get(f"/executions/{started.id}?node=begun").text
