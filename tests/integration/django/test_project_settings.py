"""The engine goes along with a Django project: its settings, its database, its Celery app, its nodes."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest
from django.test import override_settings
from sqlalchemy import make_url

from support.django_shop.celery import app
from workflow_engine import Settings, SettingsInvalid, get_settings
from workflow_engine.django import client
from workflow_engine.django.configuration import celery_app, database_url, engine_settings
from workflow_engine.postgres.database import PooledDatabase


def with_settings(**values: Any) -> override_settings:
    return override_settings(WORKFLOW_ENGINE=values)


def test_settings_have_the_engine_s_names_in_upper_case() -> None:
    with with_settings(REDIS_URL="redis://cache:6379/3", LOCK_EXPIRY=20, LOCK_URLS=[]):
        settings = get_settings()

    assert (settings.redis_url, settings.lock_expiry, settings.lock_urls) == ("redis://cache:6379/3", 20, ())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"REDIS_UR": "redis://cache"}, r"WORKFLOW_ENGINE\['REDIS_UR'\].*did you mean 'REDIS_URL'"),
        ({"lock_expiry": 20}, "did you mean 'LOCK_EXPIRY'"),
        ({"COLOUR": "red"}, "there is no such setting; there are .*QUEUE"),
        ({"LOCK_EXPIRY": "soon"}, r"WORKFLOW_ENGINE\['LOCK_EXPIRY'\]: .*number"),
        ({"DATABASE_URL": "postgresql://x/y"}, r"name its alias in WORKFLOW_ENGINE\['DATABASE'\]"),
        ({"DATABASE": "wharehouse"}, "DATABASES has no 'wharehouse'; it has 'default', 'other'"),
    ],
)
def test_a_setting_that_is_wrong_is_named_as_the_project_spells_it(
    values: dict[str, Any], message: str
) -> None:
    with with_settings(**values), pytest.raises(SettingsInvalid, match=message):
        get_settings()


def test_settings_that_are_no_dict_say_so() -> None:
    with (
        override_settings(WORKFLOW_ENGINE="redis://cache"),
        pytest.raises(SettingsInvalid, match="make it a"),
    ):
        client()


def test_the_environment_goes_before_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_ENGINE_LOCK_EXPIRY", "7")

    with with_settings(LOCK_EXPIRY=20):
        assert get_settings().lock_expiry == 7


def test_a_second_database_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_ENGINE_DATABASE_URL", "postgresql://ada:secret@elsewhere/shop")

    with pytest.raises(SettingsInvalid, match="is set as well as DATABASES; remove it") as refusal:
        get_settings()
    assert "secret" not in str(refusal.value)


def test_the_engine_s_own_connections_reach_the_database_of_the_alias(settings: Settings) -> None:
    database = PooledDatabase(get_settings())

    ((name,),) = database.rows("SELECT current_database()")

    assert name == make_url(settings.database_url).database
    database.dispose()


@pytest.mark.parametrize(
    ("database", "reached"),
    [
        (
            {"NAME": "shop", "HOST": "db", "PORT": 5433, "USER": "ada"},
            "host=db port=5433 user=ada dbname=shop",
        ),
        ({"NAME": "shop", "HOST": "/run/postgres"}, "host=/run/postgres dbname=shop"),
        ({"NAME": "shop", "HOST": "a,b", "PORT": "1,2"}, "host=a,b port=1,2 dbname=shop"),
        ({"NAME": "sh/op", "USER": "a@b", "PASSWORD": "p:/?#"}, "user=a@b password=p:/?# dbname=sh/op"),
        (
            {
                "NAME": "shop",
                "OPTIONS": {
                    "sslmode": "require",
                    "options": "-c search_path=x",
                    "assume_role": "app",
                    "isolation_level": 3,
                    "pool": True,
                },
            },
            "dbname=shop sslmode=require options='-c search_path=x -c role=app'",
        ),
        ({"OPTIONS": {"service": "shop"}}, "service=shop"),
    ],
)
def test_a_database_of_django_is_the_same_for_the_engine(database: dict[str, Any], reached: str) -> None:
    from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

    url = Settings(database_url=database_url(database)).database_url
    _, parameters = PGDialect_psycopg2().create_connect_args(make_url(url))

    given = {name: str(value) for name, value in parameters.items() if value}
    assert given == psycopg2.extensions.parse_dsn(reached)


def test_the_celery_app_is_that_beside_the_project_s_settings() -> None:
    assert celery_app() is app


def test_another_celery_app_is_named() -> None:
    from support.shop import app as another

    with with_settings(CELERY_APP="support.shop:app"):
        assert celery_app() is another
        assert get_settings().queue == "shop"


def test_the_app_s_redis_and_default_queue_serve_the_engine_if_nothing_else_is_set() -> None:
    with with_settings():
        settings = get_settings()

    assert settings.redis_url == app.conf.broker_url
    assert settings.queue == "shop"


def test_modules_named_nodes_are_imported_with_those_of_the_settings() -> None:
    with with_settings(IMPORTS=["support.nodes.nodes"]):
        assert engine_settings()["imports"] == ("support.nodes.nodes", "support.django_shop.nodes")
