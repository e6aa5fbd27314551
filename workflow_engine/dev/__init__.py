"""`workflow-engine dev`: servers that keep their data, a worker for your own nodes, and Flower.

- `session`: what is started, and what ends it
- `sources`: which files of the code have changed
"""

from workflow_engine.dev.session import Options, run

__all__ = ["Options", "run"]
