"""The walk decides which nodes become due, in which order, and which will never run.

`test_walk_properties.py` has the rules for every graph; here each rule has a small graph of its own.
"""

from __future__ import annotations

import pytest

from support.graphs import graph
from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import ERROR, ORDINARY
from workflow_engine.execution.states import NodeStatus
from workflow_engine.execution.walk import JournalEntry, Step, Walk, node_statuses

DONE = (ORDINARY,)


def row(
    seq: int, node_id: str, status: str = "COMPLETED", handles: tuple[str, ...] = DONE, **more
) -> JournalEntry:
    return JournalEntry(
        seq, node_id, more.pop("visit", 1), more.pop("attempt", 1), NodeStatus(status), handles, **more
    )


def run(walk: Walk, found: Graph, *node_ids: str) -> Step:
    """Complete these nodes one after the other; return the last step."""
    for node_id in node_ids:
        step = walk.advance(found, node_id, DONE)
    return step


# --- order -------------------------------------------------------------------------------------------------


def test_what_becomes_due_goes_to_the_front_in_the_order_of_its_edges() -> None:
    found = graph("start -> a", "start -> b", "a -> a1", "a -> a2")
    walk = Walk.start(found, "start")
    assert walk.due == ["a", "b"]

    step = walk.advance(found, "a", DONE)

    assert step.due == ("a1", "a2")
    assert walk.due == ["a1", "a2", "b"]


def test_a_node_that_is_not_first_in_line_may_move_too() -> None:
    found = graph("start -> a", "start -> b", "b -> c")
    walk = Walk.start(found, "start")

    walk.advance(found, "b", DONE)

    assert walk.due == ["c", "a"]


def test_a_skip_is_followed_to_its_end_before_the_next_edge() -> None:
    """Skipping `no` decides the join, which so becomes due before `yes`, whose edge comes later."""
    found = graph(
        "start -> a", "a -> join", "start -> check", "check -false-> no", "check -true-> yes", "no -> join"
    )
    walk = Walk.start(found, "start")
    run(walk, found, "a")

    step = walk.advance(found, "check", ("true",))

    assert step.skipped == ("no",)
    assert step.due == ("join", "yes")


def test_skips_are_reported_branch_by_branch() -> None:
    found = graph(
        *("start -> check", "check -true-> a", "check -true-> b", "check -false-> c"),
        *("a -> a1", "a -> a3", "a1 -> a2", "b -> b1", "c -> c1"),
    )
    walk = Walk.start(found, "start")

    assert walk.advance(found, "check", ("false",)).skipped == ("a", "a1", "a2", "a3", "b", "b1")


# --- joins -------------------------------------------------------------------------------------------------


def test_a_join_waits_for_every_branch() -> None:
    found = graph("start -> a", "start -> b", "a -> join", "b -> join")
    walk = Walk.start(found, "start")

    assert run(walk, found, "a").due == ()
    assert run(walk, found, "b").due == ("join",)


def test_a_join_behind_a_condition_never_hangs() -> None:
    found = graph("start -> check", "check -true-> a", "check -false-> b", "a -> join", "b -> join")
    walk = Walk.start(found, "start")

    assert walk.advance(found, "check", ("true",)) == Step(due=("a",), skipped=("b",))
    assert run(walk, found, "a").due == ("join",)
    assert run(walk, found, "join") == Step()
    assert walk == Walk()


def test_a_join_that_no_branch_leads_to_is_skipped_with_all_behind_it() -> None:
    found = graph("start -> one", "start -> two", "one -true-> join", "two -true-> join", "join -> end")
    walk = Walk.start(found, "start")

    assert walk.advance(found, "one", ("false",)) == Step()
    assert walk.advance(found, "two", ("false",)).skipped == ("join", "end")
    assert walk == Walk()


def test_both_branches_of_a_condition_may_lead_to_the_same_node() -> None:
    found = graph("start -> check", "check -true-> next", "check -false-> next")
    walk = Walk.start(found, "start")

    assert walk.advance(found, "check", ("false",)).due == ("next",)
    assert walk.arrivals(found, "next") == ("check",)


