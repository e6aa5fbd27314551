"""The steps of a hop, which `executor` takes one after another.

- `admission`: 1, entering a node: its lock and its input, or the reason why the message is dropped
- `attempts`: 2, running the node, or waiting for a worker that has its code
- `commits`: 3, offering the outcome to the journal, which decides
- `known_commits`: what siblings in one process know of each other's commits
- `joint_ends`: 3 to 5 for siblings that end at the same moment, together
- `departure`: 4 and 5, leaving the node and enqueueing what is due next
"""
