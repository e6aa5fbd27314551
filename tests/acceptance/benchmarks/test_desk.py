"""Beside a million executions every page, list and explanation is answered from a part of an index.

How fast they are is in the documents; here are the plans, and the pages of tables and indexes that they read:
an index that is read from end to end for want of a match is as slow as a whole table.
"""

from __future__ import annotations

import re

import pytest

from benchmarks.desk import lists, page_paths, resting
from benchmarks.past_month import PastMonth
from benchmarks.testbed import Testbed
from support.flower_site import flower_site
from support.statements import Sent, recorded_statements
from workflow_engine.engine.assembly import Engine

MOST_PAGES = 30_000
"""As many as 200,000 executions have in their table; of a million, a fifth."""

MOST_PAGES_OF_A_LIST = 20_000
"""Of all statements of a list together; the usual list reads 5,000."""

READ_WHOLE = re.compile(r"Seq Scan on (?:executions|node_executions|execution_wait_states)\b")


@pytest.mark.parametrize(
    "executions",
    [
        pytest.param(200_000, marks=[pytest.mark.long, pytest.mark.timeout(280)]),
        pytest.param(1_000_000, marks=[pytest.mark.longest, pytest.mark.timeout(2400)]),
    ],
    ids="{:,} executions".format,
)
def test_no_page_list_or_explanation_reads_a_large_table_or_index_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, executions: int
) -> None:
    with Testbed() as testbed:
        month = PastMonth(testbed.settings)
        month.fill(executions)
        client, engine = month.client, Engine.assemble(testbed.settings)
        paths, questions, ids = page_paths(client), lists(client), resting(client)
        sent = recorded_statements(monkeypatch)
        with flower_site(engine) as site:
            for path in paths.values():
                assert site.get(path).status_code == 200, path
        reads: dict[str, list[Sent]] = {}
        for name, question in questions.items():
            before = len(sent)
            question()
            reads[name] = sent[before:]
        for each in ids.values():
            client.explain(each)
        client.explain_all()

        assert len(sent) > len(paths) + len(questions)
        plans = {each.statement: each.plan(engine) for each in sent}
        whole = {statement: plan for statement, plan in plans.items() if READ_WHOLE.search(plan)}
        assert not whole
        read = {(each.statement, str(each.parameters)): each.pages(engine) for each in sent}
        assert {statement: pages for statement, pages in read.items() if pages > MOST_PAGES} == {}
        of_lists = {
            name: sum(read[each.statement, str(each.parameters)] for each in statements)
            for name, statements in reads.items()
        }
        assert {name: pages for name, pages in of_lists.items() if pages > MOST_PAGES_OF_A_LIST} == {}
