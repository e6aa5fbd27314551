"""What others see of a hop while it goes on, where they want to see it; without that, nothing here is called.

- `counts`: the counts of the worker's metrics
- `spans`: the trace of an execution
"""
