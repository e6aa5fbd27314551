"""`durable(signature)`: a canvas of Celery that loses nothing, started by one word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_engine.canvas.clients import client_of
from workflow_engine.canvas.shapes import Shape, shape_of
from workflow_engine.canvas.signatures import read_canvas
from workflow_engine.client import WorkflowClient
from workflow_engine.definition.workflow import Workflow
from workflow_engine.execution.records import StartedExecution


class DurableCanvas:
    """A canvas as a workflow, ready to start."""

    def __init__(self, shape: Shape, client: WorkflowClient) -> None:
        self._shape = shape
        self._client = client

    @property
    def workflow(self) -> Workflow:
        """The definition: the shape of the canvas, without its arguments."""
        return self._shape.workflow

    @property
    def data(self) -> Mapping[str, Any]:
        """The arguments: the data of the start."""
        return self._shape.data

    def start(self, **options: Any) -> StartedExecution:
        """Start the canvas; `options` and errors are those of `WorkflowClient.start`.

        Its shape is deployed at its first start in this process.
        """
        return self._client.deploy_and_start(self.workflow, dict(self.data), **options)

    async def start_async(self, **options: Any) -> StartedExecution:
        """Start the canvas from asyncio; `options` and errors are those of `WorkflowClient.start_async`."""
        return await self._client.deploy_and_start_async(self.workflow, dict(self.data), **options)


def durable(
    signature: Mapping[str, Any],
    name: str | None = None,
    *,
    client: WorkflowClient | None = None,
    concurrency: int | None = None,
) -> DurableCanvas:
    """Return a canvas of Celery as a workflow: a signature, chain, group, chord, map or chunks.

    `name` is the id of the workflow, by default one made of the canvas's shape. `concurrency` is how many of
    its tasks run at the same time, by default as many as the widest group has, and 16 at most. Without a
    `client`, that of the Django project is used, or else one for the Celery app of the signature.

    Raises `DefinitionInvalid` with the path of each part that a workflow cannot have.
    """
    shape = shape_of(read_canvas(signature), name, concurrency)
    return DurableCanvas(shape, client or client_of(getattr(signature, "app", None)))
