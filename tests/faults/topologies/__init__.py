"""Where the fault suite keeps contexts and messages: what the engine can do without, and what breaks there.

- `topology`: what they have in common, and one Redis for everything, as `make chaos` has it
- `cluster`: contexts on a Redis Cluster of three nodes with a replica each, messages on a Redis beside it
- `sentinel`: both on a Redis with a replica, which three sentinels let take its place
- `rabbitmq`: contexts on one Redis, messages in quorum queues of RabbitMQ
"""
