"""One node in this process, without a store, a lock or a queue: compile, evaluate, call, bound, interrupt.

- `compiled`: a workflow version ready to run, built once per process
- `limits`: which slots of limits an execution or attempt needs
- `node_run`: evaluate the config, call the executor, make an outcome of its result
- `storable`: what may be stored of outputs, variables, errors and waits
- `surroundings`: what is called around each node
- `retry_policy`: whether and when a failed node is retried
- `time_limit`: how long an attempt may run
- `interruption`: how a node is ended from outside
"""
