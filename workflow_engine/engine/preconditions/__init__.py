"""What must hold before a node that was admitted runs.

- `joins`: enough branches have arrived at a merge
- `slots`: the execution and the attempt have the slots of limits that they need
"""
