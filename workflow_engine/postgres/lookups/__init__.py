"""What operators look up on pages, by statements that change nothing and stay quick however much there is.

- `steps`: single steps of one execution
- `statistics`: figures about executions, nodes and queues
"""
