"""Executions and their journal.

- `state`: commits nodes, loads snapshots, counts crashes
- `commits/`: the commit of a node, alone or together with those of siblings
- `children`: the results of child executions, and what has to be done for them
- `parts`: what the parts of a node's work have returned, until the node commits
- `follow_ups`: what a commit or an end has started or woken elsewhere
- `creation`: new executions, one per idempotency key
- `moves`: each operator's move as one guarded call
- `timeouts`: fails executions that take too long
- `queue_deadlines`: until when nodes with a `queueTimeout` have to begin
- `stalled`: executions that have not moved for a while
- `filters`: which executions a list shows or a bulk operation moves
- `lists`: pages of lists, the newest first, and how little is read for them
- `diagnostics`: why executions do not move
- `figures`: how many executions there are, and what is late
- `queries`: reads executions for operators
"""
