"""The doctor names the code of deployed workflows that cannot be imported here."""

from __future__ import annotations

import sys

import pytest

from support.findings import not_ok
from workflow_engine.health.doctor import Severity
from workflow_engine.health.doctor.code import judge_code, judge_imports
from workflow_engine.health.doctor.postgres import CodeInUse
from workflow_engine.nodes.loading import load_node_types


def test_code_that_is_missing_here_is_reported_with_the_workflows_that_use_it() -> None:
    known = load_node_types()
    code = (
        CodeInUse("shop", "trigger", "manual", None, None),
        CodeInUse("shop", "action", "python", "shop.not_loaded", None),
        CodeInUse("shop", "action", "teleport", None, None),
    )

    finding = judge_code(code, known)

    assert finding.severity is Severity.WARNING
    assert finding.answer == "not action/teleport (shop), shop.not_loaded (shop)"
    assert judge_code(code[:1], known).severity is Severity.OK


def test_a_package_of_an_extra_that_is_missing_here_is_reported_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)

    finding = judge_code([CodeInUse("shop", "action", "api-call", None, None)], load_node_types())

    assert finding.answer == "not action/api-call (shop)"
    assert finding.advice == "if workers run here, run `pip install 'celery-workflow-engine[http]'`"


def test_every_module_that_cannot_be_imported_is_reported() -> None:
    found = list(judge_imports(("json", "no_such_module", "no_other_module")))

    assert len(found) == 2
    assert all(finding.severity is Severity.PROBLEM for finding in found)
    assert found[0].answer.startswith("not module 'no_such_module': ModuleNotFoundError: ")
    assert not_ok(list(judge_imports(("json",)))) == []
