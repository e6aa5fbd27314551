"""The commands: `workflow`, which is the whole command line of the engine."""
