"""Producers that are killed at a random point of `start`, with and without a transaction of their own.

This module as a program forks them; the parent kills each a random time after it has connected.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from faults.fault import Findings
from faults.record import query
from faults.stage import PYTHON_PATH, Stage
from faults.workload import BRIEF
from support.json_lines import append, lines_of
from support.killed_producers import kill_producers
from workflow_engine import Settings, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.settings import ENVIRONMENT_PREFIX

CREATE = "CREATE TABLE customer_orders (number integer PRIMARY KEY)"
ORDERS = "SELECT number FROM customer_orders"
RETURNED = "returned"


def kill_in_transaction(stage: Stage) -> Findings:
    """Kill producers that start with `session=`, beside an order row."""
    findings = _killed(stage, with_order=True)
    orders = {row["number"] for row in query(stage.settings.database_url, ORDERS)}
    started = {row.number for row in findings.record.executions.values()}
    if orders != started:
        problem = f"order rows and executions differ: {sorted(orders ^ started)}"
        return replace(findings, problems=[*findings.problems, problem])
    return replace(findings, also=[*findings.also, f"{len(orders):,} orders, each with its execution"])


def kill(stage: Stage) -> Findings:
    """Kill producers that start without a transaction of their own."""
    return _killed(stage, with_order=False)


def _killed(stage: Stage, *, with_order: bool) -> Findings:
    query(stage.settings.database_url, CREATE)
    stage.add_workers(1, pace="0.005-0.015")
    count = stage.scale.repetitions
    environment = {
        **os.environ,
        f"{ENVIRONMENT_PREFIX}DATABASE_URL": stage.settings.database_url,
        f"{ENVIRONMENT_PREFIX}REDIS_URL": stage.settings.redis_url,
        f"{ENVIRONMENT_PREFIX}BROKER_URL": stage.settings.broker_url,
        f"{ENVIRONMENT_PREFIX}IMPORTS": ",".join(stage.settings.imports),
        "PYTHONPATH": PYTHON_PATH,
    }
    command = [sys.executable, "-m", "faults.producers", str(stage.folder), str(count), str(int(with_order))]
    answer = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60 + count, check=False
    )
    if answer.returncode:
        raise AssertionError(f"the producers' parent failed:\n{answer.stderr}")
    answered = json.loads(answer.stdout)
    stage.wait_for_the_end()

    record = stage.record()
    returned = frozenset(line["execution_id"] for line in lines_of(stage.folder / RETURNED))
    cut_short = [(row.id, row.created_at) for row in record.executions.values() if row.id not in returned]
    before = answered["attempts"] - len(record.executions)
    problems = [] if cut_short and before else ["no start was cut short both before and after its commit"]
    return Findings(
        record,
        returned,
        answered["killed"],
        record.delays_of(cut_short),
        problems,
        [f"{before} killed before the commit, {len(cut_short)} between it and the return"],
    )


# -- the parent of the producers -----------------------------------------------------------------------------


class Producers:
    """Forks producers, and kills them."""

    def __init__(self, folder: Path, *, with_order: bool) -> None:
        self._folder, self._with_order = folder, with_order
        self._settings = Settings()
        self._engine = Engine.assemble(self._settings)
        self._client = WorkflowClient(engine=self._engine)
        self._database = create_engine(self._settings.database_url, poolclass=NullPool)

    def run(self, count: int) -> dict[str, int]:
        """Kill `count` producers while they start an execution.

        Return the numbers of kills and of attempts. Most kills come early, which is when a start commits.
        """
        return kill_producers(count, self._produce, mostly_early=True)

    def _produce(self, number: int, say_ready: Callable[[], object]) -> None:
        self._client.workflow(BRIEF)
        # It connects now: over RabbitMQ that takes longer than the commit, before which hardly any would die.
        self._engine.dispatcher.oldest(self._settings.queue, 0)
        if self._with_order:
            with Session(self._database) as session:
                session.execute(text("SELECT 1"))
                say_ready()
                session.execute(text("INSERT INTO customer_orders VALUES (:number)"), {"number": number})
                started = self._client.start(BRIEF, {"number": number}, session=session)
                session.commit()
        else:
            say_ready()
            started = self._client.start(BRIEF, {"number": number})
        append(self._folder / RETURNED, {"number": number, "execution_id": started.id})


if __name__ == "__main__":
    producers = Producers(Path(sys.argv[1]), with_order=bool(int(sys.argv[3])))
    sys.stdout.write(json.dumps(producers.run(int(sys.argv[2]))))
