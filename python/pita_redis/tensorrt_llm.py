"""A logits processor for TensorRT-LLM's PyTorch executor: metrics of every sampled token of one request, into Redis.

One object a request, in its sampling parameters::

    SamplingParams(logits_processor=LogitsMetricsProcessor("req-1", temperature=0.25), temperature=0.25)

Redis is where the environment of the executor's processes says, see :class:`pita_redis.RedisManager`.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

from ._engine import Sample, store_of_process, wanted_metrics
from ._logging import Limited
from ._values import whole

_lines = Limited()
# Generations of one object that are remembered.
_LATEST = 16


def _interface() -> type:
    """TensorRT-LLM's base class. It takes any callable, too."""
    try:
        return importlib.import_module("tensorrt_llm.sampling_params").LogitsProcessor
    except (ImportError, AttributeError):
        return object


class _Request:
    """What the executor calls a request: a sample of the user's."""

    def __init__(self, sample: Sample, prompt_len: int) -> None:
        self.sample, self.prompt_len = sample, prompt_len
        sample.begin(self)


class LogitsMetricsProcessor(_interface()):  # type: ignore[misc]
    """Observes logits; never changes them, never raises because of Redis.

    The record's place is the token's index, so that a chunk of a prefill, for which the executor calls as well, is replaced by
    the next one. It may be sent to other processes before its first call.
    """

    def __init__(
        self,
        req_id: str,
        temperature: float = 1.0,
        normalization_constants: bool = True,
        entropy: bool = True,
        *,
        n: int = 1,
        prompt_len: int | None = None,
    ) -> None:
        """
        Args:
            req_id: the list's name; sample i of `n` has ``req_id:i``, the first one ``req_id``.
            temperature: the sampling temperature; below 1e-5 it is greedy, and 1.
            normalization_constants, entropy: what to compute.
            n: as in the sampling parameters.
            prompt_len: the prompt's tokens; None: as many as there are at the first call.
        """
        metrics = wanted_metrics(normalization_constants, entropy)
        if not metrics:
            raise ValueError("neither normalization_constants nor entropy is asked for")
        whole(n, "n", 1, 2**31 - 1)
        if prompt_len is not None:
            whole(prompt_len, "prompt_len", 0, 2**31 - 1)
        self._req_id, self._n, self._prompt_len = req_id, n, prompt_len
        self._temperature, self._metrics = temperature, metrics
        # Checks the id and the temperature here, where an error reaches the caller.
        self._sample(n - 1)
        # By the executor's number, the latest ones. The first of a generation has the first sample.
        self._requests: dict[int, _Request] = {}
        self._first: int | None = None

    def __call__(
        self, req_id: int, logits: Any, token_ids: list[list[int]], stream_ptr: int | None, client_id: int | None
    ) -> None:
        """Stores one record.

        Args:
            req_id: the executor's number of the request.
            logits: shape (beams, 1, vocabulary).
            token_ids: the tokens so far, prompt included, a list a beam.
            stream_ptr: the CUDA stream of the logits; None: torch's current one.
            client_id: not used.
        """
        try:
            self._observe(req_id, logits, token_ids, stream_ptr)
        except Exception:
            _lines.log(logging.ERROR, "metrics of a token are lost to a bug in pita_redis", exc_info=True)

    def _observe(self, req_id: int, logits: Any, token_ids: list[list[int]], stream: int | None) -> None:
        if len(token_ids) != 1:
            _lines.log(logging.ERROR, "%s: metrics of each token cannot be had with beam search", self._req_id)
            return
        length = len(token_ids[0])
        request = self._requests.get(req_id)
        if request is None:
            request = self._requests[req_id] = self._new_request(req_id, length)
        index = length - request.prompt_len
        if index >= 0 and request.sample.takes(index):
            # A row of (beams, 1, vocabulary), or of what other versions have: (1, vocabulary).
            row = logits[0] if len(logits.shape) == 3 else logits
            store_of_process().store(row, [request.sample], [0], [index], stream)

    def _sample(self, number: int) -> Sample:
        return Sample(self._req_id, number, self._temperature, self._metrics)

    def _new_request(self, req_id: int, length: int) -> _Request:
        # The executor numbers the samples of a request one after the other. Others are of another generation: these parameters
        # are used once more.
        if self._first is None or not 0 <= req_id - self._first < self._n:
            self._first = req_id
        while len(self._requests) >= _LATEST * self._n:
            del self._requests[next(iter(self._requests))]
        sample = self._sample(req_id - self._first)
        return _Request(sample, length if self._prompt_len is None else self._prompt_len)
