"""Checks whether a worker is alive, the servers are ready and everything is set up well.

- `heartbeat`: the file that a worker renews while it is well
- `readiness`: the checks of the servers by `health`
- `probe`: a question to a server that may not respond
- `state_metrics`: what the servers hold and what is late, as metrics
- `doctor/`: the whole examination, with advice
"""
