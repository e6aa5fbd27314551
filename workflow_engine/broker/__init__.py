"""Messages in transit: publishing them, and their form on Celery's and kombu's wire.

- `dispatcher`: the only place that makes messages, and that looks at the backlog of queues
- `wire_format`: a message in Celery's protocol, and as kombu keeps it in Redis
- `redis_transport`: kombu's Redis transport, which here keeps its sockets and prefetches messages
- `backlogs`: messages that a worker takes beyond its prefetch count, and puts back
- `internals`: whether private attributes of Celery and kombu are the ones that are known
- `inspection`: what the broker and the workers report about themselves
- `queue_looks`: what waits in a queue, and whether anything consumes it
- `tasks`: the names and routes of a team's Celery tasks
- `celery_app`: a team's Celery app, loaded by its name
"""
