"""Bootsteps: the work of a worker's main process besides passing nodes to its pool.

- `preparation`: a worker that cannot run nodes refuses to start
- `metrics`: counts what the worker does, and serves the counts to Prometheus
- `timekeeper`: the thread that wakes what is due, and recovers nodes whose process was lost
- `liveness`: the heartbeat that `workflow-engine health --live` reads
- `fleet_heartbeat`: the report in Redis that `workflow-engine explain` reads
- `consumption_watch`: a worker that consumes nothing ends itself
- `reconnection`: pauses between connections to a broker that refuses commands
- `message_guard`: refuses messages that would end a worker
- `shutdown`: the record of what a worker leaves unfinished
"""
