"""What a node may do: the contract of node types, their registry, and the types that come with the engine.

- `contract`: executors, and what a node type declares
- `results`: success, failure or a wait
- `children`: the executions that a node may start and wait for
- `registry`: the types and functions of one process; `@node`
- `trigger/`, `logic/`, `action/`: the built-in types
- `config_fields`: parts that their configs share
- `loading`: the types of installed packages and of a team's modules
- `module_imports`: where a team's modules are searched for, and why one cannot be imported
- `raised`: an exception that a node raised, as a traceback and as a copy
"""
