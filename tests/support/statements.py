"""The statements that the engine sends to Postgres, and the plans by which they are answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres.database import PooledDatabase, _Transaction


@dataclass(frozen=True)
class Sent:
    """A statement with its parameters."""

    statement: str
    parameters: Any

    def plan(self, engine: Engine) -> str:
        """Return the plan that Postgres makes for it now."""
        rows = engine.database.rows(f"EXPLAIN {self.statement}", **self.parameters)
        return "\n".join(row[0] for row in rows)

    def pages(self, engine: Engine) -> int:
        """Execute it again, and return how many pages of tables and indexes Postgres reads for it."""
        explained = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {self.statement}"
        # To compile it would take seconds, and change no page.
        ((found,),) = engine.database.rows_uncompiled(explained, **self.parameters)
        return int(found[0]["Plan"]["Shared Hit Blocks"] + found[0]["Plan"]["Shared Read Blocks"])


def recorded_statements(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """Return a list to which each statement is added, those of transactions too."""
    sent: list[Sent] = []
    for kind in (PooledDatabase, _Transaction):
        execute = kind._execute

        def recording(self: Any, statement: str, parameters: Any, execute: Any = execute) -> Any:
            if not statement.startswith("EXPLAIN"):
                sent.append(Sent(statement, parameters))
            return execute(self, statement, parameters)

        monkeypatch.setattr(kind, "_execute", recording)
    return sent
