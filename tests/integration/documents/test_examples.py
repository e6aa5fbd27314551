"""The examples of the documents work as they stand there, typed in order, one document after the other.

All of it is one session with one database: nothing that a document defines may be in another one's way.
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
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trustme

from support.broker import Broker, Workers
from support.command_line import run
from support.http_server import HttpServer, Received, Reply
from support.repository import ROOT
from workflow_engine import ExecutionStatus, WorkflowClient
from workflow_engine.definition.text import read_definition
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.timekeeper import Timekeeping
from workflow_engine.nodes.action.http import exchange, sockets
from workflow_engine.settings import Settings, get_settings

DOCUMENTS = ["README.md", "docs/workflows.md", "docs/operations.md", "docs/coming-from.md"]
"""In the order of typing. docs/first-node.md has real processes, and a test in the acceptance tier."""
BLOCK = re.compile(r"^(?:  )?```(yaml|python|console)\n(.*?)^(?:  )?```", re.DOTALL | re.MULTILINE)
LATER = re.compile(r"# (\d+) (second|minute|hour|day)s? later")
SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ANSWER = re.compile(r"\[y/N\]: (\w)")
SHELL = frozenset({"sed"})
"""Programs beside the engine's own that an example may call."""

NEXT_WAIT = """
    SELECT extract(epoch FROM min(least(resume_at, expires_at, children_due)) - clock_timestamp())
    FROM execution_wait_states WHERE status = 'WAITING' OR children_due IS NOT NULL
"""
WITH_WORKERS = frozenset({"doctor", "health"})
"""Commands that ask real workers, of which there are none here."""

SERVICES = ("api.payments.example", "render.example", "stock.example", "mail.example", "crm.example")
TOKEN, PUBLIC = "token-of-the-tests", "93.184.216.34"
_ASKED: list[str] = []

# What two runs of one example do not have in common.
VARYING = [
    (ID, "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( UTC)?"), "TIME"),
    (re.compile(r"\b[\w.-]+:\d+\b"), "WORKER"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min|h|d)\b( \d+ (s|min|h)\b)?"), "DURATION"),
    (re.compile(r'File ".*", line \d+'), "FILE"),
    (re.compile(r"\s+"), " "),
]


def comparable(text: str) -> list[str]:
    """Return the lines without what varies between two runs, and without empty lines."""
    lines = text.splitlines()
    for pattern, replacement in VARYING:
        lines = [pattern.sub(replacement, line) for line in lines]
    return [line.strip() for line in lines if line.strip()]


@dataclass
class Session:
    """A reader who follows a document: the results of one example are there for the next."""

    let_time_pass: Callable[[float], None]
    names: dict[str, Any]
    """The names that Python examples have defined."""
    ids: dict[str, str] = field(default_factory=dict)
    """The ids of the document's executions, and those they have here."""

    def follow(self, kind: str, block: str) -> None:
        if kind == "console":
            for command, shown in _commands(block):
                self._type(command, shown)
        elif kind == "python":
            self._execute(textwrap.dedent(block))
        elif "nodes:" in block:
            workflow_id = re.search(r"^id: (\S+)", block, re.MULTILINE)
            assert workflow_id, block
            Path(f"{workflow_id[1]}.yaml").write_text(block)

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
        result = run(*arguments, stdin=typed)
        assert not shown or comparable(result.output) == comparable(shown), f"$ {command}\n{result.output}"
        assert shown or result.exit_code == 0, result.output
        self.ids |= dict(zip(ID.findall(shown), ID.findall(result.output), strict=False))


