"""The statements that the engine sends to Postgres, and the plans by which they are answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres.database import RESTORE, TURN_OFF, PooledDatabase, _Transaction


@dataclass(frozen=True)
class Sent:
    """A statement with its parameters, and the settings of the planner that were off for it."""

    statement: str
    parameters: Any
    off: tuple[str, ...] = ()

    def plan(self, engine: Engine) -> str:
        """Return the plan that Postgres makes for it now."""
        return "\n".join(row[0] for row in self._explained(engine, ""))

    def pages(self, engine: Engine) -> int:
        """Execute it again, and return how many pages of tables and indexes Postgres reads for it."""
        ((found,),) = self._explained(engine, "(ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON)")
        return int(found[0]["Plan"]["Shared Hit Blocks"] + found[0]["Plan"]["Shared Read Blocks"])

    def _explained(self, engine: Engine, options: str) -> list[Any]:
        with engine.database.transaction() as transaction:
            # To compile it would take seconds, and change no page.
            transaction.rows(TURN_OFF, names=["jit", *self.off])
            return transaction.rows(f"EXPLAIN {options} {self.statement}", **self.parameters)


def recorded_statements(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """Return a list to which each statement is added, those of transactions too."""
    sent: list[Sent] = []
    off: list[str] = []
    for kind in (PooledDatabase, _Transaction):
        execute = kind._execute

        def recording(self: Any, statement: str, parameters: Any, execute: Any = execute) -> Any:
            if statement in (TURN_OFF, RESTORE):
                off[:] = parameters["names"] if statement == TURN_OFF else []
            elif not statement.startswith("EXPLAIN"):
                sent.append(Sent(statement, parameters, tuple(off)))
            return execute(self, statement, parameters)

        monkeypatch.setattr(kind, "_execute", recording)
    return sent
