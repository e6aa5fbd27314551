"""Node types that do work.

- `function`: evaluates an expression
- `python`: calls a registered function
- `api_call`: sends an HTTP request, with what `http/` has for it
"""
