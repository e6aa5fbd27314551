"""Each place that does not fit gets one sentence, about the type that was most likely meant."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from workflow_engine.definition.problems import check_model


def _refuse(text: str) -> str:
    raise ValueError(f"{text!r} is no expression")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Comparison(Strict):
    field: str
    least: int = Field(0, ge=3)


class Group(Strict):
    all: list[Comparison | Group]


class Config(Strict):
    condition: Comparison | Group | None = None
    counts: int | list[int] | None = None
    expression: int | Annotated[str, AfterValidator(_refuse)] = 0
    names: set[str] | None = None


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (5, ["config: must be an object, not 5"]),
        ({"condition": 3}, ["config.condition: must be an object, not 3"]),
        ({"condition": {}}, ["config.condition.field: is required; add it"]),
        (
            {"condition": {"all": [{"fild": "a"}]}},
            [
                "config.condition.all[0].field: is required; add it",
                "config.condition.all[0].fild: unknown key; did you mean 'field'?",
            ],
        ),
        (
            {"condition": {"all": [{"field": 1, "least": 1}, {"all": 3}]}},
            [
                'config.condition.all[0].field: must be text, not 1; write it in quotes, "1"',
                "config.condition.all[0].least: must be at least 3, not 1",
                "config.condition.all[1].all: must be a list, not 3",
            ],
        ),
        (
            {"condition": {"field": "a", "all": []}},
            ["config.condition.all: cannot be combined with the other keys here; remove it or them"],
        ),
        ({"counts": "x"}, ["config.counts: must be a whole number or a list, not 'x'"]),
        (
            {"counts": ["x", 1, None]},
            [
                "config.counts[0]: must be a whole number, not 'x'",
                "config.counts[2]: must be a whole number, not null",
            ],
        ),
        ({"expression": "x"}, ["config.expression: 'x' is no expression"]),
        ({"expression": []}, ["config.expression: must be a whole number or text, not a list"]),
        ({"names": {}}, ["config.names: must be a list, not an object"]),
        ({"zzz": 1}, ["config.zzz: unknown key; known here: condition, counts, expression, names"]),
    ],
)
def test_data_that_does_not_fit_a_model_is_reported_in_plain_words(content: Any, problems: list[str]) -> None:
    model, found = check_model(Config, content, "config")

    assert model is None
    assert [str(problem) for problem in found] == problems


def test_data_that_fits_is_returned_as_the_model() -> None:
    content = {"condition": {"all": [{"field": "a"}]}}

    assert check_model(Config, content) == (Config.model_validate(content), [])
