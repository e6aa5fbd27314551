"""Workflows and what may start their executions.

- `deployments`: workflows, their versions and states
- `triggers`: which triggers may start something, which schedules are due, and when next
- `history`: what operators did to them
"""
