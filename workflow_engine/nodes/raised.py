"""A node's exception in the forms that leave its process: the traceback as text, and a copy of the exception.

The journal keeps the text. Celery gets the copy, and passes it to signals, events, metrics and logs.
Neither has the frames with which the engine called the node.
"""

from __future__ import annotations

import io
import pickle
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, cast

ENGINE = __name__.partition(".")[0]
NODES_OF_OUR_OWN = f"{ENGINE}.demo"
"""Nodes in the engine's package whose frames count as a team's."""

LARGEST_COPY = 64 * 1024
"""Bytes of a pickled exception, which a node's process sends to its parent; and characters of its texts."""

DEEPEST_SHOWN = 100
"""Innermost frames of a traceback that leave the node's process."""


def _unmasked(text: str) -> str:
    return text


@dataclass(frozen=True)
class Raised:
    """An exception that a node raised, and the mask for the secrets that the node had read."""

    error: BaseException
    message: str = ""
    """The text in the journal."""
    mask: Callable[[str], str] = _unmasked

    def copy(self) -> BaseException | None:
        """Return an exception of the same type and message that may leave the process.

        It has no secrets, is bounded in size and can be unpickled. It keeps the exceptions that led to it
        unless their text contains a secret. None if the type cannot be rebuilt that way.
        """
        for original in (self._itself, self._with_message_only):
            try:
                copy: Any = pickle.loads(_pickled(original()))  # noqa: S301 - pickled here
                if type(copy) is type(self.error) and self._may_show(copy):
                    return self._with_traceback(copy)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:  # noqa: BLE001, S110 - the type is foreign code that may not support this
                pass
        return None

    def _itself(self) -> BaseException:
        return self.error

    def _with_message_only(self) -> BaseException:
        kind: Any = type(self.error)
        return cast("BaseException", kind(self.message))

    def traceback(self) -> TracebackType | None:
        """Return the innermost frames of the node's own code."""
        frames = list(_links(own_traceback(self.error)))
        return frames[max(0, len(frames) - DEEPEST_SHOWN)] if frames else None

    def _may_show(self, copy: BaseException) -> bool:
        text = str(copy) or type(copy).__name__
        return text == self.message and self._is_clean(repr(copy))

    def _is_clean(self, text: str) -> bool:
        return len(text) <= LARGEST_COPY and self.mask(text) == text

    def _with_traceback(self, copy: BaseException) -> BaseException:
        if self._is_clean(traceback_text(self.error)):
            copy.__cause__, copy.__context__ = self.error.__cause__, self.error.__context__
            copy.__suppress_context__ = self.error.__suppress_context__
        return copy.with_traceback(self.traceback())


def traceback_text(error: BaseException) -> str:
    """Return the traceback of an exception as Python prints it, starting at the node's own code."""
    try:
        return "".join(traceback.format_exception(type(error), error, own_traceback(error)))
    except Exception as failure:  # noqa: BLE001 - an exception may be as broken as the code that raises it
        return f"{type(error).__name__}: its traceback cannot be formatted ({type(failure).__name__})\n"


def own_traceback(error: BaseException) -> TracebackType | None:
    """Return the traceback from the first frame that is not the engine's.

    An exception that the engine itself raised keeps its whole traceback.
    """
    links = _links(error.__traceback__)
    return next((link for link in links if not _is_engine(link.tb_frame)), error.__traceback__)


def _links(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _is_engine(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return _is_in(module, ENGINE) and not _is_in(module, NODES_OF_OUR_OWN)


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


class _Bounded(io.BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > LARGEST_COPY:
            raise ValueError(f"more than {LARGEST_COPY} bytes")
        return super().write(data)


def _pickled(error: BaseException) -> bytes:
    """Pickle an exception. Raises ValueError if the result is too large, and any error of its type."""
    file = _Bounded()
    pickle.Pickler(file, pickle.HIGHEST_PROTOCOL).dump(error)
    return file.getvalue()
