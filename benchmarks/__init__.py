"""Every figure that the documents quote, measured again by one command: `make bench`.

Each benchmark is a module with a `measure` of its own; servers, workers, the machine's description and the
report are common to all. They run nothing that production does not: durable servers, real worker processes.
"""
