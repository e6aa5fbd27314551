"""What operators do to executions.

- `executions`: pause, resume, cancel, retry, rerun
- `descendants`: the children of executions that were moved
- `reopening`: where an execution continues after a resume, a retry or a rerun
- `explain/`: why an execution does not move, and the command that helps
"""
