"""Every broken definition of the corpus gives exactly its problems: all of them, each with its path.

A case changes a sound definition: `with` replaces keys, `without` removes them, `add nodes` and `add edges`
append; or it is a `whole` definition, or a `text` as an author may have written it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.definitions import REGISTRY, sound_definition
from workflow_engine.definition.text import read_definition
from workflow_engine.errors import DefinitionInvalid, DefinitionUnreadable, Problem
from workflow_engine.validation import problems_of, validate, validate_text

CORPUS = [
    (f"{file.stem}: {case['name']}", case)
    for file in sorted((Path(__file__).parent / "broken_definitions").glob("*.yaml"))
    for case in read_definition(file.read_text(), name=file.name)
]
UNREADABLE = [pytest.param(case, id=name) for name, case in CORPUS if "unreadable" in case]
BROKEN_TEXTS = [pytest.param(case, id=name) for name, case in CORPUS if "text" in case and "problems" in case]
BROKEN = [pytest.param(case, id=name) for name, case in CORPUS if "text" not in case]


def test_the_corpus_has_at_least_a_hundred_definitions_each_with_a_name_of_its_own() -> None:
    assert len({name for name, _ in CORPUS}) == len(CORPUS) >= 100
    assert len(UNREADABLE) + len(BROKEN_TEXTS) + len(BROKEN) == len(CORPUS)


def test_the_definition_that_the_corpus_breaks_is_sound() -> None:
    assert problems_of(sound_definition(), REGISTRY) == []


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_definition_gives_exactly_its_problems(case: dict[str, Any]) -> None:
    definition = _definition(case)

    with pytest.raises(DefinitionInvalid) as refusal:
        validate(definition, REGISTRY)

    _assert_problems(refusal.value.problems, case["problems"])
    assert problems_of(definition, REGISTRY) == list(refusal.value.problems)


@pytest.mark.parametrize("case", BROKEN_TEXTS)
def test_a_broken_text_gives_exactly_its_problems(case: dict[str, Any]) -> None:
    with pytest.raises(DefinitionInvalid) as refusal:
        validate_text(case["text"], REGISTRY)

    _assert_problems(refusal.value.problems, case["problems"])


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unreadable_text_says_where_and_what_to_do(case: dict[str, Any]) -> None:
    with pytest.raises(DefinitionUnreadable) as refusal:
        validate_text(case["text"], REGISTRY, name=case.get("as file", ""))

    assert case["unreadable"] in str(refusal.value)
    assert refusal.value.line is None or f"line {refusal.value.line}, column" in str(refusal.value)


def _definition(case: dict[str, Any]) -> Any:
    if "whole" in case:
        return case["whole"]
    changed = {**sound_definition(), **case.get("with", {})}
    for part in ("nodes", "edges"):
        if f"add {part}" in case:
            changed[part] = [*changed[part], *case[f"add {part}"]]
    return {key: value for key, value in changed.items() if key not in case.get("without", ())}


def _assert_problems(found: tuple[Problem, ...], expected: list[list[str]]) -> None:
    """Assert the same places in the same order, each with a message that contains the expected part."""
    assert [problem.path for problem in found] == [path for path, _ in expected], "\n".join(map(str, found))
    for problem, (_, part) in zip(found, expected, strict=True):
        assert part in problem.message
        assert "pydantic" not in problem.message
        assert "Input should" not in problem.message
