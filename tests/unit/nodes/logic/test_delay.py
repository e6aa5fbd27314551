"""logic/delay waits for a time or until one, and then gives null."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from support.node_runs import error_of, resume, run
from workflow_engine.execution.context import Wake
from workflow_engine.nodes.logic.delay import NODE_TYPE
from workflow_engine.nodes.results import success, waiting


@pytest.mark.parametrize(
    ("duration", "unit", "seconds"),
    [
        (1500, "milliseconds", 1.5),
        (3, "seconds", 3),
        (2.5, "minutes", 150),
        (1, "hours", 3_600),
        (2, "days", 172_800),
        (1, "weeks", 604_800),
        ("{{ placed.days * 2 }}", "days", 3 * 172_800),
    ],
)
def test_a_duration_is_waited_for_in_its_unit(duration: Any, unit: str, seconds: float) -> None:
    result = run(NODE_TYPE, {"duration": duration, "unit": unit}, {"placed": {"days": 3}})

    assert result == waiting(seconds=seconds)


@pytest.mark.parametrize("until", ["2999-01-01T09:00:00+01:00", "{{ placed.at }}"])
def test_a_time_is_waited_for_in_its_zone(until: str) -> None:
    result = run(NODE_TYPE, {"until": until}, {"placed": {"at": "2999-01-01T08:00:00Z"}})

    assert result == waiting(until=datetime(2999, 1, 1, 8, tzinfo=UTC))


def test_whether_a_time_is_past_is_left_to_the_clock_of_the_database() -> None:
    past = datetime(2001, 1, 1, tzinfo=UTC)

    assert run(NODE_TYPE, {"until": "2001-01-01T00:00:00Z"}) == waiting(until=past)


@pytest.mark.parametrize("duration", [0, "{{ 3 - 4 }}"])
def test_a_duration_that_is_over_goes_on_at_once(duration: Any) -> None:
    assert run(NODE_TYPE, {"duration": duration, "unit": "hours"}) == success(None)


def test_its_output_is_null_once_the_time_has_come() -> None:
    assert resume(NODE_TYPE, {"duration": 1, "unit": "hours"}, Wake("time")) == success(None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"duration": "{{ 'soon' }}", "unit": "days"}, "duration: must be a number, but is 'soon'"),
        ({"duration": "{{ 1 > 0 }}", "unit": "days"}, "duration: must be a number, but is true"),
        ({"duration": "{{ 40000 }}", "unit": "days"}, "duration: 40000 is more than a hundred years"),
        ({"until": "{{ '2030-01-01T09:00' }}"}, "until: '2030-01-01T09:00' names no zone"),
        ({"until": "{{ '9999-12-31T23:59:59-14:00' }}"}, "is not a time between the years 1 and 9999"),
        ({"until": "{{ '0001-01-01T00:00:00+14:00' }}"}, "is not a time between the years 1 and 9999"),
        ({"until": "{{ 5 }}"}, "until: must be a time such as '2026-01-31T09:00:00Z', not 5"),
    ],
    ids=str,
)
def test_an_expression_that_gives_no_time_fails_the_node(config: dict[str, Any], message: str) -> None:
    error = error_of(run(NODE_TYPE, config))

    assert error.type == "INVALID_DELAY"
    assert message in error.message
