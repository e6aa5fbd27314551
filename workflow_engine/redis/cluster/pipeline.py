"""ClusterPipeline: several commands, those of each node in one round trip.

redis-py's own pipeline refuses scripts, and gives up on all nodes if one is away. Here the others do their
part all the same: a process with locks on three nodes renews those on two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from redis.client import Pipeline
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ExecAbortError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from workflow_engine.redis.cluster.client import ClusterClient

Command = tuple[Sequence[Any], dict[str, Any]]

MISSED = (AskError, TryAgainError, ExecAbortError, ClusterDownError, RedisConnectionError, RedisTimeoutError)
"""The errors of a command that another node may serve; `MovedError` is a kind of `AskError`."""


class ClusterPipeline(Pipeline):
    """Collects commands, as any pipeline does, until `execute` sends them to their nodes."""

    def __init__(self, client: ClusterClient, retries: int, transaction: bool) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, None)
        self._client = client
        self._retries = retries
        self._is_transaction = transaction

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the commands, and return their results. Raises the first error once all have been tried."""
        commands: list[Command] = self.command_stack
        results: list[Any] = [None] * len(commands)
        left: Sequence[int] = range(len(commands))
        try:
            for attempt in range(self._retries + 1):
                routed = self._client.routed
                if attempt:
                    routed.nodes_manager.initialize()
                for node, numbers in self._by_node(routed, commands, left):
                    found = self._ask(node, [commands[number] for number in numbers])
                    for number, result in zip(numbers, found, strict=True):
                        results[number] = result
                left = [number for number in left if isinstance(results[number], MISSED)]
                if not left:
                    break
            for number in left:  # such as keys that are on their way from one node to another
                results[number] = _result_or_error(self._client.execute_command, commands[number])
        except RedisClusterException:
            self._client.start_again(routed)
            raise
        finally:
            self.reset()
        for result in results:
            if raise_on_error and isinstance(result, Exception):
                raise result
        return results

    def _by_node(
        self, routed: Any, commands: Sequence[Command], numbers: Sequence[int]
    ) -> Iterator[tuple[Any, list[int]]]:
        groups: dict[str, tuple[Any, list[int]]] = {}
        for number in numbers:
            node = routed.get_node_from_key(_key_of(commands[number][0]))
            groups.setdefault(node.name, (node, []))[1].append(number)
        for node, group in groups.values():
            yield routed.get_redis_connection(node), group

    def _ask(self, node: Any, commands: Sequence[Command]) -> list[Any]:
        """Return the results of commands of one node, errors among them."""
        pipeline = node.pipeline(transaction=self._is_transaction)
        pipeline.scripts.update(self.scripts)
        for args, options in commands:
            pipeline.execute_command(*args, **options)
        try:
            found: list[Any] = pipeline.execute(raise_on_error=False)
        except RedisError as error:
            return [error] * len(commands)
        return found


def _key_of(args: Sequence[Any]) -> Any:
    """Return the first key of a command; every command in use has it in front."""
    return args[3] if args[0] in ("EVAL", "EVALSHA") else args[1]


def _result_or_error(call: Callable[..., Any], command: Command) -> Any:
    args, options = command
    try:
        return call(*args, **options)
    except (RedisError, RedisClusterException) as error:
        return error