def test_a_node_that_leaves_by_several_handles_arrives_once() -> None:
    found = graph("start -> check", "check -true-> next", "check -false-> next")
    walk = Walk.start(found, "start")

    walk.advance(found, "check", ("true", "false"))

    assert walk.due == ["next"]
    assert walk.arrivals(found, "next") == ("check",)


def test_arrivals_are_the_sources_in_the_order_they_arrived_until_the_join_has_run() -> None:
    found = graph("start -> a", "start -> b", "start -> c", "a -> join", "b -> join", "c -> join")
    walk = Walk.start(found, "start")
    run(walk, found, "c", "a")
    walk.advance(found, "b", ())

    assert walk.arrivals(found, "join") == ("c", "a")
    walk.wait("join")
    assert walk.arrivals(found, "join") == ("c", "a")
    walk.advance(found, "join", DONE)
    assert walk.arrivals(found, "join") == ()


def test_the_arrival_of_a_node_with_one_incoming_edge_is_its_source() -> None:
    found = graph("start -> a")

    assert Walk.start(found, "start").arrivals(found, "a") == ("start",)
    assert Walk.start(found, "start").arrivals(found, "start") == ()


# --- ways out ----------------------------------------------------------------------------------------------


def test_a_node_that_leaves_by_no_handle_ends_its_branch() -> None:
    found = graph("start -> a", "a -> b", "b -> c", "a -error-> d")
    walk = Walk.start(found, "start")

    assert walk.advance(found, "a", ()).skipped == ("b", "c", "d")
    assert walk.is_finished


def test_success_leaves_the_error_edge_untaken_and_failure_the_ordinary_ones() -> None:
    found = graph("start -> a", "a -> b", "a -error-> mourn")
    succeeded, failed = Walk.start(found, "start"), Walk.start(found, "start")

    assert succeeded.advance(found, "a", DONE) == Step(due=("b",), skipped=("mourn",))
    assert failed.advance(found, "a", (ERROR,)) == Step(due=("mourn",), skipped=("b",))


def test_handles_given_as_a_string_are_refused() -> None:
    found = graph("start -> check", "check -true-> a")
    walk = Walk.start(found, "start")

    with pytest.raises(TypeError, match="not the string 'true'"):
        walk.advance(found, "check", "true")
    assert walk.due == ["check"]


# --- triggers ----------------------------------------------------------------------------------------------


def test_triggers_that_did_not_start_the_execution_count_as_not_taken() -> None:
    found = graph("web -> a", "cron -> b", "b -> join", "a -> join", "b -> c", triggers=("web", "cron"))
    walk = Walk.start(found, "web")

    assert walk.due == ["a"]
    assert run(walk, found, "a").due == ("join",)


def test_a_walk_starts_at_a_trigger_only() -> None:
    with pytest.raises(ValueError, match="'a' is no trigger; the workflow has web, cron"):
        Walk.start(graph("web -> a", "cron -> a", triggers=("web", "cron")), "a")


# --- merges that go on with the first arrival --------------------------------------------------------------


def test_a_merge_of_any_is_due_at_the_first_arrival_and_cancels_what_is_left() -> None:
    found = graph(
        "start -> a", "start -> b", "start -> c", *[f"{n} -> m" for n in "abc"], "m -> end", any_merges=("m",)
    )
    walk = Walk.start(found, "start")
    walk.wait("c")

    assert run(walk, found, "a") == Step(due=("m",))
    assert walk.due == ["m", "b"]
    assert run(walk, found, "m") == Step(due=("end",), cancelled=("b", "c"), ended=("c", "b"))
    assert run(walk, found, "end") == Step()
    assert walk == Walk()


def test_what_arrives_before_a_merge_of_any_runs_comes_after_the_first_arrival() -> None:
    found = graph("start -> a", "start -> b", "a -> m", "b -> m", any_merges=("m",))
    walk = Walk.start(found, "start")

    assert run(walk, found, "b").due == ("m",)
    assert run(walk, found, "a").due == ()
    assert walk.arrivals(found, "m") == ("b", "a")


def test_a_branch_that_fails_to_arrive_at_a_merge_of_any_does_not_make_it_due_again() -> None:
    found = graph("start -> a", "start -> b", "start -> c", *[f"{n} -> m" for n in "abc"], any_merges=("m",))
    walk = Walk.start(found, "start")
    walk.advance(found, "b", ())
    run(walk, found, "a")

    assert walk.advance(found, "c", ()) == Step()
    assert walk.due == ["m"]
    assert run(walk, found, "m") == Step()
    assert walk == Walk()