def _commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with the output that is shown below it."""
    for part in re.split(r"^(?:\$ |(?=# \d))", block, flags=re.MULTILINE):
        command, _, shown = part.partition("\n")
        if command:
            yield command, shown


class ServingBroker(Broker):
    """Serves each message at once, before its publisher continues."""

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


def _respond(received: Received) -> Reply:  # noqa: PLR0911  one line per service
    """Respond as the services that the documents call."""
    match received.path.split("/")[1:]:
        case ["v1", "accounts", "closed", "payouts"]:
            return Reply(422, {"reason": "the account is closed"})
        case ["v1", "accounts", _, "payouts"]:
            assert received.headers["authorization"] == f"Bearer {TOKEN}"
            return Reply(200, {"id": "po-1"})
        case ["v1", "charges"] | ["reservations", _] | ["cards"]:
            return Reply(200, {"id": "c-1"})
        case ["exports", _]:
            _ASKED.append(received.path)
            return Reply(200, {"status": "done" if _ASKED.count(received.path) == 3 else "running"})
        case ["customers"]:
            return Reply(200, {"customers": [{"name": "Ada"}, {"name": "Grace"}], "next": "p2"})
        case ["customers?cursor=p2"]:
            return Reply(200, {"customers": [{"name": "Edith"}], "next": None})
        case ["jobs", _, "video"]:
            _ASKED.append(received.path)
            return Reply(
                200 if _ASKED.count(received.path) == 3 else 202, {"url": "https://render.example/videos/1"}
            )
    raise AssertionError(f"no document shows {received.path}")


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HttpServer]:
    """Let the hosts `….example` be a server of the test, which has a certificate for them."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*SERVICES).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("WORKFLOW_SECRET_PAYMENTS_TOKEN", TOKEN)
    monkeypatch.setattr(exchange, "_current", None)
    with HttpServer(_respond).encrypted(context) as server:
        look_up = socket.getaddrinfo

        def found(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
            if not str(host).endswith(".example"):
                return look_up(host, port, *rest, **options)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, port))]

        def dial(family: int, target: Any, *_: Any) -> socket.socket:
            assert target == (PUBLIC, 443)
            return socket.create_connection(("127.0.0.1", server.port))

        monkeypatch.setattr(socket, "getaddrinfo", found)
        monkeypatch.setattr(sockets, "_dial", dial)
        yield server


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
    services: HttpServer,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], list[str]],
    engine: Engine,
) -> Iterator[Session]:
    """Make commands and clients of this process use the test's servers and broker."""
    monkeypatch.setenv("WORKFLOW_ENGINE_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("WORKFLOW_ENGINE_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setattr("workflow_engine.engine.assembly.CeleryDispatcher", lambda *_: broker)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    broker.workers = workers
    timekeeping = Timekeeping(engine)

    def let_time_pass(seconds: float) -> None:
        """Let time pass from one wait that is over to the next: each may open others."""
        while (next_one := sql(NEXT_WAIT)[0][0]) is not None and (step := max(float(next_one), 0)) <= seconds:
            time_passes(step)
            seconds -= step
            wake_due()
            timekeeping.round()  # starts children that had to wait
        time_passes(seconds)

    typed = ModuleType("typed")  # a real one: SQLAlchemy looks for the names of a class in its module
    monkeypatch.setitem(sys.modules, typed.__name__, typed)
    typing = Session(let_time_pass, typed.__dict__)
    yield typing
    if "Base" in typing.names:
        typing.names["Base"].metadata.drop_all(typing.names["engine"])
        typing.names["engine"].dispose()
    get_settings.cache_clear()


def test_everything_that_the_documents_show_can_be_typed_in_order(
    session: Session, client: WorkflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for document in DOCUMENTS:
        for kind, block in BLOCK.findall((ROOT / document).read_text()):
            session.follow(kind, block)
    written = {path.stem for path in Path().glob("*.yaml")}

    monkeypatch.syspath_prepend(str(ROOT))
    importlib.import_module("examples.shop")
    client.deploy(read_definition((ROOT / "examples/order_fulfilment.yaml").read_text()))
    monkeypatch.chdir(ROOT)
    session.follow(*BLOCK.findall((ROOT / "examples/README.md").read_text())[0])

    completed = {each.workflow_id for each in client.list(None, [ExecutionStatus.COMPLETED], limit=1000)}
    assert written | {"order-fulfilment"} <= completed | {"fulfilment2"}
