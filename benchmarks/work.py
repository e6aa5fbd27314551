"""Work for a processor, the same for the engine's nodes and for Celery's tasks."""

from __future__ import annotations


def fib(n: int) -> int:
    """A Fibonacci number the slow way; each step up takes a factor of 1.6 longer."""
    return n if n < 2 else fib(n - 1) + fib(n - 2)
