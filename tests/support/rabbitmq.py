"""The queues of an embedded RabbitMQ, as a client of AMQP sees and changes them."""

from __future__ import annotations

import amqp

from workflow_engine.embedded.rabbitmq import EmbeddedRabbit


class RabbitQueues:
    """Queues of one server. Each call opens a connection of its own."""

    def __init__(self, server: EmbeddedRabbit) -> None:
        self._server = server

    def delete(self, name: str) -> None:
        with self._connection() as connection:
            connection.channel().queue_delete(name)

    def type_of(self, name: str) -> str:
        """Return `quorum` or `classic`, which RabbitMQ shows by what it refuses."""
        with self._connection() as connection:
            try:
                arguments = {"x-queue-type": "quorum"}
                connection.channel().queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
            except amqp.exceptions.PreconditionFailed:
                return "classic"
        return "quorum"

    def _connection(self) -> amqp.Connection:
        return amqp.Connection(f"127.0.0.1:{self._server.port}", "guest", "guest", connect_timeout=5)
