"""With psycopg2 under Django in place of psycopg 3, what is promised about its connection holds as well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

from support.repository import ROOT

OF_THE_DRIVER = ("atomic_starts", "given_values", "models", "tests_of_a_project", "connections_of_nodes")
"""The files whose promises the driver could break."""

VARIABLE = "WORKFLOW_ENGINE_TEST_DJANGO_DRIVER"


@pytest.mark.timeout(300)
@pytest.mark.skipif(VARIABLE in os.environ, reason="this is the run with the other driver")
def test_transactions_values_queries_tests_and_connections_are_the_same_with_psycopg2(
    tmp_path: Path, postgres_server: str, redis_server: str
) -> None:
    assert connection.Database.__name__ == "psycopg"
    servers = {"DATABASE": postgres_server, "REDIS": redis_server.rpartition("/")[0]}
    urls = {f"WORKFLOW_ENGINE_TEST_{name}_URL": url for name, url in servers.items()}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={tmp_path / 'inner'}",
    ]

    here = Path(__file__)
    files = [here, *(here.with_name(f"test_{name}.py") for name in OF_THE_DRIVER)]

    run = subprocess.run(
        [*command, *files],
        env={**os.environ, **urls, VARIABLE: "psycopg2"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout[-5000:] + run.stderr
    assert " passed" in run.stdout


@pytest.mark.skipif(VARIABLE not in os.environ, reason="of the run with the other driver")
def test_it_is_the_driver_that_was_asked_for() -> None:
    assert connection.Database.__name__ == os.environ[VARIABLE]
