"""The definitions in the installed apps: `workflows/*.yaml` and the module `workflows` of each.

A module is imported, and every `Workflow` and `WorkflowBuilder` that it has is a definition.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from django.apps import AppConfig, apps
from django.core.management.base import CommandError
from django.db import transaction
from django.utils.module_loading import module_has_submodule

from workflow_engine.cli.commands.definitions import ReadFile, read_definition
from workflow_engine.definition.builder import WorkflowBuilder
from workflow_engine.definition.workflow import Workflow
from workflow_engine.django import client
from workflow_engine.django.configuration import database_alias
from workflow_engine.errors import DefinitionInvalid, Problem
from workflow_engine.nodes.loading import load_node_types
from workflow_engine.nodes.module_imports import import_named
from workflow_engine.nodes.registry import NodeRegistry
from workflow_engine.postgres.workflows.deployments import Deployment
from workflow_engine.settings import get_settings
from workflow_engine.validation import validate

FOLDER = "workflows"
SUFFIXES = (".yaml", ".yml", ".json")


def find_definitions(registry: NodeRegistry) -> list[ReadFile]:
    """Return all definitions of the project, each with its problems. Raises `ModuleFailed`.

    Two of one workflow are a problem of the second.
    """
    found: list[ReadFile] = []
    homes: dict[str, str] = {}
    for app in apps.get_app_configs():
        for each in (*_in_files(app, registry), *_in_module(app, registry)):
            found.append(each if each.workflow is None else _unless_repeated(each, each.workflow, homes))
    return found


def deploy_definitions() -> list[Deployment]:
    """Deploy all definitions of the project in one transaction. Raises `CommandError` with their problems."""
    project = client()
    found = find_definitions(load_node_types(get_settings().imports))
    problems = [f"{each.name}: {problem}" for each in found for problem in each.problems]
    if problems:
        raise CommandError("no workflow was deployed, as these have problems:\n  " + "\n  ".join(problems))
    with transaction.atomic(using=database_alias()):
        return [project.deploy(each.workflow) for each in found if each.workflow is not None]


def _unless_repeated(read: ReadFile, workflow: Workflow, homes: dict[str, str]) -> ReadFile:
    if (other := homes.setdefault(workflow.id, read.name)) != read.name:
        return ReadFile(read.name, None, (Problem("id", f"{other} defines {workflow.id!r} as well"),))
    return read


def _in_files(app: AppConfig, registry: NodeRegistry) -> Iterator[ReadFile]:
    for path in sorted(Path(app.path, FOLDER).glob("*")):
        if path.suffix in SUFFIXES:
            yield read_definition(str(path), path.read_bytes(), registry)


def _in_module(app: AppConfig, registry: NodeRegistry) -> Iterator[ReadFile]:
    name = f"{app.name}.{FOLDER}"
    if app.module is None or not module_has_submodule(app.module, FOLDER):
        return
    spec = find_spec(name)
    if spec is None or spec.origin is None:  # a folder of files, and no module
        return
    for attribute, value in vars(import_named(name)).items():
        if isinstance(value, Workflow | WorkflowBuilder):
            yield _read(f"{name}.{attribute}", value, registry)


def _read(name: str, value: Workflow | WorkflowBuilder, registry: NodeRegistry) -> ReadFile:
    try:
        workflow = value.build() if isinstance(value, WorkflowBuilder) else value
        return ReadFile(name, validate(workflow.to_dict(), registry), ())
    except DefinitionInvalid as refusal:
        return ReadFile(name, None, refusal.problems)
