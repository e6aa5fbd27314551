"""Expressions `{{ … }}` in configs: compiled once with their definition, evaluated while a node runs.

`template` finds them in a value, `syntax` parses them with Jinja2, `compiler` turns the syntax tree into
closures over the operations of `sandbox`, `filters` and `text`. What is not listed there does not exist,
and every operation is bounded in what it may produce.
"""

from workflow_engine.expressions.sandbox import Scope
from workflow_engine.expressions.template import Template, check_template, compile_template

__all__ = ["Scope", "Template", "check_template", "compile_template"]
