"""How this process reaches Postgres.

- `connection`: makes connections, and detects those that have ended
- `pool`: lends them, one for each thread that asks at the same time
- `deadline`: cuts those whose server stops responding
- `sender`: sends a statement whose result is read later
"""
