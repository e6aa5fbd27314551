"""The spellings in which a secret may stand inside other text, and which secrets are distinctive enough.

Masking a secret means searching for it, so it has to look like nothing else: `shop` or `1` would be found
in half of all texts. And it may be spelt differently: an exception shows it with `repr`, an HTTP library in
Base64, a URL with percent signs. An error about a key file shows only one of its lines, a truncated message
only its beginning.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

SHORTEST = 8
"""Characters of a secret that cannot be mistaken for other text."""

SHORTEST_PLAIN = 16
"""Characters of one made only of words or only of digits, such as `db.internal` or a date."""

SHORTEST_BEGINNING, LONGEST_BEGINNING = 8, 16
"""Characters that identify a truncated secret: half of it, within these bounds."""

_PEM_BOUNDARY = re.compile(r"\s*-{5}(BEGIN|END) [A-Z0-9 ]+-{5}\s*")
_BETWEEN_WORDS = re.compile(r"[\s._@:/-]")
_PERCENT_ESCAPE = re.compile("%[0-9A-F]{2}")

RULE = (
    f"a secret has at least {SHORTEST} characters, and at least {SHORTEST_PLAIN} if it is all words or "
    "all digits"
)


def is_recognisable(secret: str) -> bool:
    """Return whether a secret cannot be mistaken for other text."""
    plain = _BETWEEN_WORDS.sub("", secret)
    return len(secret.strip()) >= (SHORTEST_PLAIN if plain.isalpha() or plain.isdecimal() else SHORTEST)


def whole(secret: str) -> set[str]:
    """Return every spelling of the whole secret: plain, in JSON, Python, URLs, Base64 and hex."""
    spelled: set[str] = set()
    for text in {secret, secret.strip()}:
        encoded = text.encode()
        spelled |= {text, *_quoted(text), *_in_urls(text), *_in_base64(encoded)}
        spelled |= {encoded.hex(), encoded.hex().upper()}
    return spelled


def lines(secret: str) -> set[str]:
    """Return the lines of a secret that has several, without those that only frame a key."""
    found = [line.strip() for line in secret.splitlines()]
    if len(found) < 2:
        return set()
    return {line for line in found if is_recognisable(line) and not _PEM_BOUNDARY.fullmatch(line)}


def beginnings(secret: str) -> Iterator[tuple[str, str]]:
    """Yield the beginning and the whole of each spelling that a text may contain truncated."""
    for text in {secret.strip(), *_quoted(secret.strip()), *lines(secret)}:
        boundary = _PEM_BOUNDARY.match(text)
        start = boundary.end() if boundary else 0
        yield text[: start + max(SHORTEST_BEGINNING, min(LONGEST_BEGINNING, len(text) // 2))], text


def _quoted(text: str) -> set[str]:
    return {
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        repr(text)[1:-1],
        ascii(text)[1:-1],
        repr(text.encode())[2:-1],
    }


def _in_urls(text: str) -> set[str]:
    quoted = {quote(text), quote(text, safe=""), quote_plus(text)}
    return quoted | {_PERCENT_ESCAPE.sub(lambda escape: escape.group().lower(), each) for each in quoted}


def _in_base64(content: bytes) -> Iterator[str]:
    """Yield the secret in Base64, alone and as part of a longer text, as in `Basic` with a user before it.

    Three bytes make four characters, so the position of the secret decides what it looks like. For each of
    the three offsets, this is the run of characters that depends on the secret alone.
    """
    for encode in (b64encode, urlsafe_b64encode):
        alone = encode(content).decode()
        yield alone
        yield alone.rstrip("=")
        for before in range(3):
            first, end = -(-8 * before // 6), 8 * (before + len(content)) // 6
            yield encode(b"\0" * before + content).decode()[first:end]
