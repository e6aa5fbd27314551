"""A secret that was read appears in nothing that is stored, and masking it damages no other text."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from workflow_engine.errors import InvalidValue
from workflow_engine.expressions.secrets import Secrets

KEY_FILE = """-----BEGIN PRIVATE KEY-----
MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQC7VJTUt9Us8cKj
MzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuictGeurT8jNbvJZHtCSuYEvu
NMoSfm76oqFvAp8=
-----END PRIVATE KEY-----
"""


def revealed(**values: str) -> Secrets:
    secrets = Secrets(values.get)
    for name in values:
        secrets[name]
    return secrets


def test_secrets_come_from_the_environment_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_SECRET_TOKEN", "s3cret-token")

    assert Secrets()["TOKEN"] == "s3cret-token"


def test_a_secret_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Secrets({}.get)["TOKEN"]


@pytest.mark.parametrize("value", ["", "not\udcfftext", "nul\0byte"])
def test_a_secret_that_is_empty_or_no_text_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidValue, match=r"_secrets\.TOKEN: the secret is (empty|not text)"):
        Secrets({"TOKEN": value}.get)["TOKEN"]


def test_the_provider_is_asked_once_for_each_secret() -> None:
    asked: list[str] = []

    def provide(name: str) -> str:
        asked.append(name)
        return "s3cret-token"

    secrets = Secrets(provide)
    assert secrets["TOKEN"] + secrets["TOKEN"] == "s3cret-token" * 2
    assert asked == ["TOKEN"]


def test_the_representation_names_secrets_but_shows_none() -> None:
    assert repr(revealed(TOKEN="s3cret-token")) == "Secrets(revealed: TOKEN)"


# -- data that later nodes read ----------------------------------------------------------------------------


def test_in_data_a_secret_is_masked_in_all_strings_and_keys() -> None:
    value = {
        "auth": "Bearer s3cret-token",
        "list": [{"s3cret-token": 1}, "s3cret-token s3cret-token", None, 3],
    }
    before = json.dumps(value)

    masked = revealed(TOKEN="s3cret-token").mask_data(value, "output")

    assert masked == {"auth": "Bearer ***", "list": [{"***": 1}, "*** ***", None, 3]}
    assert json.dumps(value) == before


def test_a_secret_that_was_not_read_is_not_masked() -> None:
    assert Secrets({"COLOUR": "crimson-0815"}.get).mask_data("a crimson-0815 rose", "output") == (
        "a crimson-0815 rose"
    )


@pytest.mark.parametrize("secret", ["shop", "1", "production", "db.internal", "2026-01-01", "true"])
def test_data_is_never_damaged_by_a_secret_that_could_be_anything(secret: str) -> None:
    data = {"user": secret, "url": f"https://{secret}.example.com/orders/7", secret: 1, "order": "order-2101"}

    assert revealed(PLAIN=secret).mask_data(data, "output") == data


def test_keys_that_would_become_one_are_refused_with_their_path() -> None:
    secrets = revealed(TOKEN="s3cret-token", OTHER="0ther-secret")

    with pytest.raises(InvalidValue, match=r"^output\.by\[0\]: several of its keys hold secrets"):
        secrets.mask_data({"by": [{"s3cret-token": 1, "0ther-secret": 2}]}, "output")


def test_lines_of_a_key_file_that_is_json_are_left_alone_in_data() -> None:
    key = json.dumps({"type": "service_account", "private_key": "MIIEvgIBADANBg/kqhkiG9w"}, indent=2)
    data = {"text": 'they write\n"type": "service_account",\nin it'}

    assert revealed(KEY=key).mask_data(data, "output") == data
    assert revealed(KEY=key).mask_data({"text": f"it is {key}"}, "output") == {"text": "it is ***"}


# -- texts about the run -------------------------------------------------------------------------------------

PASSWORD = 'pä"ss w/rd\n7'


@pytest.mark.parametrize(
    "spelled",
    [
        PASSWORD,
        repr(PASSWORD),
        ascii(PASSWORD),
        str(PASSWORD.encode()),
        json.dumps(PASSWORD),
        json.dumps(PASSWORD, ensure_ascii=False),
        quote(PASSWORD),
        quote(PASSWORD, safe=""),
        quote_plus(PASSWORD),
        quote(PASSWORD).lower(),
        b64encode(PASSWORD.encode()).decode(),
        urlsafe_b64encode(PASSWORD.encode()).decode().rstrip("="),
        PASSWORD.encode().hex(),
    ],
    ids=lambda spelled: spelled[:20],
)
def test_in_a_text_every_usual_spelling_of_a_secret_is_masked(spelled: str) -> None:
    masked = revealed(PASSWORD=PASSWORD).mask_text(f"login failed ({spelled}), try again")

    assert masked.startswith("login failed (")
    assert masked.endswith("), try again")
    assert "***" in masked
    assert len(masked) <= len("login failed (''***''), try again")


@pytest.mark.parametrize("user", ["", "a:", "ab:", "abc:"])
@pytest.mark.parametrize("after", ["", "!", "!!"])
def test_a_secret_is_masked_as_a_part_of_something_in_base64(user: str, after: str) -> None:
    header = b64encode(f"{user}s3cret-token{after}".encode()).decode()

    masked = revealed(TOKEN="s3cret-token").mask_text(f"Basic {header}")

    assert "***" in masked
    assert len(masked) < len("Basic ***") + 12  # the other characters depend on the neighbours


def test_the_single_lines_of_a_key_file_are_masked_but_not_that_it_is_one() -> None:
    secrets = revealed(KEY=KEY_FILE)

    for line in KEY_FILE.splitlines()[1:4]:
        assert secrets.mask_text(f"bad line: {line}.") == "bad line: ***."
    boundary = "expected -----BEGIN PRIVATE KEY-----"
    assert secrets.mask_text(boundary) == boundary
    assert secrets.mask_text(KEY_FILE) == "***"


@pytest.mark.parametrize("length", [20, 40, 60, 100])
def test_a_secret_that_a_message_cuts_short_is_masked(length: int) -> None:
    token = "eyJhbGciOiJIUzI1NiJ9." + "QpwL5tke4Pnpja7X4" * 8

    masked = revealed(TOKEN=token).mask_text(f"wrong token {token[:length]!r}…")

    assert masked == "wrong token '***'…"


def test_a_secret_that_contains_another_is_masked_whole() -> None:
    assert revealed(A="abc-1234", B="abc-1234-def").mask_text("abc-1234-def abc-1234") == "*** ***"


def test_of_a_secret_that_could_be_anything_only_whole_words_are_masked() -> None:
    secrets = revealed(FLAG="1", USER="shop")

    assert secrets.mask_text("user 'shop' of shop.example, flag=1, order-2101, workshop") == (
        "user '***' of ***.example, flag=***, order-2101, workshop"
    )


def test_of_what_is_kept_for_readers_keys_are_masked_and_stay_apart() -> None:
    secrets = revealed(A="abc-1234", B="def-5678")
    value: Any = {"abc-1234": ["abc-1234"], "def-5678": {"n": 1}}

    assert secrets.mask_texts(value) == {"***": ["***"], "****": {"n": 1}}


# -- what cannot be masked ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["s3cret-token", "order-s3cret-token", "b3JkZXI6czNjcmV0LXRva2Vu"])
def test_a_secret_is_refused_where_it_cannot_be_masked(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"^correlation_id: the secret TOKEN is in it"):
        revealed(TOKEN="s3cret-token").check_absence(text, "correlation_id")


def test_a_text_that_only_has_a_plain_secret_in_it_is_accepted_where_it_cannot_be_masked() -> None:
    revealed(FLAG="1").check_absence("order-1", "correlation_id")

    with pytest.raises(InvalidValue, match="the secret FLAG is in it"):
        revealed(FLAG="1").check_absence("1", "correlation_id")


@pytest.mark.parametrize(
    ("secret", "is_accepted"),
    [
        ("1", False),
        ("shop", False),
        ("hunter2", False),
        ("production", False),
        ("db.internal", False),
        ("12345678", False),
        ("hunter2!", True),
        ("correct horse battery staple", True),
        ("4f3a9c1e", True),
        (KEY_FILE, True),
    ],
)
def test_a_secret_that_could_be_anything_is_refused_inside_text(secret: str, is_accepted: bool) -> None:
    secrets = revealed(PASSWORD=secret)

    if is_accepted:
        secrets.check_use_in_text(["PASSWORD"])
    else:
        with pytest.raises(InvalidValue, match=r"^_secrets\.PASSWORD: the secret is too short or too plain"):
            secrets.check_use_in_text(["PASSWORD"])
