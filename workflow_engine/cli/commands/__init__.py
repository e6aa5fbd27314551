"""The commands, one module for each family.

- `definitions`, `workflow_control`: workflows
- `executions`, `explain`, `events`, `history`: executions
- `control`: pause, resume, cancel, retry, rerun, skip, complete, set-output, set-variable
- `limits`: concurrency and rate by key
- `database`, `retention`, `health`, `metrics`, `doctor`: operation
- `sessions`: ui, dev, demo, which start programs of their own
"""
