"""What Redis keeps for speed: contexts, locks, running nodes. All of it may be lost.

- `contexts`: cached contexts, and the scripts that enter and leave a node; `cached_context`: the form of one
- `calls`: what the calls that enter and leave nodes are given; `results`: what comes of them
- `finished_signals`: callers that wait for the end of an execution are woken
- `lock`: the lock of an execution, its renewal and its waiters
- `lock_servers`: where locks are kept: beside the contexts, or by `redlock` on several servers
- `running_nodes`: a node while it runs: its progress, and the request to stop it
- `worker_heartbeats`: what each running worker reports about itself
- `presence`: which processes are connected: a dead one is told from a frozen one
- `periodic_call`: calls that a process repeats while nodes run, and what a forked child resets
- `keys`: the names of all keys and channels
- `client`: connections, scripts, errors
- `upkeep/`: what the periodic work of the whole fleet asks of Redis
- `cluster/`: a Redis Cluster behind the same commands
- `scripts/`: the Lua scripts, each one step
"""
