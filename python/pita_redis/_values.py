"""Python's values as C's: text, whole numbers, seconds. What does not fit is refused in words."""

from __future__ import annotations

import operator
from typing import Any


def c_string(text: str | bytes, name: str) -> bytes:
    """A C string of UTF-8. Bytes are taken as they are."""
    if isinstance(text, str):
        try:
            text = text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} {text!r} cannot be UTF-8: {error.reason}") from None
    elif not isinstance(text, bytes):
        raise TypeError(f"{name} is a {type(text).__name__}, not a str")
    if b"\0" in text:
        raise ValueError(f"{name} {text!r} has a NUL in it")
    return text


def whole(value: Any, name: str, least: int, most: int) -> int:
    """A whole number within bounds: ctypes would cut off what does not fit."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a {type(value).__name__}, not a whole number") from None
    if not least <= number <= most:
        raise ValueError(f"{name} is {number}, not from {least} to {most}")
    return number


def seconds(value: float, name: str) -> float:
    """A span of time, at most as long as the library can wait: 49 days."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a {type(value).__name__}, not a number of seconds")
    if not value >= 0:
        raise ValueError(f"{name} is {value}, not 0 or more seconds")
    return min(value, (2**32 - 1) / 1000)