def test_a_merge_of_any_with_one_incoming_edge_is_an_ordinary_node() -> None:
    found = graph("start -> a", "a -> m", "a -> b", any_merges=("m",))
    walk = Walk.start(found, "start")
    run(walk, found, "a")

    assert run(walk, found, "m") == Step()
    assert walk == Walk(due=["b"])


def test_a_merge_of_any_is_skipped_when_no_branch_leads_to_it() -> None:
    found = graph("start -> one", "start -> two", "one -true-> m", "two -true-> m", any_merges=("m",))
    walk = Walk.start(found, "start")
    walk.advance(found, "one", ("false",))

    assert walk.advance(found, "two", ("false",)).skipped == ("m",)


def test_nodes_not_reached_yet_are_ended_too_and_do_not_run_later() -> None:
    """`check` goes on, for it also leads to `other`; what it decides for `late` is ignored."""
    found = graph(
        *(
            "start -> fast",
            "start -> check",
            "fast -> m",
            "check -true-> late",
            "late -> later",
            "later -> m",
        ),
        *("check -false-> other", "m -> end"),
        any_merges=("m",),
    )
    walk = Walk.start(found, "start")
    run(walk, found, "fast")

    assert run(walk, found, "m") == Step(due=("end",), cancelled=(), ended=("later", "late"))
    assert walk.closed == {"late": 1}
    assert walk.advance(found, "check", ("true",)) == Step(skipped=("other",))
    assert walk == Walk(due=["end"])


def test_a_late_arrival_at_a_merge_of_any_is_ignored() -> None:
    found = graph(
        "start -> fast", "start -> slow", "fast -> m", "slow -> m", "slow -> other", any_merges=("m",)
    )
    walk = Walk.start(found, "start")
    run(walk, found, "fast", "m")
    assert walk.closed == {"m": 1}

    assert run(walk, found, "slow") == Step(due=("other",))
    assert walk == Walk(due=["other"])


def test_a_merge_of_a_number_goes_on_with_as_many_and_ends_the_rest() -> None:
    found = graph(
        *[f"start -> {n}" for n in "abcd"], *[f"{n} -> m" for n in "abcd"], "m -> end", merges={"m": 2}
    )
    walk = Walk.start(found, "start")
    run(walk, found, "c")
    assert walk.due == ["a", "b", "d"]

    assert run(walk, found, "a").due == ("m",)
    assert run(walk, found, "d").due == ()
    assert walk.arrivals(found, "m") == ("c", "a", "d")
    assert run(walk, found, "m") == Step(due=("end",), cancelled=("b",), ended=("b",))
    assert walk == Walk(due=["end"])


def test_a_merge_of_a_number_goes_on_with_fewer_once_no_further_branch_can_arrive() -> None:
    found = graph(
        "start -> a",
        "start -> b",
        "start -> c",
        "a -> m",
        "b -> m",
        "c -> m",
        "b -error-> x",
        merges={"m": 3},
    )
    walk = Walk.start(found, "start")
    run(walk, found, "a")
    walk.advance(found, "b", (ERROR,))

    assert run(walk, found, "c").due == ("m",)
    assert walk.arrivals(found, "m") == ("a", "c")
    assert run(walk, found, "m") == Step()


def test_a_merge_of_a_number_that_nothing_reaches_is_skipped() -> None:
    found = graph("start -> a", "start -> b", "a -error-> m", "b -error-> m", merges={"m": 2})
    walk = Walk.start(found, "start")
    run(walk, found, "a")

    assert run(walk, found, "b").skipped == ("m",)


def test_a_node_with_an_error_edge_elsewhere_is_not_ended() -> None:
    found = graph("start -> a", "start -> b", "a -> m", "b -> m", "b -error-> mourn", any_merges=("m",))
    walk = Walk.start(found, "start")
    run(walk, found, "a")

    assert run(walk, found, "m") == Step()
    assert walk.advance(found, "b", (ERROR,)).due == ("mourn",)


