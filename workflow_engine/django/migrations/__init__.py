"""Django's migrations: for each revision of the engine's tables one, which runs that revision.

`MODELS` are the models by which Django reads the tables.
"""
