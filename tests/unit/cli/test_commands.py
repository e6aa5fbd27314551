"""Commands that need no server work without one, and refuse mistakes with advice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from support.command_line import run
from workflow_engine.cli import COMMANDS, main
from workflow_engine.cli.invocation import Invocation
from workflow_engine.nodes.registry import registry
from workflow_engine.settings import get_settings

VALID = """
id: greeting
nodes:
  - {id: asked, type: trigger, subType: manual}
  - {id: greet, type: action, subType: function, config: {expression: "{{ 'Hello ' ~ asked.name }}"}}
edges:
  - {source: asked, target: greet}
"""
TWO_PROBLEMS = VALID.replace("subType: function", "subType: functoin").replace(
    "source: asked", "source: nobody"
)
NOBODY_LISTENS = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def _settings_of_each_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv(
        "WORKFLOW_ENGINE_DATABASE_URL", f"postgresql://someone:geheim@{NOBODY_LISTENS}/nothing"
    )
    monkeypatch.setenv("WORKFLOW_ENGINE_REDIS_URL", f"redis://:geheim@{NOBODY_LISTENS}/0")
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def answer(result: Result) -> Any:
    """Read standard output as a program does: it has to be one JSON document and nothing else."""
    return json.loads(result.stdout)


def written(name: str, content: str) -> str:
    Path(name).write_text(content)
    return name


# -- what there is -----------------------------------------------------------------------------------------


def test_help_lists_every_command_and_the_exit_statuses() -> None:
    output = run("--help").output

    for section, commands in COMMANDS.items():
        assert section in output
        for name in commands:
            assert f"  {name} " in output
    assert "3  a server cannot be reached" in output


def test_help_is_printed_without_importing_what_only_commands_need() -> None:
    script = (
        "import sys, workflow_engine.cli as cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "heavy = {'sqlalchemy', 'celery', 'redis', 'rich', 'alembic'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("listed", "name"), [(each, name) for section in COMMANDS.values() for name, each in section.items()]
)
def test_the_list_of_commands_describes_each_as_its_own_help_does(listed: Any, name: str) -> None:
    command = listed.load()

    assert command.name == name
    assert command.get_short_help_str(limit=200) == listed.summary


def all_commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_every_command_takes_json_import_and_app() -> None:
    for path, command in all_commands(main):
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--import", "-A", "--app"} <= options, path


def test_an_unknown_command_is_a_usage_error() -> None:
    result = run("lst")

    assert result.exit_code == 2
    assert "No such command 'lst'" in result.stderr


# -- validate ----------------------------------------------------------------------------------------------


def test_a_valid_definition_is_reported_as_valid() -> None:
    result = run("validate", written("greeting.yaml", VALID))

    assert result.exit_code == 0
    assert result.stdout == "greeting.yaml: valid (greeting, 2 nodes, 1 edge)\n"


def test_a_workflow_whose_branches_could_run_at_the_same_time_says_so() -> None:
    definition = VALID.replace("edges:", "  - {id: wave, type: logic, subType: merge}\nedges:")
    definition += "  - {source: asked, target: wave}\n"
    note = "  note: the 2 branches after asked run one after the other; with settings.concurrency: 2 or more"

    assert note in run("validate", written("two.yaml", definition)).stdout
    assert (
        "note" not in run("validate", written("two.yaml", "settings: {concurrency: 1}\n" + definition)).stdout
    )


def test_every_problem_of_every_file_is_reported_with_its_path() -> None:
    result = run("validate", written("good.yaml", VALID), written("bad.yaml", TWO_PROBLEMS))

    assert result.exit_code == 1
    assert "good.yaml: valid" in result.stdout
    assert "  nodes[greet].subType: there is no node type 'action/functoin'" in result.stdout
    assert "  edges[0].source: there is no node 'nobody'" in result.stdout


def test_problems_are_reported_to_programs_too() -> None:
    result = run("validate", written("bad.yaml", TWO_PROBLEMS), "--json")

    assert result.exit_code == 1
    report = answer(result)
    assert report["valid"] is False
    assert report["files"][0]["file"] == "bad.yaml"
    paths = [problem["path"] for problem in report["files"][0]["problems"]]
    assert {"nodes[greet].subType", "edges[0].source"} <= set(paths)


def test_a_dash_reads_standard_input() -> None:
    result = run("validate", "-", stdin=VALID)

    assert result.exit_code == 0
    assert result.stdout.startswith("standard input: valid")


@pytest.mark.parametrize("content", ["", "a: [1, 2", '{"id": 1,', "\ufffd".encode("utf-16")])
def test_a_text_that_is_no_definition_at_all_is_a_problem_and_no_crash(content: str | bytes) -> None:
    result = run("validate", "-", "--json", stdin=content)

    assert result.exit_code == 1
    assert len(answer(result)["files"][0]["problems"]) == 1


def test_a_file_that_does_not_exist_is_a_usage_error_also_as_json() -> None:
    result = run("validate", "nowhere.yaml", "--json")

    assert result.exit_code == 2
    assert answer(result)["error"]["exitStatus"] == 2
    assert "nowhere.yaml" in answer(result)["error"]["message"]


def test_control_sequences_in_a_definition_do_not_reach_the_terminal() -> None:
    result = run("validate", "-", stdin=f'{VALID}\n"\\e[31mred": 1\n')

    assert result.exit_code == 1
    assert "\x1b" not in result.stdout


def test_imported_modules_are_found_from_the_current_directory_and_may_print(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    written(
        "nodes_of_the_shop.py",
        "from workflow_engine import node\nprint('noise')\n@node('cli.shop')\ndef f(a): ...\n",
    )
    flow = VALID.replace("subType: function", "subType: python").replace(
        """{expression: "{{ 'Hello ' ~ asked.name }}"}""", "{function: cli.shop, arguments: {b: 1}}"
    )

    result = run("validate", "-", "--import", "nodes_of_the_shop", "--json", stdin=flow)

    problems = answer(result)["files"][0]["problems"]
    assert [problem["path"] for problem in problems] == ["nodes[greet].config.arguments"]


def test_a_module_that_is_missing_is_named() -> None:
    result = run("validate", written("greeting.yaml", VALID), "--import", "no_such_module")

    assert result.exit_code == 2
    assert "no module 'no_such_module'" in result.stderr


def test_an_error_inside_an_imported_module_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    written("broken_nodes.py", "import a_module_it_lacks\n")

    with pytest.raises(ModuleNotFoundError, match="a_module_it_lacks"):
        run("validate", written("greeting.yaml", VALID), "--import", "broken_nodes")


# -- the team's app ----------------------------------------------------------------------------------------

APP = """
import os
from celery import Celery
os.environ["WORKFLOW_ENGINE_QUEUE"] = "of-the-team"
app = Celery("team", include=["tasks_of_the_team"])
"""
TASKS = """
from workflow_engine import node
print("noise")
@node("team.pack")
def pack(parcel): ...
"""
PACKS = VALID.replace("subType: function", "subType: python").replace(
    """{expression: "{{ 'Hello ' ~ asked.name }}"}""", "{function: team.pack, arguments: {parsel: 1}}"
)


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write a package with an app whose tasks stand beside a node."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "_functions", dict(registry._functions))
    monkeypatch.setenv("WORKFLOW_ENGINE_QUEUE", "")  # so that it is as before after the test
    monkeypatch.delenv("WORKFLOW_ENGINE_QUEUE")
    Path("team").mkdir()
    written("team/__init__.py", "")
    written("team/celery.py", APP)
    written("tasks_of_the_team.py", TASKS)
    yield
    for module in ("team", "team.celery", "tasks_of_the_team"):
        sys.modules.pop(module, None)


@pytest.mark.usefixtures("team")
@pytest.mark.parametrize("name", ["team", "team.celery", "team.celery:app"])
def test_an_app_is_named_as_for_celery_and_its_node_types_are_registered(name: str) -> None:
    result = run("-A", name, "validate", "-", "--json", stdin=PACKS)

    problems = answer(result)["files"][0]["problems"]
    assert [problem["path"] for problem in problems] == ["nodes[greet].config.arguments"]
    assert "missing a required argument: 'parcel'" in problems[0]["message"]


@pytest.mark.usefixtures("team")
def test_an_app_may_be_named_behind_the_command_and_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named_here = run("validate", "-", "--app", "team", stdin=PACKS)
    monkeypatch.setenv("WORKFLOW_ENGINE_APP", "team")
    named_there = run("validate", "-", stdin=PACKS)

    assert "missing a required argument: 'parcel'" in named_here.stdout
    assert named_there.stdout == named_here.stdout


def test_without_the_app_its_node_types_are_unknown(team: None) -> None:
    assert "'team.pack'" in run("validate", "-", stdin=PACKS).stdout


@pytest.mark.usefixtures("team")
def test_settings_are_read_after_the_app_has_set_them() -> None:
    assert Invocation(as_json=False, imports=(), app_name="team").settings.queue == "of-the-team"


@pytest.mark.usefixtures("team")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_team", "ModuleNotFoundError: No module named 'no_such_team'; check -A and"),
        ("tasks_of_the_team", "AttributeError"),
        ("team.celery:os", "it is a module, not a Celery app"),
        ("broken", "ZeroDivisionError: division by zero (BROKEN, line 2)"),
    ],
)
def test_an_app_that_cannot_be_loaded_is_one_line_with_the_reason(name: str, reason: str) -> None:
    written("broken.py", "\n1 / 0\n")

    result = run("-A", name, "validate", "-", stdin=VALID)

    assert result.exit_code == 2
    [line] = [line for line in result.stderr.splitlines() if "cannot be loaded" in line]
    assert f"the Celery app {name!r} cannot be loaded: " in line
    assert reason.replace("BROKEN", str(Path("broken.py").resolve())) in line
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("team")
def test_a_task_module_that_cannot_be_imported_is_one_line_with_the_place() -> None:
    path = Path(written("tasks_of_the_team.py", "import a_module_it_lacks\n")).resolve()

    result = run("-A", "team", "validate", "-", "--json", stdin=VALID)

    assert result.exit_code == 2
    message = answer(result)["error"]["message"]
    assert f"No module named 'a_module_it_lacks' ({path}, line 1)" in message


# -- schema ------------------------------------------------------------------------------------------------


def test_schema_prints_the_schema_of_definitions() -> None:
    schema = answer(run("schema"))

    assert schema["title"] == "Workflow"
    assert answer(run("schema", "--json")) == schema


# -- errors ------------------------------------------------------------------------------------------------


def test_a_server_that_is_unavailable_is_one_line_and_status_3() -> None:
    result = run("list")

    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.startswith("Error: Postgres is unavailable")
    assert len(result.stderr.splitlines()) == 1
    assert "WORKFLOW_ENGINE_DATABASE_URL" in result.stderr


def test_no_password_is_shown() -> None:
    for command in ("list", "doctor", "db status"):
        assert "geheim" not in run(*command.split()).output


@pytest.mark.parametrize(
    "command", ["list", "workflows", "db status", "db upgrade", "show 1b4e28ba-2fa1-11d2-883f-0016d3cca427"]
)
def test_an_error_as_json_has_its_type_and_status(command: str) -> None:
    result = run(*command.split(), "--json")

    assert result.exit_code == 3
    assert answer(result)["error"]["type"] == "DatabaseUnavailable"
    assert answer(result)["error"]["exitStatus"] == 3


def test_a_wrong_setting_is_reported_by_the_name_of_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_ENGINE_LOCK_EXPIRY", "soon")

    result = run("list")

    assert result.exit_code == 2
    assert "WORKFLOW_ENGINE_LOCK_EXPIRY" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "{"], "is not JSON"),
        (["--data", '{"a": 1, "b": [{"c": 1, "c": 2}]}'], "the key 'c' occurs twice"),
        (["--variable", 'limits={"a": 1, "a": 1}'], "the key 'a' occurs twice"),
        (["--variable", "a=1", "--variable", "a=2"], "the variable 'a' is given twice"),
        (["--data", "@nowhere.json"], "cannot read nowhere.json"),
        (["--variable", "currency=EUR"], "EUR is not JSON"),
        (["--variable", "currency"], "write name=JSON"),
        (["--priority", "10"], "not in the range"),
    ],
)
def test_start_refuses_options_that_make_no_sense(arguments: list[str], message: str) -> None:
    result = run("start", "greeting", *arguments)

    assert result.exit_code == 2
    assert message in result.stderr


def test_doctor_says_what_to_do_when_everything_is_down() -> None:
    result = run("doctor", "--import", "no_such_module", "--json")

    assert result.exit_code == 1
    report = answer(result)
    assert report["fit"] is False
    problems = [finding for finding in report["findings"] if finding["severity"] == "problem"]
    assert [problem["question"] for problem in problems] == [
        "Can it be reached?",
        "Can it be reached?",
        "Can the broker be reached?",
        "Can the modules with node types be imported?",
    ]
    assert all(problem["advice"] for problem in problems)
