"""A Postgres that is stopped, crashes, or hangs: it accepts connections and never replies."""

from __future__ import annotations

import time

from faults.fault import Findings
from faults.stage import Load, Stage
from faults.verdict import print_step


def take_away(stage: Stage) -> Findings:
    """Stop Postgres twice, kill it with -9 once and freeze it once, under load."""
    scale = stage.scale
    stage.add_workers(scale.workers)
    back: list[float] = []
    seconds = scale.outage * 5
    with Load(stage, round(scale.order_rate * seconds), seconds) as load:
        for outage in (_stopped, _killed, _frozen, _stopped):
            time.sleep(scale.outage / 2)
            print_step(f"Postgres is {outage.__name__.strip('_')}")
            outage(stage)
            back.append(time.time())
    stage.wait_for_the_end()

    record = stage.record()
    problems = []
    if record.repeated_effects or record.interrupted:
        problems.append(
            f"{record.repeated_effects} side effects were repeated and {record.interrupted} runs ended "
            "without a result because Postgres was away"
        )
    return Findings(
        record,
        frozenset(load.started),
        len(back),
        record.delays_of((execution_id, at) for at in back for execution_id in record.under_way(at)),
        problems,
        [f"{load.refusals} starts refused and retried"],
    )


def _stopped(stage: Stage) -> None:
    stage.servers.stop_postgres()
    time.sleep(stage.scale.outage)
    stage.servers.restart_postgres()


def _killed(stage: Stage) -> None:
    stage.servers.kill_postgres()
    stage.servers.restart_postgres()


def _frozen(stage: Stage) -> None:
    stage.servers.freeze_postgres()
    time.sleep(stage.scale.outage)
    stage.servers.thaw_postgres()
