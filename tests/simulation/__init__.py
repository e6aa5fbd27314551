"""A fleet without servers: the real executor on stores in memory, moved step by step by a test.

Redis is simulated as a server, Postgres as services. In Redis the engine's own scripts run, in a Lua of this
process, behind the real cache and the real lock: nothing that they check is written a second time here, and a
test takes a check away by editing the script. What Postgres does is one statement a call, so it stands for
the public methods of `ExecutionStateService` and `Waits`, with the fence checked in Python. Both pass
`contract`, which the real servers pass too.

`steps` has the processes, which stop before every call to a store; `fleet` moves them, disturbs them and
judges what became of the execution.
"""
