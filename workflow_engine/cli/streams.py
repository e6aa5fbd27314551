"""Standard streams, for terminals of any character set.

On a stream whose character set lacks a character, drawings use ASCII and other text uses escapes. No output
raises a UnicodeEncodeError.
"""

from __future__ import annotations

import codecs
import sys

INSTEAD = "drawn-with-ascii"
"""The name of the error handler, and of ASCII by a name that click does not replace with UTF-8."""

DRAWINGS = {
    "✔": "+", "✘": "x", "▶": ">", "◷": "~", "↻": "@", "○": "o", "⊘": "/",
    "└": "`", "├": "|", "┬": "-", "┴": "-", "┼": "+", "┐": ".", "┘": "'", "┌": ".", "│": "|", "─": "-",
    "━": "=", "←": "<-", "→": "->", "·": "-", "…": "...",
}  # fmt: skip


def use_any_terminal() -> None:
    """Make standard output and standard error accept every character."""
    codecs.register_error(INSTEAD, _draw_with_ascii)
    codecs.register(_ascii_by_another_name)
    for stream in (sys.stdout, sys.stderr):
        encoding = getattr(stream, "encoding", None)
        if encoding is None or not hasattr(stream, "reconfigure"):
            continue  # closed, or replaced by something without bytes
        is_ascii = codecs.lookup(encoding).name == "ascii"
        stream.reconfigure(encoding=INSTEAD if is_ascii else encoding, errors=INSTEAD)


def standard_input() -> str:
    """Return all of standard input. Raises UnicodeDecodeError if it is not UTF-8."""
    return sys.stdin.buffer.read().decode("utf-8-sig")


def _draw_with_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(DRAWINGS.get(each) or _escaped(each) for each in missing), error.end


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode("ascii")


def _ascii_by_another_name(name: str) -> codecs.CodecInfo | None:
    if name.replace("_", "-") != INSTEAD:
        return None
    ascii_codec = codecs.lookup("ascii")
    return codecs.CodecInfo(
        name=INSTEAD,
        encode=ascii_codec.encode,
        decode=ascii_codec.decode,
        incrementalencoder=ascii_codec.incrementalencoder,
        incrementaldecoder=ascii_codec.incrementaldecoder,
        streamreader=ascii_codec.streamreader,
        streamwriter=ascii_codec.streamwriter,
    )
