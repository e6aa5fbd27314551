"""`manage.py workflow` is the command line; it finds and deploys what the installed apps define."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.test import override_settings

from support.broker import Workers
from support.django_shop.models import Order
from workflow_engine import WorkflowNotFound
from workflow_engine.cli import COMMANDS
from workflow_engine.django import client, start
from workflow_engine.django.management.commands.workflow import Command

Run = Callable[..., Any]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that calls a command and returns what it prints."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        call_command("workflow", *arguments)
        return capsys.readouterr().out

    return run


@pytest.fixture
def another_definition() -> Any:
    """Write a file beside the definitions of the project, and remove it afterwards."""
    path = Path(apps.get_app_config("django_shop").path) / "workflows" / "another.yaml"
    yield path.write_text
    path.unlink(missing_ok=True)


def test_every_command_of_the_command_line_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Command().run_from_argv(["manage.py", "workflow", "--settings=shop.settings", "--help"])

    assert ended.value.code == 0
    named = set(capsys.readouterr().out.split())
    assert {name for section in COMMANDS.values() for name in section} <= named


def test_deploy_without_files_deploys_what_the_apps_define(run: Run, workers: Workers) -> None:
    assert run("deploy").splitlines() == ["django-greeting version 1: new", "django-thanks version 1: new"]
    deployed = json.loads(run("deploy", "--json"))["deployed"]
    assert [(each["workflowId"], each["wasCurrent"]) for each in deployed] == [
        ("django-greeting", True),
        ("django-thanks", True),
    ]

    order = Order.objects.create(customer="Ada")
    execution = start("django-greeting", {"orderId": order.pk})
    assert client().get(execution.id).workflow_id == "django-greeting"
    assert execution.id in run("list")


def test_a_definition_with_a_problem_keeps_all_from_being_deployed(
    run: Run, another_definition: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    another_definition("id: another\nnodes: [{id: a, type: action, subType: nothing}]\nedges: []\n")

    with pytest.raises(CommandError) as failed:
        run("deploy")

    assert failed.value.returncode == 1
    printed = capsys.readouterr().out
    assert "another.yaml:" in printed
    assert "Nothing was deployed" in printed
    with pytest.raises(WorkflowNotFound):
        client().workflow("django-greeting")


def test_two_definitions_of_one_workflow_are_a_problem(
    run: Run, another_definition: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    another_definition("id: django-thanks\nnodes: [{id: a, type: trigger, subType: manual}]\nedges: []\n")

    with pytest.raises(CommandError):
        run("validate")
    assert "another.yaml defines 'django-thanks' as well" in capsys.readouterr().out


def test_files_are_deployed_as_by_the_command_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("id: one\nnodes: [{id: a, type: trigger, subType: manual}]\nedges: []\n")

    assert run("deploy", str(file)) == "one version 1: new\n"


def test_a_command_that_fails_has_the_status_of_the_command_line(run: Run) -> None:
    with pytest.raises(CommandError) as failed:
        run("show", "01a206b4-6b1d-7e08-a0c4-9d52f3b7c611")

    assert failed.value.returncode == 1


def test_a_setting_that_is_wrong_fails_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with override_settings(WORKFLOW_ENGINE={"COLOUR": "red"}), pytest.raises(CommandError):
        run("deploy")

    assert "WORKFLOW_ENGINE['COLOUR']" in capsys.readouterr().err


@pytest.mark.parametrize("asked_for", [True, False])
def test_migrate_deploys_if_the_project_asks_for_it(asked_for: bool) -> None:
    with override_settings(WORKFLOW_ENGINE={"DEPLOY_AFTER_MIGRATE": asked_for}):
        call_command("migrate", verbosity=0)

        assert [each.id for each in client().workflows()] == (
            ["django-greeting", "django-thanks"] if asked_for else []
        )


def test_check_names_a_setting_that_is_wrong() -> None:
    call_command("check")
    with (
        override_settings(WORKFLOW_ENGINE={"DATABASE": "nowhere"}),
        pytest.raises(CommandError, match=r"workflow_engine\.E001.*DATABASES has no 'nowhere'"),
    ):
        call_command("check")
