"""Node types that choose, join and wait, set variables and fail.

- `condition`, `switch`: choose a way out
- `merge`: joins branches
- `delay`: waits for a time
- `sub_workflow`, `loop`: run other nodes or workflows as child executions
- `wait_events`: waits for events from outside
- `set`: sets variables
- `fail`: fails on purpose
"""
