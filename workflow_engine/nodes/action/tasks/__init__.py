"""What `celery_task` has for running a Celery task: the only part of the nodes that speaks to Celery.

- `runs`: a task in Celery's own tracer, with a request of ours, and what follows from its end
- `progress`: `update_state` as the progress of a node
- `values`: arguments and results in the extended JSON of kombu
"""
