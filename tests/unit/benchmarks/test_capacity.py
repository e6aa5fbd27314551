"""An installation's capacity follows from the cost of a hop by arithmetic, and the arithmetic is right."""

from dataclasses import replace

import pytest

from benchmarks.capacity import (
    Connections,
    Costs,
    Day,
    Installation,
    busy_sessions,
    first_wall,
    of_the_workers,
    on_one_machine,
    pool_processes,
    walls,
)

COSTS = Costs(
    nodes=10,
    main_seconds=0.001,
    pool_seconds=0.002,
    postgres_seconds=0.001,
    redis_seconds=0.0005,
    broker_share=0.4,
    wal_bytes=2_000,
    wal_bytes_per_start=3_000,
    aof_bytes=1_500,
    row_bytes=500,
    execution_bytes=1_000,
    context_bytes=4_000,
    message_bytes=1_000,
    postgres_connections=Connections(main=1, process=1),
    redis_connections=Connections(main=10, process=2),
)
AT = Installation(
    processes=8,
    worker_cores=4,
    postgres_cores=8,
    wal_bytes_per_second=100e6,
    waiting=0.002,
    flush=0.001,
    full=0.5,
)


def test_a_resource_is_full_at_the_share_of_it_that_is_assumed() -> None:
    assert walls(COSTS, 10, AT) == pytest.approx(
        {
            "processes of the workers": 20_000,
            "cores of the workers": 6_667,
            "event loops of the workers": 5_000,
            "cores of Postgres": 4_000,
            "WAL": 25_000,
            "Redis": 1_000,
        },
        rel=0.001,
    )


def test_few_workers_are_full_before_the_servers_and_many_after_them() -> None:
    assert first_wall(walls(COSTS, 1, AT)) == ("event loops of the workers", 500)
    assert first_wall(walls(COSTS, 10, AT)) == ("Redis", 1_000)
    assert first_wall(walls(COSTS, 100, AT)) == ("Redis", 1_000)


def test_a_redis_for_the_broker_alone_moves_the_wall_by_its_share() -> None:
    rates = walls(COSTS, 100, replace(AT, has_own_broker=True))

    assert "Redis" not in rates
    assert rates["Redis of the contexts"] == pytest.approx(0.5 / 0.0003)
    assert rates["Redis of the broker"] == pytest.approx(0.5 / 0.0002)


def test_what_workers_could_do_leaves_the_servers_out() -> None:
    assert of_the_workers(walls(COSTS, 100, AT)) == 50_000


def test_connections_are_those_of_every_process() -> None:
    assert COSTS.postgres_connections.of(workers=10, processes=8) == 90
    assert COSTS.redis_connections.of(workers=10, processes=8) == 260


def test_a_pooler_needs_as_many_sessions_as_are_at_work_at_a_time() -> None:
    assert busy_sessions(1_000, AT) == pytest.approx(1_000 * 0.001 / 0.5)


def test_nodes_that_take_long_need_processes_in_proportion() -> None:
    assert pool_processes(COSTS, 100, 0, AT) == pytest.approx(0.8)
    assert pool_processes(COSTS, 100, 1, AT) == pytest.approx(200.8)


def test_on_one_machine_all_share_the_cores() -> None:
    assert on_one_machine(COSTS, 2) == pytest.approx(2 / 0.0045)


def test_a_day_is_its_executions_and_their_nodes() -> None:
    day = Day(executions=1_000_000, peak=5, active_seconds=60)

    assert day.hops_per_second(COSTS) == pytest.approx(115.7, rel=0.001)
    assert day.hops_at_peak(COSTS) == pytest.approx(578.7, rel=0.001)
    assert day.wal_bytes(COSTS) == pytest.approx(23e9)
    assert day.aof_bytes(COSTS) == pytest.approx(15e9)
    assert day.disk_bytes(COSTS) == pytest.approx(6.5e9), "ten nodes and the trigger have rows"
    assert day.disk_bytes(COSTS, days=30) == pytest.approx(195e9)
    assert day.active_at_peak() == pytest.approx(3_472, rel=0.001)
    assert day.redis_bytes(COSTS) == pytest.approx(17.36e6, rel=0.001)
