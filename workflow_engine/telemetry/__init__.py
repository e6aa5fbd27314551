"""What a process reports about itself: what happened, to which execution, in a form that machines read.

- `log_events`: the events that log lines report, and their fields
- `json_log`: log lines as JSON
"""
