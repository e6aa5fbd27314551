"""Node types that do work.

- `function`: evaluates an expression
- `python`: calls a registered function
- `celery_task`: runs a registered Celery task, with what `tasks/` has for it
- `api_call`: sends an HTTP request, with what `http/` has for it
"""
