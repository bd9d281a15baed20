"""The library's log lines, in Python's logging, and fewer lines where one fault makes many."""

from __future__ import annotations

import logging
import time
from collections import deque

from . import _native

logger = logging.getLogger("pita_redis")

_LEVELS = {
    _native.PITA_LOG_ERROR: logging.ERROR,
    _native.PITA_LOG_WARNING: logging.WARNING,
    _native.PITA_LOG_INFO: logging.INFO,
    _native.PITA_LOG_DEBUG: logging.DEBUG,
}


#: What a handler has raised while the library called back, such as KeyboardInterrupt: ctypes would drop it.
interrupts: deque[BaseException] = deque()


@_native.LogCallback
def _log(level: int, message: bytes, user: int | None) -> None:
    try:
        logger.log(_LEVELS.get(level, logging.WARNING), "%s", message.decode("utf-8", "replace"))
    except Exception:
        raise
    except BaseException as interrupt:
        interrupts.append(interrupt)


def install() -> None:
    """Hands the library's lines to the logger "pita_redis"."""
    _native.lib.pita_set_log_callback(_log, None)


def remove() -> None:
    """Silences the library."""
    _native.lib.pita_set_log_callback(_native.LogCallback(), None)


class Limited:
    """Of each kind ten lines in ten seconds; then the next one says how many were left out."""

    LINES, SECONDS = 10, 10.0

    def __init__(self) -> None:
        # By the kind: since when lines are counted, and how many there were.
        self._kinds: dict[object, tuple[float, int]] = {}

    def log(self, level: int, message: str, *arguments: object, kind: object = None, exc_info: bool = False) -> None:
        """Lines are of a kind if their `message` and `kind` are the same."""
        now = time.monotonic()
        since, lines = self._kinds.get((message, kind), (now, 0))
        left_out = ""
        if now - since >= self.SECONDS:
            if lines > self.LINES:
                left_out = f" ({lines - self.LINES} like this were left out)"
            since, lines = now, 0
        self._kinds[message, kind] = since, lines + 1
        if lines < self.LINES:
            logger.log(level, message + "%s", *arguments, left_out, exc_info=exc_info)
