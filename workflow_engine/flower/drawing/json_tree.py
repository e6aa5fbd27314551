"""A JSON value as HTML that unfolds without a script. Everything in it is text: nothing of it is markup."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tornado.escape import xhtml_escape

from workflow_engine.presentation.phrases import quantity, sanitise

MOST_PARTS = 2_000
"""Keys and items that unfold; a value with more of them is shown as text."""

OPEN_PARTS = 12
"""Keys or items of an object or a list that is unfolded from the start."""

LONGEST_TEXT = 65_536
"""Characters of a value that is shown; a longer one is shown as text, and cut off."""

DEEPEST = 20
"""Levels that unfold; what is deeper is shown as text."""


def json_tree(value: Any) -> str:
    """Return the HTML of a value."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    if len(text) <= LONGEST_TEXT and _parts(value, MOST_PARTS) <= MOST_PARTS:
        return f'<div class="json">{_node(value, 0)}</div>'
    cut = f"\n… {len(text):,} characters in all" if len(text) > LONGEST_TEXT else ""
    return f'<pre class="json" tabindex="0">{_text(text[:LONGEST_TEXT] + cut)}</pre>'


def _node(value: Any, depth: int) -> str:
    if depth == DEEPEST:
        return _leaf(value)
    if isinstance(value, dict) and value:
        keys = ((f'<span class="json-key">{_text(key)}</span>: ', each) for key, each in value.items())
        return _branch(f"{{}} {quantity(len(value), 'key')}", keys, len(value), depth)
    if isinstance(value, list) and value:
        items = ((f'<span class="json-index">{index}</span>: ', each) for index, each in enumerate(value))
        return _branch(f"[] {quantity(len(value), 'item')}", items, len(value), depth)
    return _leaf(value)


def _branch(summary: str, parts: Iterable[tuple[str, Any]], size: int, depth: int) -> str:
    is_open = " open" if depth == 0 or (size <= OPEN_PARTS and depth < 3) else ""
    lines = "".join(f"<li>{name}{_node(each, depth + 1)}</li>" for name, each in parts)
    return f"<details{is_open}><summary>{summary}</summary><ul>{lines}</ul></details>"


def _leaf(value: Any) -> str:
    kind = {str: "text", bool: "word", type(None): "word"}.get(type(value), "number")
    if isinstance(value, dict | list):
        kind = "word"
    return f'<span class="json-{kind}">{_text(json.dumps(value, ensure_ascii=False))}</span>'


def _text(text: str) -> str:
    return xhtml_escape(sanitise(text))


def _parts(value: Any, limit: int) -> int:
    """Count keys and items, up to one more than the limit."""
    pending, count = [value], 0
    while pending and count <= limit:
        each = pending.pop()
        if isinstance(each, dict | list):
            count += len(each)
            pending.extend(each.values() if isinstance(each, dict) else each)
    return count
