"""logic/fail fails with the error that its author wrote."""

from __future__ import annotations

from typing import Any

import pytest

from support.node_runs import error_of, run
from workflow_engine.nodes.logic.fail import NODE_TYPE
from workflow_engine.nodes.results import failure

OUTPUTS = {"placed": {"id": 7, "items": [{"sku": "cup"}]}, "short": 7}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"type": "EMPTY", "message": "no items"}, failure("EMPTY", "no items")),
        (
            {
                "type": "{{ 'OUT_OF_' ~ 'STOCK' }}",
                "message": "no {{ placed['items'][0].sku }} for order {{ placed.id }}",
                "details": {"order": "{{ placed.id }}"},
            },
            failure("OUT_OF_STOCK", "no cup for order 7", {"order": 7}),
        ),
        (
            {"type": "A", "message": "{{ placed['items'] }}", "details": "{{ placed['items'] | first }}"},
            failure("A", '[{"sku":"cup"}]', {"sku": "cup"}),
        ),
    ],
    ids=["constant", "with expressions", "of other values than text"],
)
def test_the_failure_is_what_the_config_evaluates_to(config: dict[str, Any], expected: Any) -> None:
    assert run(NODE_TYPE, config, OUTPUTS) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"type": "{{ short }}", "message": "no {{ short }}"},
            "type: must be text of 1 to 200 characters, not 7; the message is: no 7",
        ),
        (
            {"type": "{{ '' }}", "message": "m"},
            "type: must be text of 1 to 200 characters, not ''; the message is: m",
        ),
        (
            {"type": "{{ 'a' * 201 }}", "message": "m"},
            f"type: must be text of 1 to 200 characters, not {'a' * 60!r}…; the message is: m",
        ),
        (
            {"type": "A", "message": "m", "details": "{{ short }}"},
            "details: must be an object, not 7; the message is: m",
        ),
    ],
)
def test_a_type_that_is_no_text_and_details_that_are_no_object_fail_too_and_keep_the_message(
    config: dict[str, Any], message: str
) -> None:
    error = error_of(run(NODE_TYPE, config, OUTPUTS))

    assert (error.type, error.message) == ("INVALID_FAILURE", message)
