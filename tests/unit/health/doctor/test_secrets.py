"""The doctor counts the secrets that can be masked, and names one that cannot."""

from __future__ import annotations

import pytest

from workflow_engine.health.doctor import Severity
from workflow_engine.health.doctor.secrets import judge_secrets


def test_secrets_that_can_be_masked_are_counted_and_none_is_shown() -> None:
    finding = judge_secrets({"WORKFLOW_SECRET_TOKEN": "s3cret-token", "OTHER": "1"})

    assert (finding.severity, finding.answer) == (Severity.OK, "yes, all 1 of this environment")
    assert judge_secrets({}).severity is Severity.OK


@pytest.mark.parametrize("value", ["", "1", "shop", "production", "12345678"])
def test_a_secret_that_could_be_mistaken_for_other_text_is_a_problem(value: str) -> None:
    finding = judge_secrets({"WORKFLOW_SECRET_PIN": value, "WORKFLOW_SECRET_TOKEN": "s3cret-token"})

    assert finding.severity is Severity.PROBLEM
    assert (
        finding.answer
        == "not WORKFLOW_SECRET_PIN: too short or too plain to be distinguished from other text"
    )
    assert "at least 8 characters" in finding.advice
