"""What a process reports about itself: what happened, to which execution, in a form that machines read.

- `processes`: processes of this machine, by number
- `counting`: counts of what a worker does, in files that its processes share
- `log_events`: the events that log lines report, and their fields
- `json_log`: log lines as JSON
- `attempt_log`: what a node logs, for its row in the journal
- `exposition`: metrics in the form that Prometheus reads
- `tracing`: spans of OpenTelemetry
"""
