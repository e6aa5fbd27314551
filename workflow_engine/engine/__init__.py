"""What moves executions: one hop, from message to message.

- `starts/`: an execution begins, or many at once
- `executor`: the five steps: enter, run, commit, leave, enqueue; `steps/` has each
- `preconditions`: what must hold before a node runs: branches that arrived, slots of limits
- `children`: what a node's children are started with, and their results
- `overlap`: what of a hop goes on while its process serves the next message
- `hop`: what follows from a node's outcome, as pure values; `hop_report`: the result for Celery
- `inline`: continuing with the next node under the same claim; `ahead`: while a commit is awaited
- `failure_workflows`: what the end of a failed execution starts
- `siblings`: what nodes that run at the same time owe to one another
- `publisher`: the messages for nodes that are due
- `resumption`: what is due of an execution that has stopped moving
- `context_cache`: contexts from Redis, or else from Postgres
- `observation/`: what others see of a hop while it goes on
- `stores`, `assembly`: the parts, put together for one process
"""
