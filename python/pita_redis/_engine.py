"""What the engines' processors share: the lists of requests, and a store that never stops an engine."""

from __future__ import annotations

import functools
import logging
import math
import sys
import weakref
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from . import _native, _pool, errors
from ._batch import Batch, Metric, borrow
from ._logging import Limited
from ._native import lib
from ._values import c_string

#: Below this temperature engines take the likeliest token and divide by 1.
GREEDY = 1e-5
#: Bytes of a request's id.
LONGEST_ID = 1024


def wanted_metrics(normalization_constants: Any, entropy: Any) -> int:
    """The metrics of PITA's two switches; 0 where neither is on.

    Raises:
        ValueError: one is neither a bool nor 0 nor 1 nor None; over HTTP "false" is easily sent.
    """
    for name, value in (("normalization_constants", normalization_constants), ("entropy", entropy)):
        if value not in (None, False, True):
            raise ValueError(f"{name} is {value!r}, not true or false")
    return (Metric.NORMALIZATION if normalization_constants else 0) | (Metric.ENTROPY if entropy else 0)


# So far engines that schedule ahead run past a request's end.
_STEPS_PAST_END = 4

# By its list: the sample that came last.
_writers: weakref.WeakValueDictionary[bytes, Sample] = weakref.WeakValueDictionary()
_lines = Limited()


class Sample:
    """The list of one sample of a request: the sample's number is in its name, but for the first."""

    __slots__ = ("__weakref__", "_gone_at", "_has_other_writer", "_is_over", "_missing", "_request", "id", "metrics", "temperature")

    def __init__(self, req_id: str, number: int, temperature: float, metrics: int) -> None:
        self.id = c_string(req_id if number == 0 else f"{req_id}:{number}", "req_id")
        if not 1 <= len(self.id) <= LONGEST_ID:
            raise ValueError(f"req_id has {len(self.id)} bytes, not 1 to {LONGEST_ID}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature is {temperature}, not finite and at least 0")
        self.temperature = temperature if temperature >= GREEDY else 1.0
        self.metrics = metrics
        # The index of a token that could not be stored.
        self._missing: int | None = None
        # The index at which its list was found gone.
        self._gone_at: int | None = None
        self._is_over = False
        self._has_other_writer = False
        self._request: object = None

    def begin(self, request: object = None, *, is_resumed: bool = False) -> None:
        """From now on it writes its list. Another request's sample that wrote there has ended, or should have.

        Args:
            request: what the engine's request is known by: an object that is its alone, or its name; None: not known.
            is_resumed: the request has run before. It takes no list from another one that runs now.
        """
        self._request = request
        before = _writers.get(self.id)
        if before is not None and not before._is_of(request):
            if is_resumed and request is not None and not before._is_over:
                self._has_other_writer = True
                return
            before._has_other_writer = True
        _writers[self.id] = self

    def _is_of(self, request: object) -> bool:
        return request is not None and (self._request is request or (isinstance(request, str) and self._request == request))

    def takes(self, index: int) -> bool:
        """Whether a record with this index still has a place. Behind a missing one there is none."""
        if not self._is_over:
            if self._has_other_writer:
                message = "%s: two requests at once have this req_id; one of them has no more metrics"
                _lines.log(logging.ERROR, message, self)
                self._is_over = True
            elif self._missing is not None:
                if index > self._missing:
                    self._is_over = True
                else:
                    # It comes once more, such as with the next chunk of a prefill.
                    self._missing = None
        elif self._gone_at is not None and index > self._gone_at + _STEPS_PAST_END:
            self._gone_at = None
            message = "%s: its list was lost, or taken before its end: tokens from about %d on have no metrics"
            _lines.log(logging.ERROR, message, self, index - _STEPS_PAST_END - 1)
        return not self._is_over

    def misses(self, index: int) -> None:
        """The token with this index was not stored."""
        self._missing = index

    def end(self, index: int) -> None:
        """Its list is gone, as the token with this index finds: taken, or lost. Nothing more of it has a place."""
        self._is_over, self._gone_at = True, index

    def __str__(self) -> str:
        return self.id.decode("utf-8", "replace")


