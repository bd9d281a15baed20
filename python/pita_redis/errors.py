"""What can go wrong: one exception a status of the library, each a :class:`PitaError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _native
from ._logging import interrupts
from ._native import lib

if TYPE_CHECKING:
    import numpy as np


class PitaError(Exception):
    """A call of the library failed.

    Attributes:
        status: the number of the status, below 0, such as -5.
        name: its name, such as "PITA_ERR_TIMEOUT".
        message: what happened, in words.
        statuses: of a batch, the status of each request, int32; otherwise None.
    """

    status: int = 0
    statuses: np.ndarray | None = None

    @property
    def name(self) -> str:
        return status_name(self.status)

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


class InvalidArgumentError(PitaError, ValueError):
    """An argument is out of range, too long, or contradicts another. Nothing was done."""

    status = _native.PITA_ERR_INVALID_ARGUMENT


class NotOpenError(PitaError, RuntimeError):
    """The pool is closed."""

    status = _native.PITA_ERR_NOT_OPEN


class ConfigError(PitaError, ValueError):
    """The URL or the environment cannot be understood, or the process's pool is open with other settings."""

    status = _native.PITA_ERR_CONFIG


class UnavailableError(PitaError, ConnectionError):
    """No connection to Redis. Nothing was stored or taken."""

    status = _native.PITA_ERR_UNAVAILABLE


class DeadlineError(PitaError, TimeoutError):
    """Time ran out. Nothing was stored or taken."""

    status = _native.PITA_ERR_TIMEOUT


class AuthError(PitaError, ConnectionError):
    """Redis refused the user, the password, or the user's rights."""

    status = _native.PITA_ERR_AUTH


class ServerError(PitaError):
    """Redis answered with an error, such as WRONGTYPE."""

    status = _native.PITA_ERR_REDIS


class UncertainError(PitaError, ConnectionError):
    """The records were sent, but the answer was lost: they may or may not be stored."""

    status = _native.PITA_ERR_UNCERTAIN


class BadRecordError(PitaError):
    """An element of the list is no record. Nothing was taken."""

    status = _native.PITA_ERR_BAD_RECORD


class BufferTooSmallError(PitaError):
    """The list does not fit into the buffer. Nothing was taken."""

    status = _native.PITA_ERR_BUFFER_TOO_SMALL


class GapError(PitaError):
    """The token index is past the end of the list. Not stored."""

    status = _native.PITA_ERR_GAP


class QueueFullError(PitaError):
    """The write-behind queue stayed full. Not stored."""

    status = _native.PITA_ERR_QUEUE_FULL


class UnsupportedError(PitaError, NotImplementedError):
    """This build or machine cannot do it. Nothing was done."""

    status = _native.PITA_ERR_UNSUPPORTED


class CudaError(PitaError, RuntimeError):
    """The CUDA driver reported an error."""

    status = _native.PITA_ERR_CUDA


class PanicError(PitaError, RuntimeError):
    """A bug in the library. Please report it with the message."""

    status = _native.PITA_ERR_PANIC


BY_STATUS = {
    error.status: error
    for error in (
        InvalidArgumentError,
        NotOpenError,
        ConfigError,
        UnavailableError,
        DeadlineError,
        AuthError,
        ServerError,
        UncertainError,
        BadRecordError,
        BufferTooSmallError,
        GapError,
        QueueFullError,
        UnsupportedError,
        CudaError,
        PanicError,
    )
}


def status_name(status: int) -> str:
    """The name of a status, such as "PITA_ERR_TIMEOUT"."""
    return lib.pita_status_name(status).decode()


def last_error(status: int) -> PitaError:
    """The exception for a call of this thread that has just failed."""
    message = lib.pita_last_error().decode()
    if status == _native.PITA_ERR_NOT_OPEN:
        # The library's words are for those who call it themselves.
        message = "the pool is closed, with its last RedisManager: make a new one"
    error = BY_STATUS.get(status, PitaError)(message)
    error.status = status
    return error


def check(status: int) -> None:
    """Raises if a call failed, or was interrupted."""
    if interrupts:
        raise interrupts.popleft()
    if status != _native.PITA_OK:
        raise last_error(status)
