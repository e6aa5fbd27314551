"""The statements that the engine sends to Postgres, and the plans by which they are answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres.database import RESTORE, SET, UNCOMPILED, PooledDatabase, _Transaction


@dataclass(frozen=True)
class Sent:
    """A statement with its parameters, and the settings that the planner had for it."""

    statement: str
    parameters: Any
    settings: Mapping[str, str] = field(default_factory=dict, compare=False)

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
            settings = {**UNCOMPILED, **self.settings}
            transaction.rows(SET, names=list(settings), values=list(settings.values()))
            return transaction.rows(f"EXPLAIN {options} {self.statement}", **self.parameters)


def recorded_statements(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """Return a list to which each statement is added, those of transactions too."""
    sent: list[Sent] = []
    settings: dict[str, str] = {}
    for kind in (PooledDatabase, _Transaction):
        execute = kind._execute

        def recording(self: Any, statement: str, parameters: Any, execute: Any = execute) -> Any:
            if statement in (SET, RESTORE):
                settings.clear()
                if statement == SET:
                    settings.update(zip(parameters["names"], parameters["values"], strict=True))
            elif not statement.startswith("EXPLAIN"):
                sent.append(Sent(statement, parameters, dict(settings)))
            return execute(self, statement, parameters)

        monkeypatch.setattr(kind, "_execute", recording)
    return sent
