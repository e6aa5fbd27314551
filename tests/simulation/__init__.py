"""A fleet without servers: the real executor on stores in memory, moved step by step by a test.

Redis is simulated as a server, Postgres as services. In Redis the engine's own scripts run, in a Lua of this
process, behind the real cache and the real lock: no check is written a second time here, and a test removes a
check by editing the script. Postgres runs one statement per call, so it is simulated by the public methods of
`ExecutionStateService` and `Waits`, with the fence checked in Python. Both pass `contracts`, which the real
servers pass too.

`steps` has the processes, which stop before every call to a store; `simulated_fleet` moves them, disturbs
them and checks what became of the execution.
"""
