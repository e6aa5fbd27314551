"""Work for a processor, the same for the engine's nodes and for Celery's tasks."""

from __future__ import annotations


def fib(n: int) -> int:
    """Return a Fibonacci number the slow way; each step up takes 1.6 times as long."""
    return n if n < 2 else fib(n - 1) + fib(n - 2)
