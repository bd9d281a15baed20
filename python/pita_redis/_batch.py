"""One decode step, from Python's objects to a pita_batch_t.

A step's call should cost microseconds, so what it needs is made once and used again: the struct, and the arrays it points to.
"""

from __future__ import annotations

import ctypes
import enum
from array import array
from collections.abc import Sequence
from typing import Any, Union

import numpy as np

from . import _native
from ._logits import Logits, view
from ._values import c_string, whole

#: A request's id. Bytes are taken as they are: UTF-8.
RequestId = Union[str, bytes]


class Metric(enum.IntFlag):
    """What to compute. What is not asked for is 0."""

    NORMALIZATION = _native.PITA_METRIC_NORMALIZATION
    ENTROPY = _native.PITA_METRIC_ENTROPY
    ALL = _native.PITA_METRIC_ALL


class Numbers:
    """An array of the struct's: numbers of one type, one for each request."""

    def __init__(self, name: str, dtype: type, room: int) -> None:
        self.name, self.array = name, np.zeros(room, dtype)
        self.address = address(self.array)
        self.is_real = dtype is np.float32
        self._code = self.array.dtype.char
        self._from_list: array | None = None

    def fill(self, values: Any, count: int) -> int | None:
        """Copies the numbers, or a single one for all; returns where they are."""
        if values is None:
            return None
        if type(values) is list and len(values) == count:
            # A third of the time that numpy takes to look at each one.
            try:
                self._from_list = array(self._code, values)
            except (TypeError, OverflowError):
                pass  # What is wrong is said below.
            else:
                return self._from_list.buffer_info()[0]
        given = np.asarray(values)
        if given.ndim and given.shape != (count,):
            raise ValueError(f"{self.name} has the shape {given.shape}, not ({count},)")
        if given.size and given.dtype != self.array.dtype:
            self._check(given)
            if given.dtype.itemsize > 4:
                # Beyond an f32 it is inf, which the library refuses in words.
                with np.errstate(over="ignore"):
                    self.array[:count] = given
                return self.address
        self.array[:count] = given
        return self.address

    def _check(self, given: np.ndarray) -> None:
        # A whole number beyond 64 bits is an object of numpy's.
        if given.dtype.kind not in ("fiu" if self.is_real else "iuO"):
            raise TypeError(f"{self.name} are {given.dtype}, not {'' if self.is_real else 'whole '}numbers")
        if not self.is_real:
            bounds = np.iinfo(self.array.dtype)
            for number in (given.min(), given.max()):
                whole(number, f"a number of {self.name}", int(bounds.min), int(bounds.max))


class Batch:
    """A pita_batch_t with room for some requests, and all that it points to but the logits. For one call at a time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.count = 0
        self._ids = (ctypes.c_char_p * room)()
        self._ids_are: list[Any] | None = None
        self._row_of = Numbers("row_of", np.uintp, room)
        self._temperatures = Numbers("temperatures", np.float32, room)
        self._token_indices = Numbers("token_indices", np.int64, room)
        self._metrics = Numbers("metrics", np.uint32, room)
        self._statuses = np.zeros(room, np.int32)
        self.struct = _native.pita_batch_t(
            struct_size=ctypes.sizeof(_native.pita_batch_t), statuses=address(self._statuses)
        )
        self._owner: Any = None

    @property
    def statuses(self) -> np.ndarray:
        """A copy."""
        return self._statuses[: self.count].copy()

    def fill(
        self,
        count: int,
        logits: Logits,
        req_ids: Sequence[Any] | None,
        temperatures: Any,
        token_indices: Any,
        row_of: Any,
        metrics: Any,
    ) -> None:
        self.count = count
        struct = self.struct
        struct.len = count
        struct.logits, struct.dtype, struct.device, struct.rows, struct.vocab_size, struct.row_stride, stream = logits[:7]
        struct.stream = stream or None
        self._owner = logits.owner
        if req_ids is None:
            struct.req_ids = None
        else:
            self._fill_ids(req_ids)
            struct.req_ids = self._ids
        struct.row_of = self._row_of.fill(row_of, count)
        struct.temperatures = self._temperatures.fill(temperatures, count)
        struct.token_indices = self._token_indices.fill(token_indices, count)
        struct.metrics = self._metrics.fill(metrics, count)

    def _fill_ids(self, req_ids: Sequence[Any]) -> None:
        if isinstance(req_ids, (str, bytes)):
            raise TypeError("req_ids is a single id, not a sequence of them")
        # From step to step the requests are mostly the same.
        given = list(req_ids)
        if given != self._ids_are:
            self._ids_are = None
            self._ids[: self.count] = _encoded(given)
            self._ids_are = given

    def release(self) -> None:
        """Lets go of the logits, and leaves the rest to the next call."""
        self._owner = None
        self.struct.logits = None
        if len(_free) < _MOST_FREE:
            _free.append(self)


# The one that was used last comes last. A call within a call, as from a log handler, and another thread's get another one.
_free: list[Batch] = []
_MOST_FREE = 16


def borrow(
    logits: Any,
    req_ids: Sequence[RequestId | None] | None,
    temperatures: Any = None,
    token_indices: Any = None,
    row_of: Any = None,
    metrics: Any = None,
    stream: int | None = None,
) -> tuple[Batch, Logits]:
    """A batch of these arguments, to be released after the call."""
    rows = view(logits, stream)
    if req_ids is not None:
        count = len(req_ids)
    else:
        count = rows.rows if row_of is None else len(row_of)
    if row_of is None and count != rows.rows:
        raise ValueError(f"{count} req_ids for {rows.rows} rows of logits; row_of says which row is whose")
    try:
        batch = _free.pop()
    except IndexError:
        batch = Batch(max(count, 32))
    if batch.room < count:
        # It grows, rather than being one of many sizes.
        batch = Batch(2 * count)
    try:
        batch.fill(count, rows, req_ids, temperatures, token_indices, row_of, metrics)
    except BaseException:
        batch.release()
        raise
    return batch, rows


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _encoded(req_ids: Sequence[RequestId | None]) -> Sequence[bytes | None]:
    try:
        # All of one type, as usual: a loop in C.
        encoded = req_ids if type(req_ids[0]) is bytes else [*map(str.encode, req_ids)]
        if b"\0" not in b"".join(encoded):
            return encoded
    except (TypeError, IndexError, UnicodeEncodeError):
        pass
    return [None if req_id is None else c_string(req_id, "req_id") for req_id in req_ids]
