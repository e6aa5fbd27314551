"""What operators do to executions and workflows.

- `executions`: pause, resume, cancel, retry, rerun, and what is done to single nodes
- `moving`: one move, from where the execution stands to telling the workers
- `workflows`: activate, deactivate, archive; pause and resume of triggers
- `descendants`: the children of executions that were moved
- `rehearsal`: what an operation would do, in groups
- `reopening`: where an execution continues after a resume, a retry or a rerun
- `limits`: the numbers of limits, and who holds and awaits their slots
- `explain/`: why an execution does not move, and the command that helps
"""
