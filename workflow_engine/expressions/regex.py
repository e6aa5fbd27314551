r"""Regular expressions in time that is linear in the text: RE2's, which never go back.

Python's `re` takes longer than the age of the world for `(a+)+$` and thirty letters, so it is not used. RE2
is the optional package google-re2: it has no wheel for Alpine Linux, where the engine is to install without a
compiler. Its time is the length of the text times the size of the compiled pattern, and both are paid for
before a search. What is left are replacements whose every match looks far ahead, as in `a(.*b)?`: they pay by
the processor time that they take.
"""

from __future__ import annotations

import functools
import re
import time
from typing import Any

from workflow_engine.expressions.sandbox import Evaluation, RefusedError, kind, text_of

MAX_PATTERN = 1_000
"""Characters of a pattern."""

MAX_MEMORY = 1_048_576
"""Bytes that RE2 may use for one pattern; a larger pattern is refused."""

WORK_PER_STEP = 50
"""Bytes of text times instructions of the pattern that one step pays for; about a microsecond."""

STEPS_PER_MATCH = 5

_MISSING = (
    "regular expressions need google-re2; install 'celery-workflow-engine[regex]' wherever workflows are "
    "deployed, and on every worker"
)
_GROUP = re.compile(r"\\(?:([0-9])|g<(\w+)>|(\\)|)")


@functools.cache
def _re2() -> Any:
    try:
        import re2
    except ImportError:
        raise RefusedError(_MISSING) from None
    return re2


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    re2 = _re2()
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0].decode(errors="replace") if error.args else ""
        raise RefusedError(f"{pattern[:60]!r} is no pattern of RE2: {said[:200]}") from None


def _pattern(run: Evaluation, pattern: Any, text: str) -> Any:
    """Compile a pattern, and pay for one search of the text. Raises RefusedError."""
    if not isinstance(pattern, str):
        raise RefusedError(f"a pattern is text, not {kind(pattern)}")
    if len(pattern) > MAX_PATTERN:
        raise RefusedError(f"a pattern has at most {MAX_PATTERN:,} characters")
    run.spend(len(pattern))
    compiled = _compiled(pattern)
    size = len(text) if text.isascii() else len(text.encode())
    run.spend(1 + compiled.programsize * size // WORK_PER_STEP)
    return compiled


def regex_match(run: Evaluation, value: Any, /, pattern: Any) -> bool:
    """Return whether the pattern matches anywhere in the text, as in JSON Schema; `^…$` means all of it."""
    text = text_of(run, value)
    return _pattern(run, pattern, text).search(text) is not None


def regex_replace(run: Evaluation, value: Any, /, pattern: Any, replacement: Any = "") -> str:
    r"""Replace each match; `\1` or `\g<name>` in the replacement is what a group matched, `\0` all of it."""
    text, template = text_of(run, value), text_of(run, replacement)
    compiled = _pattern(run, pattern, text)
    parts = _template(template, compiled)
    pieces: list[str] = []
    end = 0
    started = time.thread_time()
    for match in compiled.finditer(text):
        run.spend(STEPS_PER_MATCH + int((time.thread_time() - started) * 1_000_000))
        filled = [part if isinstance(part, str) else match[part[0]] or "" for part in parts]
        run.produce_text(sum(map(len, filled)))
        pieces += text[end : match.start()], *filled
        end = match.end()
        started = time.thread_time()
    pieces.append(text[end:])
    run.produce_text(sum(map(len, pieces)))
    return "".join(pieces)


def _template(template: str, compiled: Any) -> list[str | tuple[int | str]]:
    """Return the literal parts of a replacement and, each in a tuple, the groups between them."""
    parts: list[str | tuple[int | str]] = []
    end = 0
    for found in _GROUP.finditer(template):
        number, name, backslash = found.groups()
        parts.append(template[end : found.start()])
        end = found.end()
        if backslash:
            parts.append(backslash)
        elif number is not None and int(number) <= compiled.groups:
            parts.append((int(number),))
        elif name in compiled.groupindex:
            parts.append((name,))
        else:
            raise RefusedError(
                rf"`{found[0] or template[:40]}` in a replacement names no group of the pattern; "
                r"write `\1`, `\g<name>`, or `\\` for a backslash"
            )
    parts.append(template[end:])
    return parts
