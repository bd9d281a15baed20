"""The process's one pool: opened by the first that needs it, closed by the last, or at the process's end."""

from __future__ import annotations

import atexit
import os
import threading
from multiprocessing import util

from . import _logging, _native, errors
from ._native import lib


class _Users:
    """Who has opened the pool and not closed it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.all: set[object] = set()
        self.url: str | None = None


_users = _Users()


def _renew_lock() -> None:
    # Another thread may have held it at the fork.
    _users.lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _close_at_exit() -> None:
    # The library's threads must not call into an interpreter that ends.
    lib.pita_redis_close()
    _logging.remove()


atexit.register(_close_at_exit)
# A child that multiprocessing has forked runs no atexit functions; these it runs.
util.register_after_fork(_users, lambda _: util.Finalize(None, _close_at_exit, exitpriority=0))


def acquire(url: str | None) -> object:
    """Opens the pool, by the environment if `url` is None. What is returned is for :func:`release`."""
    with _users.lock:
        _open(url)
        user = object()
        _users.all.add(user)
        _users.url = url
        return user


def _open(url: str | None) -> None:
    _logging.install()
    errors.check(lib.pita_redis_open(None if url is None else encode(url, "url")))


def release(user: object) -> None:
    """Closes the pool if nobody else has it open. Twice does no harm."""
    with _users.lock:
        if user in _users.all:
            _users.all.remove(user)
            if not _users.all:
                errors.check(lib.pita_redis_close())


def reopen() -> None:
    """Opens a pool again that somebody has closed by the library itself."""
    with _users.lock:
        _open(_users.url)


def is_open() -> bool:
    """Whether the pool is open, by whomever."""
    return lib.pita_redis_stats(_native.new_stats()) == _native.PITA_OK


def start(url: str | None, url_with_autostart: str) -> None:
    """Starts a private server where nothing listens. A pool that is open is opened anew for that, unless Redis answers."""
    with _users.lock:
        was_open = is_open()
        if was_open and _users.url == url and lib.pita_redis_ping() == _native.PITA_OK:
            return
        errors.check(lib.pita_redis_close())
        try:
            _open(url_with_autostart)
            errors.check(lib.pita_redis_close())
        finally:
            if was_open:
                _open(_users.url)


def encode(text: str | bytes, name: str) -> bytes:
    """A C string."""
    if isinstance(text, str):
        text = text.encode()
    elif not isinstance(text, bytes):
        raise TypeError(f"{name} is a {type(text).__name__}, not a str")
    if b"\0" in text:
        raise ValueError(f"{name} {text!r} has a NUL in it")
    return text
