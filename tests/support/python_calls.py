"""The calls of Python functions in a block, by name: exact, where times say more about the machine."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def calls_into(*modules: str) -> Iterator[Counter[str]]:
    """Count the calls of the functions of these modules, and of what is in them, that others make.

    Without modules, count every call. Other threads are not counted.
    """
    called: Counter[str] = Counter()
    within = tuple(f"{module}." for module in modules)

    def is_inside(frame: FrameType | None) -> bool:
        return frame is not None and f"{frame.f_globals.get('__name__')}.".startswith(within)

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (not modules or (is_inside(frame) and not is_inside(frame.f_back))):
            called[frame.f_code.co_name] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield called
    finally:
        sys.setprofile(before)
