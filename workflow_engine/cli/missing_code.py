"""A warning, at the start of an execution, that no running worker has the code of one of its nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from workflow_engine.broker.inspection import ask_workers
from workflow_engine.definition.body import with_inner_nodes
from workflow_engine.definition.workflow import Workflow
from workflow_engine.health.doctor.postgres import CodeInUse
from workflow_engine.health.doctor.worker_code import missing_code
from workflow_engine.health.probe import Probe
from workflow_engine.nodes.loading import BUILT_IN
from workflow_engine.presentation.phrases import sanitise
from workflow_engine.settings import Settings

REPLY_TIMEOUT = 0.7
"""Seconds that workers have to reply."""

TIMEOUT = 3.0
"""Seconds after which the check is given up: a broker that is away must not delay the start."""


class MissingCode:
    """The code of a workflow that no worker has, looked up while the execution is started.

    No worker is asked about a workflow whose node types all come with the engine and need no extra.
    """

    def __init__(self, workflow: Workflow, settings: Settings, app: Any = None) -> None:
        built_in = {node_type.kind for node_type in BUILT_IN if node_type.extra is None}
        code = (
            CodeInUse(
                workflow.id,
                node.type,
                node.sub_type,
                node.config.get("function"),
                node.queue,
                named_task=node.config.get("task"),
            )
            for node in with_inner_nodes(workflow.nodes)
        )
        self._code = [each for each in code if each.name not in built_in]
        self._settings = settings
        self._deadline = time.monotonic() + TIMEOUT
        self._probe = Probe(partial(ask_workers, settings, REPLY_TIMEOUT, app)) if self._code else None

    def warn(self) -> None:
        """Write a line to standard error for each node type, function or task that all workers lack."""
        for name in self._unknown_everywhere():
            timeout = self._settings.unknown_type_timeout
            click.echo(
                f"No running worker has {sanitise(repr(name))}: its nodes wait for one that does, and "
                f"fail after {timeout:g} s. `workflow-engine doctor` says more.",
                err=True,
            )

    def _unknown_everywhere(self) -> Iterator[str]:
        if self._probe is None:
            return
        reports = self._probe.result(self._deadline)
        if isinstance(reports, Exception):
            return
        # A worker that has not reported its code may be the one that has it.
        if any(report.facts is None for report in reports):
            return
        for name, (_, having) in missing_code(reports, self._code, self._settings.queue).items():
            if not having:
                yield name