def test_a_node_whose_error_edge_leads_to_the_merge_as_well_is_ended() -> None:
    found = graph("start -> a", "start -> b", "a -> m", "b -> m", "b -error-> m", any_merges=("m",))
    walk = Walk.start(found, "start")
    run(walk, found, "a")

    assert run(walk, found, "m").cancelled == ("b",)


def test_an_end_is_never_ended_because_its_output_is_part_of_the_result() -> None:
    found = graph("start -> a", "start -> b", "start -> c", "a -> m", "b -error-> m", any_merges=("m",))
    walk = Walk.start(found, "start")
    run(walk, found, "a")

    assert run(walk, found, "m").ended == ()
    assert walk.due == ["b", "c"]


def test_a_node_that_leads_to_two_merges_of_any_is_ended_by_the_second() -> None:
    found = graph(
        *("start -> a", "start -> both", "start -> b", "a -> m1", "both -> m1", "both -> m2", "b -> m2"),
        any_merges=("m1", "m2"),
    )
    walk = Walk.start(found, "start")
    run(walk, found, "a")
    assert run(walk, found, "m1").ended == ()
    run(walk, found, "b")

    assert run(walk, found, "m2").cancelled == ("both",)
    assert walk == Walk()


def test_a_due_merge_is_ended_by_a_later_merge_it_leads_to() -> None:
    found = graph(
        *("start -> a", "start -> b", "start -> c", "a -> m1", "b -> m1", "m1 -> m2", "c -> m2"),
        any_merges=("m1", "m2"),
    )
    walk = Walk.start(found, "start")
    run(walk, found, "a", "c")

    step = run(walk, found, "m2")

    assert step.cancelled == ("m1", "b")
    assert walk == Walk()


def test_a_join_partly_decided_is_ended_with_the_branches_that_lead_to_it() -> None:
    found = graph(
        *("start -> a", "start -> b", "start -> c", "a -> join", "b -> join", "join -> m", "c -> m"),
        any_merges=("m",),
    )
    walk = Walk.start(found, "start")
    run(walk, found, "a", "c")

    step = run(walk, found, "m")

    assert step.cancelled == ("b",)
    assert set(step.ended) == {"b", "join"}
    assert walk == Walk()


# --- waits, retries and the end of an execution ------------------------------------------------------------


def test_a_waiting_node_leaves_the_line_to_others() -> None:
    found = graph("start -> a", "start -> b", "a -> c")
    walk = Walk.start(found, "start")

    walk.wait("a")

    assert walk.due == ["b"]
    assert walk.waiting == ["a"]
    assert not walk.is_finished
    assert run(walk, found, "a").due == ("c",)


def test_a_walk_with_only_waits_left_is_not_finished() -> None:
    walk = Walk.start(graph("start -> a"), "start")

    walk.wait("a")

    assert not walk.is_finished


def test_a_retry_without_a_wait_stands_first_in_line_again() -> None:
    found = graph("start -> a", "start -> b")
    walk = Walk.start(found, "start")

    walk.retry(found, "b", 2)

    assert walk.due == ["b", "a"]
    assert walk.attempt("b") == 2
    assert walk.attempt("a") == 1


def test_a_retry_that_waits_keeps_its_attempt_over_further_waits_and_drops_it_when_done() -> None:
    found = graph("start -> a", "a -> b")
    walk = Walk.start(found, "start")

    walk.wait("a", 2)
    walk.wait("a")
    assert walk.attempt("a") == 2
    walk.advance(found, "a", DONE)

    assert walk.attempt("a") == 1
    assert walk.attempts == {}


def test_failures_are_counted_by_the_rule_that_allowed_another_attempt_until_the_node_is_done() -> None:
    found = graph("start -> a", "a -> b")
    walk = Walk.start(found, "start")

    walk.retry(found, "a", 2, rule=2)
    walk.wait("a", 3, rule=0)
    walk.wait("a")
    walk.retry(found, "a", 4, rule=2)
    assert walk.failures == {"a": [1, 0, 2]}
    assert Walk.from_json(walk.to_json()) == walk
    walk.advance(found, "a", DONE)

    assert walk == Walk(due=["b"])


