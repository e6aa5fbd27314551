"""Models that read the engine's tables: executions, and what each of their nodes did.

They are for queries and for the admin, and are never written: what changes an execution are the operations of
`client().control`.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from django.contrib.postgres.fields import ArrayField
from django.db import models

from workflow_engine.django.configuration import database_alias, schema
from workflow_engine.execution.states import ExecutionStatus, NodeStatus

OPERATE = ("operate", "Can pause, resume, cancel and retry executions")
"""The permission `workflow_engine.operate`."""


def table(name: str) -> str:
    """Return the name of a table with its schema, as Django takes it over into a statement."""
    return f'"{schema()}"."{name}"'


class ReadOnly(Exception):
    """Raised where a model of the engine's would be written."""


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise ReadOnly("executions are not written by their models; use client().control, or `start`")


class ReadOnlyQuerySet(models.QuerySet):
    """A query of the engine's tables, in the database that has them."""

    update = delete = create = bulk_create = bulk_update = get_or_create = update_or_create = _refuse


class ReadOnlyManager(models.Manager.from_queryset(ReadOnlyQuerySet)):  # type: ignore[misc]
    """Queries the database with the engine's tables, whatever a router says."""

    def get_queryset(self) -> models.QuerySet:
        """Return all rows."""
        return super().get_queryset().using(database_alias())


class ReadOnlyModel(models.Model):
    """The base of both models."""

    objects = ReadOnlyManager()

    class Meta:
        abstract = True

    save = delete = _refuse


def _choices(states: type[ExecutionStatus] | type[NodeStatus]) -> list[tuple[str, str]]:
    return [(each.value, each.value.capitalize()) for each in states]


class Execution(ReadOnlyModel):
    """One run of a workflow."""

    id = models.UUIDField(primary_key=True)
    workflow_id = models.TextField("workflow")
    workflow_version = models.IntegerField("version")
    trigger_node_id = models.TextField("trigger")
    status = models.TextField(choices=_choices(ExecutionStatus))
    trigger_data = models.JSONField("data")
    queue = models.TextField()
    nodes_executed = models.IntegerField()
    error = models.TextField(null=True)
    error_details = models.JSONField(null=True)
    idempotency_key = models.TextField(null=True)
    parent = models.ForeignKey(
        "self",
        models.DO_NOTHING,
        db_column="parent_execution_id",
        db_constraint=False,
        null=True,
        related_name="children",
    )
    user_metadata = models.JSONField("metadata", null=True)
    tags = ArrayField(models.TextField(), null=True)
    started_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    duration_ms = models.BigIntegerField("duration in ms", null=True)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = table("executions")
        ordering: ClassVar = ["-id"]  # ids are in the order of time
        default_permissions: ClassVar = ["view"]
        permissions: ClassVar = [OPERATE]

    def __str__(self) -> str:
        return f"{self.workflow_id} {self.id}"


class NodeExecution(ReadOnlyModel):
    """What a node did: a row of the journal."""

    pk = models.CompositePrimaryKey("execution_id", "seq")
    execution = models.ForeignKey(Execution, models.DO_NOTHING, db_constraint=False, related_name="nodes")
    seq = models.IntegerField()
    node_id = models.TextField("node")
    label = models.TextField(null=True)
    type = models.TextField()
    sub_type = models.TextField()
    visit = models.IntegerField()
    attempt = models.IntegerField()
    status = models.TextField(choices=_choices(NodeStatus))
    superseded_by = models.IntegerField(null=True)
    input_data = models.JSONField("input", null=True)
    output_data = models.JSONField("output", null=True)
    error = models.TextField(null=True)
    error_details = models.JSONField(null=True)
    worker = models.TextField(null=True)
    started_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)
    duration_ms = models.BigIntegerField("duration in ms", null=True)

    class Meta:
        managed = False
        db_table = table("node_executions")
        ordering: ClassVar = ["execution_id", "seq"]
        default_permissions: ClassVar = ["view"]

    def __str__(self) -> str:
        return f"{self.node_id} {self.status}"
