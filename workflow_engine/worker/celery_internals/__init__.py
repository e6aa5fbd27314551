"""Private parts of Celery's pool and consumer, used to keep the processes of a busy worker busy.

- `compatibility`: decides whether this package is used, by the setting and by Celery's attributes
- `pool_writes`: a task is written to an idle process at once, or behind the node that a busy one runs
- `prefetch`: messages out of a backlog, one for each process that runs short nodes
- `lookahead`: a pool process sees the task in its pipe before it has ended the one it runs

The engine's own app uses them; a team's app does where `WORKFLOW_ENGINE_CELERY_INTERNALS` turns them on. All
parts look for the attributes below when a worker starts, since Celery documents none of them. Where one is
missing or of another kind, Celery's own code stays in place: slower, but nothing is lost. One line in the log
reports it. What the engine uses of kombu's Redis transport is listed in
`workflow_engine.broker.redis_transport`.

| private attribute | of | why |
|---|---|---|
| `_pool` | `TaskPool` | the pool of processes itself |
| `flush` | `TaskPool` | replaced: at a worker's end, tasks in a process's pipe are kept |
| `flush` | `AsynPool` | the rest of that is the pool's own |
| `on_poll_start` | `AsynPool` | called only when there is something to write |
| `outbound_buffer` | `AsynPool` | tasks that are not written yet; withdrawn from there |
| `_quick_put` | `AsynPool` | replaced: takes a task and writes it to an idle process at once |
| `_mark_worker_as_available` | `AsynPool` | replaced: a process with another task in its pipe is not idle |
| `_all_inqueues` | `AsynPool` | the pipes, by their descriptors |
| `_busy_workers` | `AsynPool` | those whose process runs a task |
| `_active_writes` | `AsynPool` | those into which a task is being written |
| `_cache` | `AsynPool` | tasks that have not ended |
| `_putlock` | `AsynPool` | released for a task that is withdrawn |
| `_accepted` | `ApplyResult` | whether a process has begun the task |
| `_accept_callback` | `ApplyResult` | leads to Celery's request, and so to the message |
| `_write_to` | `ApplyResult` | the process to which the task was written |
| `discard` | `ApplyResult` | drops a task that is withdrawn |
| `inqW_fd` | `Worker` | the descriptor of a process's pipe |
| `on_tick` | `Hub` | where `on_poll_start` is exchanged |
| `consolidate` | `Hub` | pipes that wait for the kernel |
| `consolidate_callback` | `Hub` | writes to a pipe |
| `wait_for_soft_shutdown` | `WorkController` | replaced: messages go back before the wait for running nodes |
| `on_close` | `Blueprint` | replaced for the same, in a warm or cold shutdown |
| `grow` | `LaxBoundedSemaphore` | lets one more task per process through to the pool |
| `initial_value` | `LaxBoundedSemaphore` | how many it lets through now |
| `acknowledged` | `Request` | set on a message that has gone back, so that it is not acknowledged again |
| `all_total_count` | `state` | how many tasks have begun, which distinguishes short nodes from long ones |
| `task_ready` | `state` | makes the worker drop a message that has gone back |
| `_target` | `Process` | the loop of a pool process, as that sees itself |
| `inq` | `Worker` | the pipe from which the loop reads |
| `_reader` | `SimpleQueue` | this end of the pipe |
| `wait_for_job` | `Worker` | replaced: returns the task that was seen before |
"""
