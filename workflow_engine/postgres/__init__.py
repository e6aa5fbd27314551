"""The engine's data in Postgres, and every statement that reads or changes it.

- `database`: executing statements, alone or in a transaction
- `connections/`: how this process reaches Postgres
- `driver_errors`: the driver's errors as the engine's; `values`: values on their way to Postgres and back
- `tables`: the tables; `migrations/` makes them, and installs `functions/`
- `executions/`: executions and their journal
- `workflows/`: workflows, their triggers, and what operators made of them
- `waits`: waits that are over, and the nodes they wake
- `events`: events from outside, matched with the waits for them
- `limits`: slots of limits, who holds them and who waits for them
- `due_times`: when the next wait, schedule, timeout, child, slot or queued node is due
- `lookups/`: what operators look up on pages
- `retention`: removes what ended long ago
- `caller_transaction`: starting in a caller's transaction; `background` publishes after its commit
"""