class Store:
    """Stores the records of decode steps. A fault is logged and counted; nothing is ever raised."""

    def __init__(self) -> None:
        #: Records that were not stored because of a fault.
        self.failures = 0
        self._share: _pool.Share | None = None
        self._copies_to_host = False
        self._lines = Limited()

    def store(
        self, logits: Any, samples: Sequence[Sample], rows: Sequence[int], indices: Sequence[int], stream: int | None = None
    ) -> None:
        """Computes and stores one record for each sample.

        Args:
            logits: shape (rows, vocabulary).
            samples: whose tokens they are.
            rows: the row of each sample.
            indices: the token index of each sample.
            stream: the CUDA stream of the logits; None: torch's current one.
        """
        try:
            if self._share is None:
                self._share = _pool.Share(None, or_as_it_is=True)
            ids, temperatures, metrics = zip(*((sample.id, sample.temperature, sample.metrics) for sample in samples))
            if self._copies_to_host:
                logits, rows, stream = _copy(logits, rows, stream), range(len(rows)), None
            batch, _ = borrow(logits, ids, temperatures, indices, rows, metrics, stream)
            try:
                error = self._call(batch)
            finally:
                batch.release()
            if error is None:
                return
            if error.status == _native.PITA_ERR_UNSUPPORTED and not self._copies_to_host and hasattr(logits, "cpu"):
                self._lines.log(logging.WARNING, "logits are copied to the host, step by step: %s", error.message)
                self._copies_to_host = True
                self.store(logits, samples, rows, indices, stream)
            else:
                self._count(samples, indices, error)
        except Exception as error:
            self.failures += len(samples)
            for sample, index in zip(samples, indices):
                sample.misses(index)
            kind = type(error)
            message = "%s: metrics of %d tokens were not stored: %s"
            self._lines.log(logging.ERROR, message, _named(samples), len(samples), error, kind=kind)

    def _call(self, batch: Batch) -> errors.PitaError | None:
        status = lib.pita_store_logits_metrics_batch(batch.struct)
        if status == _native.PITA_ERR_NOT_OPEN:
            _pool.reopen()
            status = lib.pita_store_logits_metrics_batch(batch.struct)
        if status == _native.PITA_OK:
            return None
        error = errors.last_error(status)
        error.statuses = batch.statuses
        return error

    def _count(self, samples: Sequence[Sample], indices: Sequence[int], error: errors.PitaError) -> None:
        failed: defaultdict[int, list[Sample]] = defaultdict(list)
        for sample, index, status in zip(samples, indices, error.statuses.tolist()):
            if status == _native.PITA_OK:
                continue
            failed[status].append(sample)
            if status == _native.PITA_ERR_GAP:
                sample.end(index)
            elif status != _native.PITA_ERR_UNCERTAIN:
                # An uncertain one may be there: the next one's status tells.
                sample.misses(index)
        for status, those in failed.items():
            # The message is of the first that failed.
            why = error if status == error.status else errors.status_name(status)
            if status == _native.PITA_ERR_GAP:
                # A step past the end of a request whose list was taken is as it should be.
                self._lines.log(logging.INFO, "%s: its list is gone, and takes no more metrics: %s", those[0], why)
            else:
                self.failures += len(those)
                message = "%s: metrics of %d tokens were not stored, nor will be those behind them: %s"
                self._lines.log(logging.WARNING, message, _named(those), len(those), why, kind=status)


def _copy(logits: Any, rows: Sequence[int], stream: int | None) -> Any:
    """These rows in the host's memory."""
    torch = sys.modules.get("torch")
    if stream is None or torch is None:
        return logits[list(rows)].cpu()
    # They are made there.
    with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
        return logits[list(rows)].cpu()


def _named(samples: Sequence[Sample]) -> str:
    return f"{samples[0]} and others" if len(samples) > 1 else str(samples[0])


@functools.cache
def store_of_process() -> Store:
    """For processors that come and go with their requests."""
    return Store()
