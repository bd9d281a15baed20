"""The process's one pool: opened by the first share, closed when nobody has one any more, or at the process's end."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from multiprocessing import util

from . import _logging, _native, errors
from ._native import lib
from ._values import c_string


class _Shares:
    """Who has the pool open."""

    def __init__(self) -> None:
        #: A handler of a signal or of the log may come back here while the library closes.
        self.lock = threading.RLock()
        self.held: set[object] = set()
        #: Of shares that went without being closed. The garbage collector adds to it at any time, so under no lock.
        self.gone: deque[object] = deque()
        self.url: str | None = None
        self.has_ended = False

    def drop(self, token: object) -> bool:
        """Whether that was the last one."""
        if token not in self.held:
            return False
        self.held.remove(token)
        return not self.held

    def drop_gone(self) -> None:
        while self.gone:
            if self.drop(self.gone.popleft()):
                _close_and_log()


_shares = _Shares()


class Share:
    """Holds the pool open until it is closed, or gone."""

    def __init__(self, url: str | None, *, or_as_it_is: bool = False) -> None:
        """Opens the pool, by the environment if `url` is None.

        Args:
            or_as_it_is: a pool that is open with other settings will do.
        """
        with _shares.lock:
            _shares.drop_gone()
            try:
                _open(url)
            except errors.ConfigError:
                if not (or_as_it_is and _is_open()):
                    raise
            else:
                _shares.url = url
            self._token = object()
            _shares.held.add(self._token)

    def close(self) -> None:
        """Closes the pool if nobody else has it open. Twice does no harm."""
        with _shares.lock:
            _shares.drop_gone()
            if _shares.drop(self._token):
                errors.check(lib.pita_redis_close())

    def __del__(self) -> None:
        # Takes no lock: the thread that runs this may hold it.
        if hasattr(self, "_token"):
            _shares.gone.append(self._token)


def reopen() -> None:
    """Opens the pool again for the shares that there are, where somebody has closed it by the library itself."""
    with _shares.lock:
        _open(_shares.url)


def _open(url: str | None) -> None:
    if _shares.has_ended:
        raise errors.NotOpenError("the interpreter ends")
    _logging.install()
    errors.check(lib.pita_redis_open(None if url is None else c_string(url, "url")))


def _is_open() -> bool:
    return lib.pita_redis_stats(_native.new_stats()) == _native.PITA_OK


def _close_and_log() -> None:
    status = lib.pita_redis_close()
    if status != _native.PITA_OK:
        _logging.logger.log(logging.WARNING, "close: %s", errors.last_error(status))


def _close_at_exit() -> None:
    # The library's threads must not call into an interpreter that ends.
    _shares.has_ended = True
    _close_and_log()
    _logging.remove()


def _renew_lock() -> None:
    # Another thread may have held it at the fork.
    _shares.lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)
atexit.register(_close_at_exit)
# A child that multiprocessing has forked runs no atexit functions; these it runs.
util.register_after_fork(_shares, lambda _: util.Finalize(None, _close_at_exit, exitpriority=0))
