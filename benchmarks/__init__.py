"""Every figure of the documents, measured by one command: `make bench`.

Each benchmark is a module with a `measure` of its own; servers, workers, the machine's description and the
report are shared. They run what production runs: durable servers, real worker processes.
"""
