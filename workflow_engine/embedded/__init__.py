"""Postgres and Redis for development, the demo and the tests, started and stopped with the process."""

from workflow_engine.embedded.servers import EmbeddedPostgres, EmbeddedRedis, EmbeddedServer, EmbeddedServers

__all__ = ["EmbeddedPostgres", "EmbeddedRedis", "EmbeddedServer", "EmbeddedServers"]
