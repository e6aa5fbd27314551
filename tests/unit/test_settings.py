"""Settings come from the environment, are checked at once, and all of them are in the README."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from workflow_engine.settings import ENVIRONMENT_PREFIX, Settings

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_readme_tells_every_setting_with_its_meaning(name: str) -> None:
    field = Settings.model_fields[name]
    default = "" if field.default in ("", ()) else f"`{field.default}`"

    row = f"| `{ENVIRONMENT_PREFIX}{name.upper()}` | {default} | {field.description} |"

    assert row in README.read_text()


def test_a_setting_is_read_from_its_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_ENGINE_LOCK_EXPIRY", "2.5")
    monkeypatch.setenv("WORKFLOW_ENGINE_IMPORTS", "shop.nodes, billing.nodes,")
    monkeypatch.setenv("WORKFLOW_ENGINE_LOCK_URLS", "redis://a,redis://b:6380, unix:///run/redis.sock")

    settings = Settings()

    assert settings.lock_expiry == 2.5
    assert settings.imports == ("shop.nodes", "billing.nodes")
    assert settings.lock_urls == ("redis://a", "redis://b:6380", "unix:///run/redis.sock")


@pytest.mark.parametrize(
    "url", ["postgresql://db/flows", "postgres://db/flows", "postgresql+psycopg2://db/flows"]
)
def test_every_usual_form_of_a_postgres_url_means_the_driver_that_is_tested(url: str) -> None:
    assert Settings(database_url=url).database_url == "postgresql+psycopg2://db/flows"


def test_the_broker_is_the_redis_of_the_engine_unless_another_is_named() -> None:
    assert Settings(redis_url="redis://cache/3").effective_broker_url == "redis://cache/3"
    assert Settings(broker_url="amqp://rabbit//").effective_broker_url == "amqp://rabbit//"


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("database_url", "mysql://db/flows", "postgresql://"),
        ("database_url", "db:5432", "postgresql://"),
        ("redis_url", "localhost", "redis://"),
        ("redis_url", "redis://localhost:port/0", "Port could not be cast"),
        ("lock_urls", "redis://a,localhost,redis://c", "redis://"),
        ("lock_urls", "redis://a:port,redis://b,redis://c", "Port could not be cast"),
        ("lock_urls", "redis://a", "an odd number, not 1; or none"),
        ("lock_urls", "redis://a,redis://b,redis://c,redis://d", "an odd number, not 4; or none"),
        ("lock_urls", "redis://a/0,redis://b/0,redis://user@a:6379/1", "a:6379 is named twice"),
        ("database_schema", "Robert'); DROP", "pattern"),
        ("lock_expiry", 0, "greater than or equal to 0.5"),
        ("node_priority", 10, "less than or equal to 9"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_do(name: str, value: object, advice: str) -> None:
    with pytest.raises(ValidationError, match=name) as refusal:
        Settings(**{name: value})

    assert advice in str(refusal.value)
