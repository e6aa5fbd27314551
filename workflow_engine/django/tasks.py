"""The engine's task, where `app.autodiscover_tasks()` looks for the tasks of each installed app."""

from workflow_engine.worker.tasks import run_node

__all__ = ["run_node"]
