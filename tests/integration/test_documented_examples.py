"""The examples of the documents are run as they stand there, one document from its top to its bottom.

A whole workflow in YAML becomes a file of its id, Python is executed, and of a `console` block every command
of the engine is run and its output compared with what the document shows. In place of workers stands a broker
whose messages are served at once; `# 14 days later` in a console block lets so much time pass.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from fleet_in_process import Broker, Workers
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from workflow_engine import ExecutionStatus, WorkflowClient
from workflow_engine.cli import main
from workflow_engine.definition_text import read_definition
from workflow_engine.settings import Settings, get_settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "docs/workflows.md", "docs/operations.md"]
BLOCK = re.compile(r"^```(yaml|python|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LATER = re.compile(r"# (\d+) (second|minute|hour|day)s? later")
SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ANSWER = re.compile(r"\[y/N\]: (\w)")
SHELL = frozenset({"sed"})
"""Programs beside the engine's own that an example may call."""

NEXT_WAIT = """
    SELECT extract(epoch FROM min(least(resume_at, expires_at)) - clock_timestamp())
    FROM execution_wait_states WHERE status = 'WAITING'
"""
WITH_WORKERS = frozenset({"doctor", "health"})
"""Commands that ask real workers, of which there are none here."""

# What two runs of one example do not have in common.
VARYING = [
    (ID, "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( UTC)?"), "TIME"),
    (re.compile(r"\b[\w.-]+:\d+\b"), "WORKER"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min|h|d)\b( \d+ (s|min|h)\b)?"), "DURATION"),
    (re.compile(r"\s+"), " "),
]


def comparable(text: str) -> list[str]:
    """Lines without what varies between two runs, and without empty lines."""
    lines = text.splitlines()
    for pattern, replacement in VARYING:
        lines = [pattern.sub(replacement, line) for line in lines]
    return [line.strip() for line in lines if line.strip()]


class Base(DeclarativeBase):
    pass


class Order(Base):
    """A table of the reader's own, in the same database."""

    __tablename__ = "documented_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]


@dataclass
class Session:
    """Somebody who follows a document: what came of one example is there for the next."""

    let_time_pass: Callable[[float], None]
    names: dict[str, Any]
    """What Python examples have defined, and what they take for granted."""
    ids: dict[str, str] = field(default_factory=dict)
    """The ids of the document's executions, and those they have here."""

    def follow(self, kind: str, block: str) -> None:
        if kind == "console":
            for command, shown in _commands(block):
                self._type(command, shown)
        elif kind == "python" and "@node(" not in block:
            self._execute(block)
        elif "nodes:" in block:
            workflow_id = re.search(r"^id: (\S+)", block, re.MULTILINE)
            assert workflow_id, block
            Path(f"{workflow_id[1]}.yaml").write_text(block)

    def register_nodes(self, block: str) -> None:
        exec(block, self.names)

    def _execute(self, block: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(block, self.names)
        shown = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
        assert printed.getvalue().splitlines() == shown

    def _type(self, command: str, shown: str) -> None:
        if later := LATER.fullmatch(command):
            self.let_time_pass(int(later[1]) * SECONDS[later[2]])
            return
        program, *arguments = shlex.split(ID.sub(lambda found: self.ids[found[0]], command), comments=True)
        if program in SHELL:
            subprocess.run(command, shell=True, check=True)
        if program != "workflow-engine" or arguments[0] in WITH_WORKERS:
            return
        typed = "".join(f"{answer}\n" for answer in ANSWER.findall(shown))
        result = CliRunner().invoke(main, arguments, input=typed)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert not shown or comparable(result.output) == comparable(shown), f"$ {command}\n{result.output}"
        assert shown or result.exit_code == 0, result.output
        self.ids |= dict(zip(ID.findall(shown), ID.findall(result.output), strict=False))


def _commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output that is shown below it."""
    for part in re.split(r"^(?:\$ |(?=# \d))", block, flags=re.MULTILINE):
        command, _, shown = part.partition("\n")
        if command:
            yield command, shown


class ServingBroker(Broker):
    """Serves messages as soon as it has them, before whoever published them goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: Workers | None = None
        self._is_serving = False

    def publish(self, dispatches: Any) -> None:
        super().publish(dispatches)
        if self.workers is None or self._is_serving:
            return
        self._is_serving = True
        try:
            self.workers.drain()
        finally:
            self._is_serving = False


@pytest.fixture
def broker() -> ServingBroker:
    return ServingBroker()


@pytest.fixture
def session(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    settings: Settings,
    broker: ServingBroker,
    sql: Callable[..., list[tuple[Any, ...]]],
    workers: Workers,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], list[str]],
) -> Iterator[Session]:
    """Commands and clients of this process use the test's servers and broker."""
    monkeypatch.setenv("WORKFLOW_ENGINE_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("WORKFLOW_ENGINE_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setattr("workflow_engine.engine.CeleryDispatcher", lambda *_: broker)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    broker.workers = workers

    def let_time_pass(seconds: float) -> None:
        """From one wait that is over to the next: each may open others."""
        while (next_one := sql(NEXT_WAIT)[0][0]) is not None and (step := max(float(next_one), 0)) <= seconds:
            time_passes(step)
            seconds -= step
            wake_due()
        time_passes(seconds)

    database = create_engine(settings.database_url)
    Order.metadata.create_all(database)
    yield Session(let_time_pass, {**_taken_for_granted(), "engine": database, "Order": Order})
    Order.metadata.drop_all(database)
    database.dispose()
    get_settings.cache_clear()


def _taken_for_granted() -> dict[str, Any]:
    """The code of the reader's own that the documents mention."""
    receipt = SimpleNamespace(id="r-1")
    answers = iter([ConnectionError("the bank does not answer")])

    def charge(order_id: int, currency: str, *, idempotency_key: str) -> Any:
        """Answers the second request."""
        if (error := next(answers, None)) is not None:
            raise error
        return receipt

    return {
        "bank": SimpleNamespace(charge=charge),
        "pay": lambda order, idempotency_key: {"receipt": receipt.id},
        "score": lambda order: 0.1,
        "tracked": lambda parcel: "delivered",
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_examples_of_a_document_do_what_it_says(
    document: str, session: Session, client: WorkflowClient
) -> None:
    blocks = BLOCK.findall((ROOT / document).read_text())
    for kind, block in blocks:
        if kind == "python" and "@node(" in block:
            session.register_nodes(block)
    for kind, block in blocks:
        session.follow(kind, block)

    completed = {each.workflow_id for each in client.list(None, [ExecutionStatus.COMPLETED], limit=1000)}
    assert {path.stem for path in Path().glob("*.yaml")} <= completed | {"order2"}


def test_the_order_workflow_runs_as_its_readme_says(
    session: Session, client: WorkflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    importlib.import_module("examples.shop")
    client.deploy(read_definition((ROOT / "examples/order_fulfilment.yaml").read_text()))
    monkeypatch.chdir(ROOT)
    (kind, block) = BLOCK.findall((ROOT / "examples/README.md").read_text())[0]

    session.follow(kind, block)

    assert client.count() == {ExecutionStatus.COMPLETED: 1}
