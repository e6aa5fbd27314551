"""The command line as far as it needs no server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from workflow_engine.cli import COMMANDS, main
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


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(main, arguments, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def answer(result: Result) -> Any:
    """What a program reads: standard output has to be one JSON document and nothing else."""
    return json.loads(result.stdout)


def written(name: str, content: str) -> str:
    Path(name).write_text(content)
    return name


# -- what there is -----------------------------------------------------------------------------------------


def test_help_lists_every_command_and_the_exit_statuses() -> None:
    told = run("--help").output

    for section, commands in COMMANDS.items():
        assert section in told
        for name in commands:
            assert f"  {name} " in told
    assert "3  a server cannot be reached" in told


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
def test_the_list_of_commands_says_what_the_command_says_of_itself(listed: Any, name: str) -> None:
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


def test_every_command_takes_json_and_import() -> None:
    for path, command in all_commands(main):
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--import"} <= options, path


def test_an_unknown_command_is_a_usage_error() -> None:
    result = run("lst")

    assert result.exit_code == 2
    assert "No such command 'lst'" in result.stderr


# -- validate ----------------------------------------------------------------------------------------------


def test_a_valid_definition_is_said_to_be_valid() -> None:
    result = run("validate", written("greeting.yaml", VALID))

    assert result.exit_code == 0
    assert result.stdout == "greeting.yaml: valid (greeting, 2 nodes, 1 edge)\n"


def test_every_problem_of_every_file_is_told_with_its_path() -> None:
    result = run("validate", written("good.yaml", VALID), written("bad.yaml", TWO_PROBLEMS))

    assert result.exit_code == 1
    assert "good.yaml: valid" in result.stdout
    assert "  nodes[greet].subType: there is no node type 'action/functoin'" in result.stdout
    assert "  edges[0].source: there is no node 'nobody'" in result.stdout


def test_problems_are_told_to_programs_too() -> None:
    result = run("validate", written("bad.yaml", TWO_PROBLEMS), "--json")

    assert result.exit_code == 1
    told = answer(result)
    assert told["valid"] is False
    assert told["files"][0]["file"] == "bad.yaml"
    paths = [problem["path"] for problem in told["files"][0]["problems"]]
    assert {"nodes[greet].subType", "edges[0].source"} <= set(paths)


def test_a_dash_reads_standard_input() -> None:
    result = run("validate", "-", stdin=VALID)

    assert result.exit_code == 0
    assert result.stdout.startswith("standard input: valid")


@pytest.mark.parametrize("content", ["", "a: [1, 2", '{"id": 1,', "\ufffd".encode("utf-16")])
def test_what_is_no_definition_at_all_is_a_problem_and_no_crash(content: str | bytes) -> None:
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


def test_a_module_that_is_missing_is_told_by_name() -> None:
    result = run("validate", written("greeting.yaml", VALID), "--import", "no_such_module")

    assert result.exit_code == 2
    assert "no module 'no_such_module'" in result.stderr


def test_an_error_inside_an_imported_module_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    written("broken_nodes.py", "import a_module_it_lacks\n")

    with pytest.raises(ModuleNotFoundError, match="a_module_it_lacks"):
        run("validate", written("greeting.yaml", VALID), "--import", "broken_nodes")


# -- schema ------------------------------------------------------------------------------------------------


def test_schema_prints_the_schema_of_definitions() -> None:
    schema = answer(run("schema"))

    assert schema["title"] == "Workflow"
    assert answer(run("schema", "--json")) == schema


# -- errors ------------------------------------------------------------------------------------------------


def test_a_server_that_is_away_is_one_line_and_status_3() -> None:
    result = run("list")

    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.startswith("Error: Postgres does not answer")
    assert len(result.stderr.splitlines()) == 1
    assert "WORKFLOW_ENGINE_DATABASE_URL" in result.stderr


def test_no_password_is_shown() -> None:
    for command in ("list", "doctor", "db status"):
        assert "geheim" not in run(*command.split()).output


@pytest.mark.parametrize(
    "command", ["list", "workflows", "db status", "db upgrade", "show 1b4e28ba-2fa1-11d2-883f-0016d3cca427"]
)
def test_an_error_as_json_tells_its_type_and_status(command: str) -> None:
    result = run(*command.split(), "--json")

    assert result.exit_code == 3
    assert answer(result)["error"]["type"] == "DatabaseUnavailable"
    assert answer(result)["error"]["exitStatus"] == 3


def test_a_setting_that_is_wrong_is_told_by_the_name_of_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_ENGINE_LOCK_EXPIRY", "soon")

    result = run("list")

    assert result.exit_code == 2
    assert "WORKFLOW_ENGINE_LOCK_EXPIRY" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "{"], "is no JSON"),
        (["--data", "@nowhere.json"], "nowhere.json cannot be read"),
        (["--variable", "currency=EUR"], "EUR is no JSON"),
        (["--variable", "currency"], "write name=JSON"),
        (["--priority", "10"], "not in the range"),
    ],
)
def test_start_refuses_options_that_make_no_sense(arguments: list[str], told: str) -> None:
    result = run("start", "greeting", *arguments)

    assert result.exit_code == 2
    assert told in result.stderr


def test_doctor_says_what_to_do_when_everything_is_down() -> None:
    result = run("doctor", "--import", "no_such_module", "--json")

    assert result.exit_code == 1
    told = answer(result)
    assert told["fit"] is False
    problems = [finding for finding in told["findings"] if finding["severity"] == "problem"]
    assert [problem["question"] for problem in problems] == [
        "Can it be reached?",
        "Can it be reached?",
        "Can the broker be reached?",
        "Can the modules with node types be imported?",
    ]
    assert all(problem["advice"] for problem in problems)
