"""The demo: two hundred orders walk through a workflow on real workers, with nothing installed before."""

from workflow_engine.demo.demonstration import run

__all__ = ["run"]
