"""What an execution is: its states, its walk through the graph, its context and its journal.

- `states`: the statuses, and which may follow which
- `walk`: how far an execution has come; advance, replay
- `context`: what it has gathered so far, as nodes and expressions see it
- `children`: child executions as the node that waits for them sees them
- `records`: what Postgres is given and what it returns
- `messages`: the message that makes a worker run a node
- `lost_messages`: after how long a message that is not queued is lost
- `gathering`: what threads ask for at the same moment is done for all of them together
- `ids`: ids that sort by time
- `annotations`: metadata and tags that a caller gives an execution
- `superseding`: which journal rows a retry or a rerun makes obsolete
- `bounded_texts`: errors, details and tracebacks in a size that can be stored
"""
