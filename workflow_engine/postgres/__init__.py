"""The engine's data in Postgres, and every statement that reads or changes it.

- `database`: executing statements, alone or in a transaction
- `connection`: makes and pools connections; `deadline` cuts those whose server stops responding
- `driver_errors`: the driver's errors as the engine's; `values`: values on their way to Postgres and back
- `tables`: the tables; `migrations/` makes them, and installs `functions/`
- `executions/`: executions and their journal
- `waits`: waits that are over, and the nodes they wake
- `events`: events from outside, matched with the waits for them
- `triggers`: scheduled triggers: which are due, and when next
- `due_times`: when the next wait, schedule, timeout or child is due
- `deployments`: workflows and their versions
- `retention`: removes what ended long ago
- `caller_transaction`: starting in a caller's transaction; `background` publishes after its commit
"""
