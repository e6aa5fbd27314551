"""Messages that arrive twice, late, in any order or never; and enough of them to make a queue long."""

from __future__ import annotations

from faults.disturbed import Disturbance, disturb, disturbed, messages_in
from faults.fault import Findings
from faults.stage import Load, Stage
from faults.workload import BLOCKING, BRIEF
from support.polling import poll

APP = "faults.disturbed"
QUICK = "0.005-0.015"
RECOVERY_SHARE = 0.02
"""The share of all messages that recovery may send while the others wait in a queue."""
AHEAD = 0
"""The priority of what recovery sends."""


def double(stage: Stage) -> Findings:
    """Deliver every message twice, the second copy at once or up to a second late."""
    return _astray(stage, Disturbance.DOUBLED)


def drop(stage: Stage) -> Findings:
    """Lose every tenth message."""
    return _astray(stage, Disturbance.DROPPED)


def shuffle(stage: Stage) -> Findings:
    """Deliver messages up to a second late and with any priority."""
    return _astray(stage, Disturbance.SHUFFLED)


def _astray(stage: Stage, disturbance: Disturbance) -> Findings:
    scale = stage.scale
    disturb(stage.folder, disturbance)
    stage.add_workers(scale.workers, app=APP)
    with disturbed(stage.folder), Load(stage, scale.load // 2, scale.trouble / 2) as load:
        pass
    stage.wait_for_the_end()

    record = stage.record()
    messages = messages_in(stage.folder)
    hit = messages
    if disturbance is Disturbance.DROPPED:
        hit = [message for message in messages if not message["copies"]]
    late = record.entered_after_commit
    problems = [f"{len(late)} nodes were entered after their commit, the first: {late[0]}"] if late else []
    again = len(record.entered) - len({(run.key, run.attempt) for run in record.entered})
    return Findings(
        record,
        frozenset(load.started),
        len(hit),
        record.delays_of((message["execution_id"], message["at"]) for message in hit)
        if disturbance is Disturbance.DROPPED
        else (),
        problems,
        [f"{len(messages):,} messages in all", f"{again} nodes entered twice before their commit"],
    )


def wait_in_a_long_queue(stage: Stage) -> Findings:
    """Queue executions behind two busy processes for longer than `stall_after`."""
    scale = stage.scale
    disturb(stage.folder, Disturbance.NONE)
    stage.add_workers(1, processes=2, app=APP, pace=QUICK)
    with disturbed(stage.folder):
        busy = 1.5 * stage.settings.stall_after
        blocking = [
            stage.client.start(BLOCKING, {"number": number, "seconds": busy}).id for number in range(2)
        ]
        poll(lambda: len(stage.record().entered) == 2, "both processes are busy")
        with Load(stage, scale.backlog, workflow_id=BRIEF) as load:
            pass
    stage.wait_for_the_end()

    record = stage.record()
    queued = [row for row in record.executions.values() if row.workflow_id == BRIEF]
    waited = record.delays_of((row.id, row.created_at) for row in queued)
    late = sum(seconds > stage.settings.stall_after for seconds in waited)
    messages = messages_in(stage.folder)
    share = sum(message["priority"] == AHEAD for message in messages) / len(messages)
    problems = []
    if share >= RECOVERY_SHARE:
        problems.append(f"{share:.2%} of {len(messages)} messages were sent by recovery")
    if record.repeated_effects:
        problems.append(f"{record.repeated_effects} side effects were repeated")
    if late < len(queued) / 2:
        problems.append(f"only {late} executions had to wait longer than `stall_after`")
    return Findings(
        record,
        frozenset([*load.started, *blocking]),
        len(queued),
        waited,
        problems,
        [f"{share:.2%} of {len(messages):,} messages sent by recovery"],
    )
