"""What moves executions when no hop does.

- `timekeeper`: waits, schedules and timeouts, in rounds in every worker
- `schedules`: scheduled triggers, each due time fired once
- `slots`: slots of limits that are free although no process has freed them
- `queues`: nodes that have stood in their queue for longer than their `queueTimeout`
- `keeping`: executions that have outlived the `keep` of their workflow
- `queued_messages`: what the queues hold while a look for lost messages lasts
- `recovery`: the rescue of executions that lost their process or their message
- `takeover`: the locks of processes that died with their whole worker
"""
