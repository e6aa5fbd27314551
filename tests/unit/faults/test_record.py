"""The fault suite detects each kind of damage, made by hand in a clean record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from faults.effects import Effect, EffectKind, running_in
from faults.record import ExecutionRow, JournalRow, Record
from faults.workload import BRIEF, ORDER, nodes_of, undisturbed_result

ID = "0190f5fe-7c00-7a00-8000-000000000000"
EXECUTION = ExecutionRow(ID, BRIEF, "COMPLETED", 3, {"number": 4}, None, created_at=10, ended_at=13)
JOURNAL = (
    JournalRow(ID, 1, "begin", 1, "COMPLETED", {"number": 4}, None, committed_at=10),
    JournalRow(ID, 2, "receive", 1, "COMPLETED", 124, "host:7", committed_at=11.5),
    JournalRow(ID, 3, "reserve", 1, "COMPLETED", undisturbed_result(BRIEF, 4), "host:8", committed_at=13),
)
EFFECTS = (
    Effect(EffectKind.ENTERED, ID, "receive", f"{ID}:receive:1", 1, 7, at=11),
    Effect(EffectKind.DONE, ID, "receive", f"{ID}:receive:1", 1, 7, at=11.4),
    Effect(EffectKind.ENTERED, ID, "reserve", f"{ID}:reserve:1", 1, 8, at=12),
    Effect(EffectKind.DONE, ID, "reserve", f"{ID}:reserve:1", 1, 8, at=12.9),
)


def test_a_clean_record_shows_no_damage() -> None:
    record = Record([EXECUTION], JOURNAL, EFFECTS)

    assert not record.not_completed([ID])
    assert not record.committed_twice
    assert not record.wrong_results
    assert not record.entered_after_commit
    assert (record.repeated_effects, record.interrupted) == (0, 0)


def test_an_execution_that_was_started_and_is_not_there_is_lost() -> None:
    assert Record([], (), ()).not_completed([ID]) == [ID]


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "WAITING", "FAILED"])
def test_an_execution_that_has_not_completed_is_lost_even_if_its_start_never_returned(status: str) -> None:
    record = Record([replace(EXECUTION, status=status)], JOURNAL, EFFECTS)

    assert record.not_completed([]) == [ID]


@pytest.mark.parametrize("again", [JOURNAL[1], replace(JOURNAL[1], seq=4, worker="host:9")])
def test_a_node_with_two_rows_that_say_the_same_was_committed_twice(again: JournalRow) -> None:
    assert Record([EXECUTION], [*JOURNAL, again], EFFECTS).committed_twice == [again]


def test_a_second_attempt_is_no_second_commit() -> None:
    retried = replace(JOURNAL[1], status="RETRYING"), replace(JOURNAL[1], seq=3, attempt=2)

    assert not Record([EXECUTION], [JOURNAL[0], *retried, JOURNAL[2]], EFFECTS).committed_twice


@pytest.mark.parametrize(
    "journal",
    [
        [*JOURNAL[:2], replace(JOURNAL[2], output=1)],
        [JOURNAL[0], JOURNAL[2]],
        [*JOURNAL, replace(JOURNAL[2], node_id="ship", seq=4)],
    ],
    ids=["another result", "a node left out", "a node too many"],
)
def test_a_result_or_nodes_of_another_kind_are_wrong(journal: list[JournalRow]) -> None:
    assert Record([EXECUTION], journal, EFFECTS).wrong_results == [ID]


def test_side_effects_and_runs_that_came_to_nothing_are_counted() -> None:
    begun_again = replace(EFFECTS[0], process=9, at=11.2)
    done_again = replace(EFFECTS[1], process=9, at=11.45)

    assert Record([EXECUTION], JOURNAL, [*EFFECTS, begun_again]).interrupted == 1
    assert Record([EXECUTION], JOURNAL, [*EFFECTS, begun_again, done_again]).repeated_effects == 1


def test_a_run_that_began_after_the_commit_of_its_node_is_seen() -> None:
    late = replace(EFFECTS[0], at=11.6)

    assert Record([EXECUTION], JOURNAL, [*EFFECTS, late]).entered_after_commit == [late]


def test_an_execution_stood_still_from_the_first_hit_until_it_moved() -> None:
    record = Record([EXECUTION], JOURNAL, EFFECTS)

    assert record.delays_of([(ID, 11.5), (ID, 11.75)]) == [0.5]
    assert record.delays_of([(ID, 12.5)]) == [0.5], "its end is a move, too"
    assert record.under_way(12) == [ID]
    assert record.under_way(13.5) == []


def test_a_process_runs_a_node_from_its_entry_to_its_effect() -> None:
    assert running_in(EFFECTS, {7, 8}, at=11.3) == [EFFECTS[0]]
    assert running_in(EFFECTS, {7, 8}, at=11.5) == []
    assert running_in(EFFECTS, {7}, at=12.5) == []


@pytest.mark.parametrize(("number", "branch"), [(0, "domestic"), (1, "abroad")])
def test_an_order_runs_ten_nodes_with_side_effects(number: int, branch: str) -> None:
    nodes = nodes_of(ORDER, number)

    assert len(nodes) == 10
    assert {"domestic", "abroad"} & nodes == {branch}
