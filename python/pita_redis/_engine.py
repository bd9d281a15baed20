"""What the engines' processors share: the lists of requests, and a store that never stops an engine."""

from __future__ import annotations

import functools
import logging
import math
import weakref
from collections.abc import Sequence
from typing import Any

from . import _native, _pool, errors
from ._batch import Metric, borrow
from ._logging import Limited
from ._native import lib

#: Below this temperature engines take the likeliest token and divide by 1.
GREEDY = 1e-5
#: Bytes of a request's id.
LONGEST_ID = 1024


def wanted_metrics(normalization_constants: Any, entropy: Any) -> int:
    """The metrics of PITA's two switches; 0 where neither is on."""
    return (Metric.NORMALIZATION if normalization_constants else 0) | (Metric.ENTROPY if entropy else 0)


class Sample:
    """The list of one sample of a request: the sample's number is in its name, but for the first."""

    __slots__ = ("id", "is_over", "metrics", "missing", "temperature")

    def __init__(self, req_id: str, number: int, temperature: float, metrics: int) -> None:
        self.id = _pool.encode(req_id if number == 0 else f"{req_id}:{number}", "req_id")
        if not 1 <= len(self.id) <= LONGEST_ID:
            raise ValueError(f"req_id has {len(self.id)} bytes, not 1 to {LONGEST_ID}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature is {temperature}, not finite and at least 0")
        self.temperature = temperature if temperature >= GREEDY else 1.0
        self.metrics = metrics
        #: The index of a token that could not be stored.
        self.missing: int | None = None
        #: Nothing more of it can be stored, or should be.
        self.is_over = False

    def anew(self) -> Sample:
        """The same for another generation."""
        other = Sample.__new__(Sample)
        other.id, other.temperature, other.metrics = self.id, self.temperature, self.metrics
        other.missing, other.is_over = None, False
        return other

    def takes(self, index: int) -> bool:
        """Whether a record with this index still has a place. Behind a missing one there is none."""
        if self.missing is not None and index > self.missing:
            self.is_over = True
        return not self.is_over


class Store:
    """Stores the records of decode steps. A fault is logged and counted; nothing is ever raised."""

    def __init__(self) -> None:
        #: Records that were not stored.
        self.failures = 0
        self._is_open = False
        self._copies_to_host = False
        self._faults = Limited()

    def store(self, logits: Any, samples: Sequence[Sample], rows: Sequence[int], indices: Sequence[int], stream: int | None = None) -> None:
        """Computes and stores one record for each sample.

        Args:
            logits: shape (rows, vocabulary).
            samples: whose tokens they are.
            rows: the row of each sample.
            indices: the token index of each sample.
            stream: the CUDA stream of the logits; None: torch's current one.
        """
        try:
            self._store(logits, samples, rows, indices, stream)
        except Exception as error:
            self.failures += len(samples)
            for sample, index in zip(samples, indices):
                sample.missing = index
            self._faults.log(logging.ERROR, "metrics of %d tokens were not stored: %s", len(samples), error)

    def _store(self, logits: Any, samples: Sequence[Sample], rows: Any, indices: Any, stream: int | None) -> None:
        if not self._is_open:
            self._open()
        if self._copies_to_host:
            logits, stream = logits.cpu(), None
        ids, temperatures, metrics = zip(*((sample.id, sample.temperature, sample.metrics) for sample in samples))
        batch, _ = borrow(logits, ids, temperatures, indices, rows, metrics, stream)
        try:
            status = lib.pita_store_logits_metrics_batch(batch.struct)
            if status == _native.PITA_ERR_NOT_OPEN:
                _pool.reopen()
                status = lib.pita_store_logits_metrics_batch(batch.struct)
            if status == _native.PITA_OK:
                return
            error = errors.last_error(status)
            statuses = batch.statuses.tolist()
        finally:
            batch.release()
        if status == _native.PITA_ERR_UNSUPPORTED and not self._copies_to_host and hasattr(logits, "cpu"):
            self._faults.log(logging.WARNING, "logits are copied to the host, step by step: %s", error.message)
            self._copies_to_host = True
            self._store(logits, samples, rows, indices, stream)
        else:
            self._count(samples, indices, statuses, error)

    def _open(self) -> None:
        """Opens the process's pool by the environment, for as long as this lives. One that is open with other settings is used
        as it is."""
        try:
            weakref.finalize(self, _pool.release, _pool.acquire(None))
        except errors.ConfigError:
            if not _pool.is_open():
                raise
        self._is_open = True

    def _count(self, samples: Sequence[Sample], indices: Sequence[int], statuses: Sequence[int], error: errors.PitaError) -> None:
        for sample, index, status in zip(samples, indices, statuses):
            if status == _native.PITA_OK:
                continue
            self.failures += 1
            if status == _native.PITA_ERR_GAP:
                # Its list was taken, or has expired: nothing of it has a place any more.
                sample.is_over = True
            elif status != _native.PITA_ERR_UNCERTAIN:
                sample.missing = index
        # A step past the end of a request whose list was taken is as it should be.
        level = logging.INFO if error.status == _native.PITA_ERR_GAP else logging.WARNING
        self._faults.log(level, "a token's metrics were not stored, and so none behind it in its request: %s", error)


@functools.cache
def store_of_process() -> Store:
    """For processors that come and go with their requests."""
    return Store()
