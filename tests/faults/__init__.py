"""The fault suite: real workers, Postgres and Redis as processes, broken from outside while they work.

`python -m faults` (`make chaos`) runs the long form with the engine's defaults and writes docs/faults.md;
tests/acceptance/rescue/test_faults.py runs the same faults in a short form.
"""
