"""A caller's own table beside the engine's, and a broker that sees whether a message comes too soon."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg2.extensions
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from support.broker import Broker
from workflow_engine import Workflow, WorkflowBuilder
from workflow_engine.execution.messages import Dispatch

Kept = Callable[[], tuple[list[str], list[str]]]
"""Returns the customers and the executions that Postgres has kept, in the order of their creation."""


class Base(DeclarativeBase):
    pass


class Order(Base):
    """A row of the caller."""

    __tablename__ = "callers_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(unique=True)


class Witness(Broker):
    """A broker that checks, at each message, whether other connections can see its execution."""

    def __init__(self, elsewhere: psycopg2.extensions.connection) -> None:
        super().__init__()
        self._elsewhere = elsewhere
        self.premature: list[str] = []

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        for dispatch in dispatches:
            cursor = self._elsewhere.cursor()
            cursor.execute("SELECT FROM executions WHERE id = %s", [dispatch.message.execution_id])
            if cursor.rowcount == 0:
                self.premature.append(dispatch.message.execution_id)
        super().publish(dispatches)

    @property
    def published(self) -> list[str]:
        """The executions whose first message is in the queue."""
        return [message.execution_id for message in self.messages if message.seq == 1]


def order_workflow(id: str = "order") -> Workflow:
    """Return a workflow whose result is the data of its start."""
    flow = WorkflowBuilder(id)
    flow.trigger("placed", schema={"type": "object"}) >> flow.function("noted", "{{ placed }}")
    return flow.build()
