"""Explainer: asks the servers, and explains why one execution does not move, or what many have in common."""

from __future__ import annotations

from workflow_engine.control.explain import commands
from workflow_engine.control.explain.conclusion import conclusion_of, listed_servers
from workflow_engine.control.explain.explanation import Code, Explanation, Overview
from workflow_engine.control.explain.facts import POSTGRES, Facts
from workflow_engine.control.explain.groups import groups_of
from workflow_engine.control.explain.servers import Servers
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import BackingServiceUnavailable, DatabaseUnavailable, ExecutionNotFound
from workflow_engine.execution.ids import checked_id

EXAMINED = 1000
"""Executions that an overview examines."""

ATTEMPTS = 3
"""How often an execution is read that moves between the questions to several servers."""


class Explainer:
    """Explains executions from what Postgres, Redis and the broker show; needs no worker to reply."""

    def __init__(self, engine: Engine) -> None:
        self._servers = Servers(engine)

    def explain(self, execution_id: str) -> Explanation:
        """Explain why an execution does not move, or how it does.

        While Postgres is away this still returns an explanation. Raises `ExecutionNotFound`.
        """
        execution_id = checked_id(execution_id)
        try:
            for _ in range(ATTEMPTS):
                facts = self._read(execution_id)
                explanation = conclusion_of(facts).explanation()
                # It may have moved between the question to Postgres and the one to Redis.
                if explanation.code is not Code.STALLED or not self._has_moved(facts):
                    break
            return explanation
        except DatabaseUnavailable as error:
            return _without_postgres(execution_id, error)

    def explain_all(self, limit: int = EXAMINED) -> Overview:
        """Group the oldest executions that have not ended by why they do not move.

        Children are left out: the explanation of their parent leads to them. Raises `DatabaseUnavailable`.
        """
        executions = self._servers.diagnostics.oldest(limit + 1)
        found = self._servers.gather(executions[:limit])
        groups = groups_of([conclusion_of(facts) for facts in found])
        unasked = found[0].unasked if found else {}
        return Overview(groups, len(found), len(executions) <= limit, listed_servers(unasked))

    def _read(self, execution_id: str) -> Facts:
        if (execution := self._servers.diagnostics.execution(execution_id)) is None:
            raise ExecutionNotFound(execution_id)
        return self._servers.completed(self._servers.gather([execution])[0])

    def _has_moved(self, facts: Facts) -> bool:
        now = self._servers.diagnostics.execution(facts.execution.id)
        return now is None or (now.seq, now.moved_at) != (facts.execution.seq, facts.moved_at)


def _without_postgres(execution_id: str, error: BackingServiceUnavailable) -> Explanation:
    return Explanation(
        execution_id,
        Code.GIVEN_BACK,
        "Postgres is away, so nothing moves: workers return each message to its queue until it is back.",
        {"away": [POSTGRES], "errors": {POSTGRES: str(error)}},
        commands.cli("doctor"),
        "shows what is wrong with the servers; nothing is lost, and it goes on by itself",
        listed_servers({POSTGRES: str(error)}),
        subject=POSTGRES,
    )
