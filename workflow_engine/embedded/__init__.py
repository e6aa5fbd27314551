"""Postgres and Redis for development, the demo and the tests, started and stopped with the process.

- `servers`: the two servers
- `rabbitmq`: a broker that only tests and benchmarks start
- `programs`: where their programs are
- `lifetime`: ending them with the process that started them, however it ends
"""

from workflow_engine.embedded.servers import EmbeddedPostgres, EmbeddedRedis, EmbeddedServer, EmbeddedServers

__all__ = ["EmbeddedPostgres", "EmbeddedRedis", "EmbeddedServer", "EmbeddedServers"]
