"""The demo: two hundred orders walk through a workflow on real workers, without anything installed before.

- `demonstration`: what happens, in order
- `stage`: the servers, workers and Flower; `processes` starts them
- `example`, `payments`: the workflow, and the provider that sends it events
- `screen`, `progress`: what is shown
"""

from workflow_engine.demo.demonstration import run

__all__ = ["run"]
