"""An installation whose messages wait in a real broker, and workers that live and serve as the test says."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

import pytest
import redis

from support.command_line import run
from support.reported_workers import ReportedWorkers
from workflow_engine import Settings, WorkflowClient
from workflow_engine.engine.assembly import Engine


@pytest.fixture(autouse=True)
def _commands_use_the_servers(commands_use_the_servers: None) -> None:
    """Set the servers first of all, so that the commands which explanations name reach them."""


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """Return an engine that publishes to the real broker."""
    engine = Engine.assemble(settings)
    yield engine
    engine.locks.stop_all_renewing()
    engine.database.dispose()


@pytest.fixture
def client(engine: Engine) -> WorkflowClient:
    return WorkflowClient(engine=engine)


@pytest.fixture
def fleet(engine: Engine, redis_client: redis.Redis) -> ReportedWorkers:
    return ReportedWorkers(engine, redis_client)


@pytest.fixture
def type_command(capsys: pytest.CaptureFixture[str]) -> Callable[[str | None], None]:
    """Return a function that types the engine's commands of an explanation; all have to succeed."""

    def type_in(command: str | None) -> None:
        assert command is not None
        for each in command.split(" && "):
            program, *words = shlex.split(each)
            assert program == "workflow-engine"
            result = run(*words)
            assert result.exit_code == 0, result.output

    return type_in
