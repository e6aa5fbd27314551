"""Expressions `{{ … }}` in configs: compiled once with their definition, evaluated while a node runs.

An operation that is not listed in `sandbox` and `filters` does not exist, and each one is bounded in what it
may produce.

- `template`: finds expressions in a value
- `syntax`: parses them with Jinja2
- `compiler`: turns the syntax tree into closures over the operations
- `sandbox`, `filters`, `text`, `dates`, `regex`: the operations
- `secrets`: looked up while a node runs, and masked in what is kept; `secret_spellings`: how one may be spelt
"""

from workflow_engine.expressions.compiler import LOOP_NAMES
from workflow_engine.expressions.sandbox import Scope
from workflow_engine.expressions.template import Template, check_template, compile_template

__all__ = ["LOOP_NAMES", "Scope", "Template", "check_template", "compile_template"]