def test_the_end_cancels_due_and_waiting_nodes_and_drops_half_decided_joins() -> None:
    found = graph("start -> a", "start -> b", "start -> c", "a -> join", "b -> join")
    walk = Walk.start(found, "start", {"c": 2})
    run(walk, found, "a")
    walk.wait("b", 2)

    assert walk.end() == Step(cancelled=("c", "b"))
    assert walk == Walk()


def test_the_node_whose_failure_ends_the_execution_is_not_cancelled() -> None:
    walk = Walk.start(graph("start -> a", "start -> b"), "start")
    walk.wait("b")

    assert walk.end("b") == Step(cancelled=("a",))
    assert walk.is_finished


@pytest.mark.parametrize("node_id", ["start", "later", "no-such-node"])
def test_only_a_due_or_waiting_node_may_move(node_id: str) -> None:
    found = graph("start -> a", "a -> later")
    walk = Walk.start(found, "start")

    for move in (
        lambda: walk.advance(found, node_id, DONE),
        lambda: walk.wait(node_id),
        lambda: walk.retry(found, node_id, 2),
        lambda: walk.end(node_id),
    ):
        with pytest.raises(ValueError, match=f"'{node_id}' is neither due nor waiting"):
            move()
    assert walk == Walk(due=["a"])


# --- the journal -------------------------------------------------------------------------------------------


def test_every_kind_of_row_is_replayed_as_it_happened() -> None:
    found = graph(
        *[f"start -> {n}" for n in ("done", "lost", "waits", "later", "again")], "lost -error-> mourn"
    )
    journal = [
        row(1, "start"),
        row(2, "done"),
        row(4, "lost", "FAILED", (ERROR,)),
        row(5, "waits", "WAITING", ()),
        row(6, "later", "RETRYING", (), attempt=2, waits=True, rule=1),
        row(9, "again", "RETRYING", ()),
    ]

    assert Walk.replay(found, "start", journal) == Walk(
        due=["again", "mourn"],
        waiting=["waits", "later"],
        attempts={"later": 3, "again": 2},
        failures={"later": [0, 1]},
    )
    assert Walk.replay(found, "start", [*journal, row(10, "waits", "FAILED", ())]) == Walk()


