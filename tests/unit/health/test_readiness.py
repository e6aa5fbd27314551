"""The readiness probe finds the newest migration and the servers' addresses, and imports nothing slow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workflow_engine.addresses.postgres import libpq_url
from workflow_engine.health.readiness import revisions
from workflow_engine.postgres import migrations


def test_the_newest_revision_is_the_one_that_migrations_lead_to() -> None:
    assert revisions()[-1] == migrations.newest_revision()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql+psycopg2://u:p%40@db:5433/shop", "postgresql://u:p%40@db:5433/shop"),
        (
            "postgresql+psycopg2://u@db/shop?sslmode=require&host=/run/postgres",
            "postgresql://u@db/shop?sslmode=require&host=%2Frun%2Fpostgres",
        ),
        (
            "postgresql+psycopg2://u@db/shop?options=-c%20statement_timeout%3D5s",
            "postgresql://u@db/shop?options=-c%20statement_timeout%3D5s",
        ),
        (
            "postgresql+psycopg2://u@/shop?host=one:5433&host=two&target_session_attrs=read-write",
            "postgresql://u@/shop?target_session_attrs=read-write&host=one%2Ctwo&port=5433%2C5432",
        ),
    ],
)
def test_urls_of_sqlalchemy_become_urls_of_libpq(url: str, expected: str) -> None:
    assert libpq_url(url) == expected


def test_asking_the_servers_imports_nothing_that_takes_long() -> None:
    slow = ["sqlalchemy", "alembic", "celery", "kombu", "rich"]
    program = (
        "import sys, workflow_engine.health.readiness; print([m for m in sys.argv[1:] if m in sys.modules])"
    )

    loaded = subprocess.check_output([sys.executable, "-c", program, *slow], text=True)

    assert loaded == "[]\n"
