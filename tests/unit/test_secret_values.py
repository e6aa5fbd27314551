"""Secrets: where they come from, and that what was read of them is hidden everywhere."""

from __future__ import annotations

import json

import pytest

from workflow_engine.secret_values import Secrets


def revealed(**values: str) -> Secrets:
    secrets = Secrets(values.get)
    for name in values:
        secrets[name]
    return secrets


def test_secrets_come_from_the_environment_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_SECRET_TOKEN", "s3cret")

    assert Secrets()["TOKEN"] == "s3cret"


def test_a_secret_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Secrets({}.get)["TOKEN"]


def test_the_provider_is_asked_once_for_each_secret() -> None:
    asked: list[str] = []

    def provide(name: str) -> str:
        asked.append(name)
        return "s3cret"

    secrets = Secrets(provide)
    assert secrets["TOKEN"] + secrets["TOKEN"] == "s3crets3cret"
    assert asked == ["TOKEN"]


def test_a_revealed_secret_is_masked_in_all_strings_and_keys() -> None:
    secrets = revealed(TOKEN="s3cret")

    masked = secrets.mask({"auth": "Bearer s3cret", "list": [{"s3cret": 1}, "s3cret s3cret", None, 3]})

    assert masked == {"auth": "Bearer ***", "list": [{"***": 1}, "*** ***", None, 3]}


def test_masking_leaves_the_value_itself_alone() -> None:
    value = {"auth": ["s3cret"]}
    revealed(TOKEN="s3cret").mask(value)

    assert value == {"auth": ["s3cret"]}


def test_a_secret_that_was_not_read_is_not_masked() -> None:
    assert Secrets({"COLOUR": "red"}.get).mask("a red rose") == "a red rose"


def test_a_secret_that_contains_another_is_masked_whole() -> None:
    assert revealed(SHORT="abc", LONG="abcdef").mask("abcdef abc") == "*** ***"


def test_an_empty_secret_masks_nothing() -> None:
    assert revealed(EMPTY="").mask("text") == "text"


def test_a_secret_is_masked_in_the_forms_it_takes_in_json_and_urls() -> None:
    secrets = revealed(PASSWORD='a"b c/d')

    assert secrets.mask(json.dumps({"password": 'a"b c/d'})) == '{"password": "***"}'
    assert (
        secrets.mask("https://x/?p=a%22b+c%2Fd&q=a%22b%20c%2Fd&r=a%22b%20c/d")
        == "https://x/?p=***&q=***&r=***"
    )


def test_the_representation_names_secrets_but_shows_none() -> None:
    assert repr(revealed(TOKEN="s3cret")) == "Secrets(revealed: TOKEN)"
