"""Node types that start an execution.

- `direct`: by a call, by hand, by a webhook
- `scheduler`: by the clock
- `cron`: when a cron expression is due in a time zone
- `json_schemas`: the schema of a trigger's data, checked in bounded time
"""
