"""Embedded servers come up from every kind of installation, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis

from support.polling import poll
from workflow_engine.embedded import (
    EmbeddedPostgres,
    EmbeddedRedis,
    EmbeddedServer,
    EmbeddedServers,
    programs,
)
from workflow_engine.embedded.programs import (
    POSTGRES,
    REDIS,
    Installation,
    system_installations,
    wheel_installations,
)
from workflow_engine.errors import EmbeddedServerFailed
from workflow_engine.health.heartbeat import HeartbeatFile

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as somebody else")


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder for temporary files of this test alone; it must be empty again at the end."""
    tmp_path_factory.getbasetemp()  # made before, elsewhere
    place = Path(tempfile.mkdtemp(prefix="embedded-test-"))
    place.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    yield place
    left = list(place.iterdir())
    shutil.rmtree(place)
    assert left == []


def query(postgres: EmbeddedPostgres, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(postgres.url.replace("+psycopg2", ""))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("installations", [system_installations, wheel_installations])
def test_postgres_runs_from_the_machine_and_from_the_wheel(
    installations: Callable[[programs.ServerKind], list[Installation]],
) -> None:
    found = installations(POSTGRES)
    if not found:
        pytest.skip("this machine has no Postgres of its own")

    for installation in found:
        with EmbeddedPostgres(installation=installation) as postgres:
            assert query(postgres, "SELECT current_database()") == [("workflow_engine",)]
            assert query(postgres, "SHOW unix_socket_directories") == [("",)]
            pid = postgres.pid
            family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        assert all(gone(member) for member in family)


def test_redis_runs_from_the_wheel() -> None:
    for installation in wheel_installations(REDIS):
        with EmbeddedRedis(installation=installation) as server, redis.Redis.from_url(server.url) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("databases") == {"databases": "64"}
            pid = server.pid
        assert gone(pid)


@pytest.fixture
def redis_on_path(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of a Redis on the PATH, whether or not this machine has one."""
    machine = scratch / "machine"
    folder = wheel_installations(REDIS)[0].copied_to(machine).folder
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    yield folder
    shutil.rmtree(machine)


def test_a_redis_on_the_path_comes_before_the_wheel(redis_on_path: Path) -> None:
    with EmbeddedRedis() as server:
        assert Path(psutil.Process(server.pid).exe()).parent == redis_on_path


@as_root
def test_a_program_of_the_machine_that_nobody_may_run_is_passed_over(redis_on_path: Path) -> None:
    redis_on_path.chmod(0o700)

    with EmbeddedRedis() as server:
        assert Path(psutil.Process(server.pid).exe()).parent != redis_on_path


def test_both_servers_start_and_stop_together_and_twice_does_no_harm() -> None:
    servers = EmbeddedServers(durable=True)

    with servers:
        servers.start()
        assert servers.database_url.startswith("postgresql+psycopg2://workflow_engine:")
        assert servers.redis_url.startswith("redis://:")
        pids = [servers.postgres.pid, servers.redis.pid]
        assert query(servers.postgres, "SHOW fsync") == [("on",)]
    servers.stop()

    assert all(gone(pid) for pid in pids)


def test_two_pairs_of_servers_do_not_see_each_other() -> None:
    with EmbeddedRedis() as one, EmbeddedRedis() as other:
        with redis.Redis.from_url(one.url) as client:
            client.set("key", "value")
        with redis.Redis.from_url(other.url) as client:
            assert client.get("key") is None


def test_a_server_refuses_clients_without_its_password() -> None:
    with EmbeddedServers() as servers:
        anonymous = servers.redis_url.split("@")[1]
        with redis.Redis.from_url(f"redis://{anonymous}") as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        address = servers.database_url.split("@")[1]
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(f"postgresql://workflow_engine@{address}")


@as_root
def test_root_starts_servers_as_nobody() -> None:
    with EmbeddedServers() as servers:
        users = {psutil.Process(pid).username() for pid in (servers.postgres.pid, servers.redis.pid)}
    assert users == {"nobody"}


def test_the_keyboard_interrupts_the_application_and_not_the_servers() -> None:
    with EmbeddedRedis() as server:
        assert os.getsid(server.pid) != os.getsid(0)


@pytest.mark.parametrize("durable", [True, False])
def test_postgres_keeps_its_data_and_port_through_a_crash(durable: bool) -> None:
    with EmbeddedPostgres(durable=durable) as postgres:
        url = postgres.url
        query(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")

        postgres.kill()
        with pytest.raises(psycopg2.OperationalError):
            query(postgres, "SELECT 1")
        postgres.restart()

        assert postgres.url == url
        assert query(postgres, "SELECT answer FROM kept") == [(42,)]


@pytest.mark.parametrize(("durable", "kept"), [(True, b"value"), (False, None)])
def test_redis_keeps_its_data_through_a_crash_only_if_it_is_durable(
    durable: bool, kept: bytes | None
) -> None:
    with EmbeddedRedis(durable=durable) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")

        server.kill()
        server.restart()

        assert client.get("key") == kept


def test_a_frozen_server_is_stopped_all_the_same() -> None:
    with EmbeddedRedis() as server:
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
    assert gone(pid)


def test_a_server_outlasts_the_thread_that_started_it() -> None:
    server = EmbeddedRedis()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()

    try:
        time.sleep(0.1)
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.stop()


APPLICATION = """
import signal, sys, time
for ignored in (signal.SIGHUP, signal.SIGINT):  # by whatever runs the tests in the background
    signal.signal(ignored, signal.default_int_handler if ignored == signal.SIGINT else signal.SIG_DFL)
from workflow_engine.embedded import EmbeddedServers
servers = EmbeddedServers().start()
print(servers.postgres.pid, servers.redis.pid, flush=True)
{then}
"""


def application(then: str) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a process with both servers that goes on with `then`. Return it and the servers' process ids."""
    process = subprocess.Popen(
        [sys.executable, "-c", APPLICATION.format(then=then)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


@pytest.mark.parametrize(
    ("then", "signum", "status"),
    [
        ("time.sleep(60)", signal.SIGTERM, -signal.SIGTERM),
        ("time.sleep(60)", signal.SIGHUP, -signal.SIGHUP),
        ("time.sleep(60)", signal.SIGINT, -signal.SIGINT),
        ("sys.exit(3)", None, 3),
    ],
)
def test_an_application_that_ends_leaves_nothing_behind(
    then: str, signum: signal.Signals | None, status: int, scratch: Path
) -> None:
    process, pids = application(then)

    if signum is not None:
        process.send_signal(signum)

    assert process.wait(timeout=30) == status
    assert all(gone(pid) for pid in pids)
    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_servers_end_with_a_killed_application_and_the_next_one_removes_its_files(scratch: Path) -> None:
    process, pids = application("time.sleep(60)")

    process.kill()
    process.wait()

    poll(lambda: all(gone(pid) for pid in pids), "every process has ended")
    left = list(scratch.iterdir())
    assert len(left) == 2
    with EmbeddedRedis():
        assert not any(folder.exists() for folder in left)


def test_a_server_removes_no_folder_that_is_not_a_leftover(scratch: Path) -> None:
    process, pids = application("time.sleep(60)")
    process.kill()
    process.wait()
    poll(lambda: all(gone(pid) for pid in pids), "every process has ended")
    leftovers = list(scratch.iterdir())
    for copy in ("workflow-engine-backup", "workflow-engine-1-copy"):
        shutil.copytree(leftovers[0], scratch / copy)
    for folder in (
        "workflow-engine-main",
        "workflow-engine-0.1.0",
        "workflow-engine-7-mine",
        "workflow-engine-0",
    ):
        (scratch / folder).mkdir()
        (scratch / folder / "orders.sql").touch()
    (scratch / "workflow-engine-8-notes").write_text("not even a folder")
    (scratch / "workflow-engine-9-link").symlink_to(leftovers[0])
    HeartbeatFile("celery@here").beat()
    others = [path for path in scratch.rglob("*") if not any(map(path.is_relative_to, leftovers))]

    with EmbeddedRedis():
        pass

    assert not any(folder.exists() for folder in leftovers)
    assert [path for path in others if not os.path.lexists(path)] == []
    for path in scratch.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def test_the_folder_of_a_live_server_is_no_leftover() -> None:
    with EmbeddedRedis(durable=True) as one, EmbeddedRedis():
        one.kill()
        one.restart()
        with redis.Redis.from_url(one.url) as client:
            assert client.ping()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_of_the_application_does_not_end_its_servers() -> None:
    with EmbeddedRedis() as server:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        os.waitpid(child, 0)
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()


@as_root
@pytest.mark.parametrize("server", [EmbeddedPostgres, EmbeddedRedis])
def test_programs_in_a_private_folder_are_copied_to_where_nobody_may_run_them(
    server: type[EmbeddedServer], tmp_path: Path
) -> None:
    original = wheel_installations(server.kind)[0]
    private = original.copied_to(tmp_path / "private" / "programs")
    (tmp_path / "private").chmod(0o700)

    with server(installation=private) as running:
        program = Path(psutil.Process(running.pid).exe())
        assert program.is_relative_to(tempfile.gettempdir())


@pytest.mark.parametrize("server", [EmbeddedPostgres, EmbeddedRedis])
def test_the_error_of_a_machine_without_programs_names_both_ways_out(
    server: type[EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflow_engine.embedded.servers.system_installations", lambda kind: [])
    monkeypatch.setattr("workflow_engine.embedded.servers.wheel_installations", lambda kind: [])

    with pytest.raises(EmbeddedServerFailed) as failure:
        server().start()

    assert "pip install 'celery-workflow-engine[embedded]'" in str(failure.value)
    assert server.kind.url_variable in str(failure.value)


def write_program(folder: Path, name: str, version: str) -> Installation:
    folder.mkdir()
    program = folder / name
    program.write_text(
        f"#!/bin/sh\n[ \"$1\" = --version ] && echo '{version}' && exit\necho no space left; exit 7\n"
    )
    program.chmod(0o755)
    return Installation(folder, folder, (folder,))


def test_a_release_that_is_too_old_is_passed_over_and_named(tmp_path: Path) -> None:
    old = write_program(tmp_path / "bin", "redis-server", "Redis server v=3.2.1 sha=0 bits=64")

    with pytest.raises(EmbeddedServerFailed, match=r"is 3\.2, and 6\.2 is needed"):
        EmbeddedRedis(installation=old).start()


def test_a_server_that_does_not_come_up_is_quoted(tmp_path: Path) -> None:
    broken = write_program(tmp_path / "bin", "redis-server", "Redis server v=7.0.15 sha=0 bits=64")

    with pytest.raises(EmbeddedServerFailed, match="with status 7") as failure:
        EmbeddedRedis(installation=broken).start()

    assert failure.value.log == "no space left"
    assert "no space left" in str(failure.value)


def test_a_port_that_was_taken_in_between_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        ports = iter([squatter.getsockname()[1], *range(20_000, 20_010)])
        monkeypatch.setattr("workflow_engine.embedded.servers._free_port", lambda: next(ports))

        with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
            assert client.ping()


@as_root
def test_the_error_of_root_without_a_user_nobody_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_user(name: str) -> None:
        raise KeyError(f"getpwnam(): name not found: {name!r}")

    monkeypatch.setattr(programs.pwd, "getpwnam", no_such_user)

    with pytest.raises(EmbeddedServerFailed, match="run this as an ordinary user"):
        EmbeddedRedis().start()


@pytest.mark.parametrize("server", [EmbeddedPostgres, EmbeddedRedis])
def test_a_folder_keeps_data_password_and_port_for_the_next_server(
    server: type[EmbeddedServer], scratch: Path
) -> None:
    folder = scratch / "kept"
    with server(durable=True, folder=folder) as first:
        url = first.url
        if isinstance(first, EmbeddedPostgres):
            query(first, "CREATE TABLE kept AS SELECT 42 AS answer")
        else:
            with redis.Redis.from_url(url) as client:
                client.set("answer", 42)

    with server(durable=True, folder=folder) as second:
        assert second.url == url
        if isinstance(second, EmbeddedPostgres):
            assert query(second, "SELECT answer FROM kept") == [(42,)]
        else:
            with redis.Redis.from_url(url) as client:
                assert client.get("answer") == b"42"
    shutil.rmtree(folder)


def test_a_folder_is_used_by_one_server_at_a_time_and_never_if_it_is_not_its_own(scratch: Path) -> None:
    mine = scratch / "mine"
    mine.mkdir()
    (mine / "orders.sql").touch()

    with EmbeddedRedis(folder=scratch / "kept"):
        with pytest.raises(EmbeddedServerFailed, match="in use by another process"):
            EmbeddedRedis(folder=scratch / "kept").start()
        with pytest.raises(EmbeddedServerFailed, match="has not written"):
            EmbeddedRedis(folder=mine).start()

    assert [path.name for path in mine.iterdir()] == ["orders.sql"]
    shutil.rmtree(scratch / "kept")
    shutil.rmtree(mine)


def test_a_place_that_cannot_be_written_to_is_reported_in_one_line(scratch: Path) -> None:
    (scratch / "a-file").touch()

    with pytest.raises(EmbeddedServerFailed, match=r"Redis cannot start: .*Not a directory"):
        EmbeddedRedis(folder=scratch / "a-file" / "kept").start()

    (scratch / "a-file").unlink()
