"""Why a request has failed, in the words of the node's failure."""

from __future__ import annotations

from typing import Any


class CallFailed(Exception):
    """A request that failed; `type` is the code by which routes and retries know it."""

    def __init__(
        self,
        type: str,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.status = status
        self.retry_after = retry_after
        """Seconds that the server asks to wait."""
        self.details = details or {}


ADDRESS_REFUSED = "ADDRESS_REFUSED"
CONNECTION_FAILED = "CONNECTION_FAILED"
HTTP_STATUS = "HTTP_STATUS"
INTERRUPTED = "INTERRUPTED"
INVALID_REQUEST = "INVALID_REQUEST"
INVALID_RESPONSE = "INVALID_RESPONSE"
NAME_NOT_FOUND = "NAME_NOT_FOUND"
REDIRECT_REFUSED = "REDIRECT_REFUSED"
TIMEOUT = "TIMEOUT"
TLS_FAILED = "TLS_FAILED"
TOO_LARGE = "TOO_LARGE"
