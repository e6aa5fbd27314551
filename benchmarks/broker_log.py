"""The messages that reach the broker, as Redis reports them: time, client and node.

No clock of a sender or receiver is involved: Redis reports each command with its time while it runs it
(MONITOR). That slows it down a little, so figures taken this way are on the safe side.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import redis

COMMAND = re.compile(r'(?P<time>[\d.]+) \[\d+ (?P<host>[^ ]*):(?P<port>\d+)\] "(?P<name>\w+)"')
SHADOW = re.compile(r'\\"shadow\\": ?\\"[^/]+/([^\\]+)\\"')
ROOT_ID = re.compile(r'\\"root_id\\": ?\\"([^\\]+)\\"')


@dataclass(frozen=True)
class Message:
    """A message for a node; `time` in seconds since the epoch, `port` is that of its sender."""

    time: float
    port: int
    node_id: str
    execution_id: str


class BrokerLog:
    """Listens inside `with BrokerLog(url)`; afterwards `messages` has what was published."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url, socket_timeout=None)
        self._marker = secrets.token_hex(8)
        self._lines: list[str] = []
        self.messages: Sequence[Message] = ()

    def __enter__(self) -> Self:
        self._connection = self._redis.connection_pool.get_connection()
        self._connection.send_command("MONITOR")  # type: ignore[no-untyped-call]
        self._connection.read_response()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._redis.echo(self._marker)  # the last line that the listener reads
        self._thread.join(30)
        self._connection.disconnect()  # type: ignore[no-untyped-call]
        self._redis.close()
        self.messages = [message for line in self._lines for message in _messages(line)]

    def _listen(self) -> None:
        while True:
            line = self._connection.read_response(disable_decoding=True).decode(errors="replace")
            if self._marker in line:
                return
            self._lines.append(line)


def _messages(line: str) -> Iterator[Message]:
    """Yield the messages for nodes that a command pushes; workers talk to each other, too."""
    command = COMMAND.match(line)
    if command is None or command["name"].upper() != "LPUSH":
        return
    time, port = float(command["time"]), int(command["port"])
    # Of other tasks' messages neither begins with a workflow.
    nodes = SHADOW.findall(line)
    for node, execution in zip(nodes, ROOT_ID.findall(line) if nodes else (), strict=True):
        yield Message(time, port, node, execution)
