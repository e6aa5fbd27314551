"""Where the servers are and how to connect to them, and which hosts a workflow may reach.

- `redis`: a Redis, for redis-py and for kombu alike
- `postgres`: the URL of Postgres, as libpq reads it
- `broker`: Celery's settings for the connection to the broker
- `reachable`: which addresses a request of a workflow may reach
"""
