"""The faults, in the order of the table."""

from __future__ import annotations

from faults import (
    endings,
    failover,
    frozen_workers,
    messages,
    postgres_server,
    processes,
    producers,
    redis_server,
    whole_workers,
)
from faults.fault import Fault

FAULTS = (
    Fault(
        "process-killed",
        "A pool process is killed",
        "SIGKILL to a random process of three workers each second for a minute, under 300 orders at once",
        f"its execution moves again within {processes.GOES_ON_WITHIN:g} s",
        processes.kill_processes,
    ),
    Fault(
        "worker-killed",
        "A whole worker is killed",
        "SIGKILL to all processes of one of three workers every 10 s for a minute, each restarted",
        f"its executions continue within {whole_workers.GOES_ON_WITHIN:g} s, before its locks expire",
        whole_workers.kill_workers,
    ),
    Fault(
        "redis-flushed",
        "Redis is flushed",
        "FLUSHALL every 5 s for a minute: queues, locks and contexts at once",
        "",
        redis_server.flush,
    ),
    Fault(
        "redis-restarted",
        "Redis restarts empty",
        "SIGKILL and a start with empty memory every 5 s for a minute",
        "",
        redis_server.restart_empty,
    ),
    Fault(
        "postgres-away",
        "Postgres is away",
        "stopped for 20 s twice, all its processes killed once, frozen (SIGSTOP) for 20 s once",
        "no side effect is repeated because of it",
        postgres_server.take_away,
    ),
    Fault(
        "worker-frozen",
        "A worker is frozen past its locks",
        "SIGSTOP to its process group until another worker has committed its nodes, or has begun them",
        "of two results one is accepted, and never that of a worker thawed after the other's commit",
        frozen_workers.freeze_workers,
    ),
    Fault(
        "messages-doubled",
        "Every message arrives twice",
        "patched transport of producer and workers; the second copy at once or up to a second late",
        "no node is entered after its commit",
        messages.double,
    ),
    Fault(
        "messages-dropped",
        "Every tenth message is lost",
        "patched transport of producer and workers, recovery's messages included",
        "no node is entered after its commit",
        messages.drop,
    ),
    Fault(
        "messages-shuffled",
        "Messages are shuffled",
        "patched transport of producer and workers: up to a second late and with any priority",
        "no node is entered after its commit",
        messages.shuffle,
    ),
    Fault(
        "producer-killed-in-transaction",
        "A producer is killed, with session=",
        "SIGKILL at a random point of its transaction of an order row and a start",
        "the order row and its execution both exist, or neither does",
        producers.kill_in_transaction,
        deadline=700,
    ),
    Fault(
        "producer-killed",
        "A producer is killed",
        "SIGKILL at a random point of start",
        "every start that returned or committed is executed",
        producers.kill,
        deadline=700,
    ),
    Fault(
        "node-poisoned",
        "A node kills its process each time",
        "SIGKILL to itself, in 5 executions among ordinary ones",
        "WORKER_LOST after max_recoveries; others are not delayed",
        processes.poison,
    ),
    Fault(
        "node-run-once",
        "A node with `onCrash: fail` is killed",
        "SIGKILL to a random process each second for half a minute, under 300 executions at once",
        "no node begins twice; a killed one fails with CRASHED, and no others do",
        processes.kill_where_nothing_may_be_repeated,
    ),
    Fault(
        "node-ending-badly",
        "Nodes end badly",
        f"{', '.join(sorted([*endings.ENDINGS, *endings.ENDLESS]))}; each at once and after a wait",
        "each fails its execution with the true reason, within its attempts; others are not delayed",
        processes.end_badly,
        # The parent of a process has to count its end before another worker rescues its execution.
        settings={"lock_expiry": 30, "stall_after": 30, "claim_lease": 30},
    ),
    Fault(
        "long-queue",
        "A queue is long",
        "5,000 executions behind two busy processes for longer than stall_after",
        f"recovery sends less than {messages.RECOVERY_SHARE:.0%} of all messages",
        messages.wait_in_a_long_queue,
        deadline=400,
    ),
    Fault(
        "worker-restarted",
        "Workers are restarted",
        "SIGTERM to one worker after another, round robin for a minute",
        "no node is interrupted",
        whole_workers.restart_workers,
    ),
)

FAILED_OVER = Fault(
    "failed-over",
    "Another server takes over",
    "SIGKILL to a primary of Redis while orders come in, twice; without replicas, to the broker",
    "",
    failover.fail_over,
)
"""Only where there is another server, or a disk, to go on with."""
