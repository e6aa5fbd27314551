"""A Redis Cluster behind the commands of a single Redis: redis-py's cluster client, as this engine needs it.

- `client`: a client that connects at its first use, and again after a fork
- `pipeline`: several commands in one round trip to each node
- `nodes`: what has to be asked of every node, for a cluster and a single Redis alike
"""
