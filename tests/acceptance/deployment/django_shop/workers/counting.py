"""Counting, as a human reads it."""


def described(count):
    """Return a number of orders as text."""
    return f"{count} order{'s' if count != 1 else ''}"
