"""Celery's canvases as workflows: chains, groups and chords, read from the dicts that their signatures are.

- `signatures`: a signature as a tree, or why it cannot be durable, with the path
- `options`: what the options of a signature mean for its node
- `shapes`: that tree as a workflow without arguments, and the arguments as the data of its start
- `clients`: which client starts a canvas, if its caller names none
- `durable`: a canvas that is started as such a workflow
"""
