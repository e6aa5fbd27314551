"""logic/set sets variables, which are its output, too."""

from __future__ import annotations

from support.node_runs import run
from workflow_engine.nodes.logic.set import NODE_TYPE
from workflow_engine.nodes.results import success


def test_the_variables_are_set_and_put_out() -> None:
    config = {"variables": {"total": "{{ placed.net * 2 }}", "note": "net {{ placed.net }}", "fixed": [1]}}

    result = run(NODE_TYPE, config, {"placed": {"net": 50}})

    assert result == success(result.output, variables=result.output)
    assert result.output == {"total": 100, "note": "net 50", "fixed": [1]}
