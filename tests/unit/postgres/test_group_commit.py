"""Commits of one execution that threads of a process offer at the same moment share a statement."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from support.polling import poll
from workflow_engine.errors import DatabaseUnavailable, InvalidValue
from workflow_engine.postgres.executions.commits import group_commit
from workflow_engine.postgres.executions.commits.group_commit import GroupCommit


class Postgres:
    """Answers each document with itself; the first statement takes until it `may_answer`."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.statements: list[list[str]] = []
        self.is_away = False

    def send(self, documents: Sequence[str]) -> list[tuple[str]]:
        self.statements.append(list(documents))
        if len(self.statements) == 1:
            assert self.may_answer.wait(20)
        if self.is_away:
            raise DatabaseUnavailable("it is away")
        if "refused" in documents:
            raise InvalidValue("data", "it is refused")
        return [(document,) for document in documents]


@pytest.fixture
def postgres() -> Postgres:
    return Postgres()


@pytest.fixture
def commits(postgres: Postgres) -> GroupCommit:
    return GroupCommit(postgres.send)


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(8)


Offers = Callable[..., list["Future[tuple[str]]"]]


@pytest.fixture
def offer_behind(commits: GroupCommit, postgres: Postgres, pool: ThreadPoolExecutor) -> Offers:
    """Return a function that offers commits one after another, while the first one is on its way."""

    def offer(first: str, *others: str) -> list[Future[tuple[str]]]:
        results = [pool.submit(commits.commit, "one", first)]
        poll(lambda: postgres.statements, "the first is on its way")
        for document in others:
            results.append(pool.submit(commits.commit, "one", document))
            poll(lambda: commits.waiting("one") == len(results) - 1, "the next is offered")
        return results

    return offer


def test_commits_that_are_offered_while_another_is_on_its_way_share_the_next_statement(
    offer_behind: Offers, postgres: Postgres
) -> None:
    results = offer_behind("a", "b", "c", "d")

    postgres.may_answer.set()

    assert [each.result(20) for each in results] == [("a",), ("b",), ("c",), ("d",)]
    assert postgres.statements == [["a"], ["b", "c", "d"]]


def test_content_that_postgres_refuses_is_refused_to_its_own_node_alone(
    offer_behind: Offers, postgres: Postgres
) -> None:
    first, good, bad, other = offer_behind("a", "b", "refused", "d")

    postgres.may_answer.set()

    with pytest.raises(InvalidValue):
        bad.result(20)
    assert [each.result(20) for each in (first, good, other)] == [("a",), ("b",), ("d",)]


def test_while_postgres_is_away_each_commit_raises_its_own_error(
    offer_behind: Offers, postgres: Postgres
) -> None:
    results = offer_behind("a", "b", "c")
    postgres.is_away = True

    postgres.may_answer.set()

    errors = [each.exception(20) for each in results]
    assert [type(error) for error in errors] == [DatabaseUnavailable] * 3
    assert len(set(map(id, errors))) == 3


def test_after_an_outage_commits_are_made_again(
    offer_behind: Offers, commits: GroupCommit, postgres: Postgres
) -> None:
    results = offer_behind("a", "b")
    postgres.is_away = True
    postgres.may_answer.set()
    assert all(each.exception(20) for each in results)
    postgres.is_away = False

    assert commits.commit("one", "b") == ("b",)


def test_commits_of_another_execution_do_not_wait(
    offer_behind: Offers, commits: GroupCommit, postgres: Postgres
) -> None:
    results = offer_behind("a", "b")

    assert commits.commit("another", "z") == ("z",)

    assert not any(each.done() for each in results)
    postgres.may_answer.set()
    assert [each.result(20) for each in results] == [("a",), ("b",)]


def test_a_statement_is_no_longer_than_its_bound_unless_one_commit_is(
    offer_behind: Offers, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MOST_CHARACTERS", 3)
    results = offer_behind("a", "bb", "c", "dd", "a long one", "e")

    postgres.may_answer.set()

    assert [each.result(20) for each in results] == [
        ("a",),
        ("bb",),
        ("c",),
        ("dd",),
        ("a long one",),
        ("e",),
    ]
    assert postgres.statements == [["a"], ["bb", "c"], ["dd"], ["a long one"], ["e"]]


def test_a_forked_process_does_not_wait_for_the_statement_of_its_parent(
    offer_behind: Offers, commits: GroupCommit, postgres: Postgres
) -> None:
    results = offer_behind("a", "b")

    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if commits.commit("one", "of the child") == ("of the child",) else 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    postgres.may_answer.set()
    assert [each.result(20) for each in results] == [("a",), ("b",)]