@pytest.mark.parametrize(
    ("journal", "complaint"),
    [
        ([], "begins with its completed trigger 'start', not with None"),
        ([row(1, "a")], "begins with its completed trigger 'start'"),
        ([row(1, "start", "WAITING")], "begins with its completed trigger 'start'"),
        (
            [row(1, "start"), row(2, "b")],
            r"row 2 \(COMPLETED\) does not fit: node 'b' is neither due nor waiting",
        ),
        ([row(1, "start"), row(2, "gone")], "node 'gone' is neither due nor waiting"),
        ([row(1, "start"), row(2, "a"), row(3, "a")], "row 3 .* node 'a' is neither due nor waiting"),
        ([row(1, "start"), row(3, "a"), row(2, "b")], "row 2 comes after row 3"),
        ([row(1, "start"), row(2, "a", visit=2)], "is visit 2 of node 'a', which is at visit 1"),
        ([row(1, "start"), row(2, "a", "CANCELLED")], "no journal row has the status CANCELLED"),
        ([row(1, "start"), row(2, "a", "FAILED", ()), row(3, "c")], "node 'c' is neither due nor waiting"),
    ],
)
def test_a_journal_that_does_not_fit_is_refused(journal: list[JournalEntry], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Walk.replay(graph("start -> a", "a -> b", "start -> c"), "start", journal)


def test_after_a_rerun_nodes_behind_it_have_their_new_visits_until_they_are_done() -> None:
    found = graph("start -> a", "a -> check", "check -true-> b", "check -false-> c", "start -> d")
    visits = {"a": 3, "check": 2, "c": 2, "d": 1, "dropped-since": 2}

    walk = Walk.replay(found, "start", [row(1, "start"), row(7, "a", visit=3)], visits)

    assert walk.visit("check") == 2
    assert walk.visit("d") == 1
    assert walk.visits == {"check": 2, "c": 2}
    walk.advance(found, "check", ("true",))
    assert walk.visits == {}


def test_statuses_without_a_row_are_derived() -> None:
    found = graph(
        *(
            "start -> check",
            "check -false-> no",
            "check -true-> quick",
            "quick -> m",
            "start -> slow",
            "slow -> later",
        ),
        *("later -> m", "m -> end", "cron -> swept"),
        triggers=("start", "cron"),
        any_merges=("m",),
    )
    journal = [
        row(1, "start"),
        row(2, "slow", "WAITING", ()),
        row(3, "check", handles=("true",)),
        row(4, "quick"),
    ]

    assert node_statuses(found, "start", journal) == {
        "start": NodeStatus.COMPLETED,
        "cron": NodeStatus.SKIPPED,
        "swept": NodeStatus.SKIPPED,
        "slow": NodeStatus.WAITING,
        "check": NodeStatus.COMPLETED,
        "no": NodeStatus.SKIPPED,
        "quick": NodeStatus.COMPLETED,
    }
    finished = node_statuses(found, "start", [*journal, row(5, "m"), row(6, "end", "FAILED", ())])
    assert finished["slow"] is finished["later"] is NodeStatus.CANCELLED
    assert finished["end"] is NodeStatus.FAILED


def test_an_execution_that_was_cancelled_has_no_waiting_node_left() -> None:
    found = graph("start -> a", "start -> b", "b -> c")
    journal = [row(1, "start"), row(2, "a", "RETRYING", (), waits=True)]

    assert node_statuses(found, "start", journal) == {"start": "COMPLETED", "a": "RETRYING"}
    assert node_statuses(found, "start", journal, is_over=True) == {
        "start": "COMPLETED",
        "a": "CANCELLED",
        "b": "CANCELLED",
    }


# --- size --------------------------------------------------------------------------------------------------


def test_the_walk_survives_json() -> None:
    found = graph(
        "start -> a",
        "start -> b",
        "start -> c",
        "a -> m",
        "b -> m",
        "b -> join",
        "c -> join",
        any_merges=("m",),
    )
    walk = Walk.start(found, "start", {"b": 2})
    run(walk, found, "a", "m")
    walk.wait("c", 4)
    walk.wait("b")
    walk.advance(found, "c", DONE)

    assert Walk.from_json(walk.to_json()) == walk
    assert walk.to_json() == (
        b'{"waiting":["b"],"joins":{"join":{"taken":[1],"untaken":[]}},"closed":{"m":1},"visits":{"b":2}}'
    )
    assert Walk.from_json(b"{}") == Walk()


def test_the_walk_does_not_grow_with_the_nodes_done() -> None:
    found = graph("start -> n0", *[f"n{number} -> n{number + 1}" for number in range(1_000)])
    walk = Walk.start(found, "start")

    for number in range(1_000):
        assert len(walk.to_json()) < 100
        walk.advance(found, f"n{number}", DONE)


def test_thousands_of_skipped_nodes_are_followed_without_recursion() -> None:
    found = graph(
        "start -> check", "check -true-> n0", *[f"n{number} -> n{number + 1}" for number in range(3_000)]
    )

    assert len(Walk.start(found, "start").advance(found, "check", ()).skipped) == 3_001


def test_two_hundred_conditions_inside_each_other_all_meet_at_one_join() -> None:
    found = graph(
        "start -> c0",
        *[f"c{number} -true-> c{number + 1}" for number in range(199)],
        *[f"c{number} -false-> join" for number in range(200)],
        "c199 -true-> join",
    )
    walk = Walk.start(found, "start")
    for number in range(199):
        walk.advance(found, f"c{number}", ("true",))

    assert walk.advance(found, "c199", ("false",)).due == ("join",)
    assert walk.arrivals(found, "join") == ("c199",)


@pytest.mark.parametrize("any_merges", [(), ("join",)])
def test_five_hundred_branches_meet_at_one_join(any_merges: tuple[str, ...]) -> None:
    branches = [f"b{number}" for number in range(500)]
    found = graph(
        *[f"start -> {b}" for b in branches], *[f"{b} -> join" for b in branches], any_merges=any_merges
    )
    walk = Walk.start(found, "start")
    moves = 0
    while not walk.is_finished:
        run(walk, found, walk.due[0])
        moves += 1

    assert moves == (2 if any_merges else 501)
    assert walk == Walk()
