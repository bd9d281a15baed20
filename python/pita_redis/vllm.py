"""A logits processor for vLLM, for its V1 and its V2 interface: metrics of every sampled token, into Redis.

It is found by itself where this package is installed, as an entry point of the group ``vllm.logits_processors``, or named::

    vllm serve MODEL --logits-processors pita_redis.vllm:LogitsMetricsProcessor

A request asks for metrics in ``SamplingParams.extra_args``::

    {"req_id": "req-1", "normalization_constants": True, "entropy": True}

Sample i of ``n`` has the list ``req-1:i``, the first one ``req-1``. Redis is where the environment of the engine says, see
:class:`pita_redis.RedisManager`. A request without a req_id costs nothing.
"""

from __future__ import annotations

import importlib
import logging
import weakref
from collections import OrderedDict
from typing import Any

from ._engine import LONGEST_ID, Sample, Store, wanted_metrics
from ._logging import Limited, logger

#: Where :meth:`LogitsMetricsProcessor.validate_params` notes `n`, which the engine's side of vLLM is not told.
_SAMPLES = "pita_redis_samples"
# Requests with several samples whose numbering is remembered.
_GROUPS = 4096


def _interfaces() -> tuple[type, ...]:
    """The base classes that this vLLM has."""
    found = []
    for module in ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor"):
        try:
            found.append(importlib.import_module(module).LogitsProcessor)
        except (ImportError, AttributeError) as error:
            logger.debug("vLLM has no %s: %s", module, error)
    if not found:
        raise ImportError("vLLM is not installed, or has no vllm.v1.sample.logits_processor: 0.10 is the first that has")
    return tuple(found)


_NO_SPECULATION = "metrics of each token cannot be had with speculative decoding: a request has several rows then"

# By the id of the engine's configuration: the processor that works. It keeps the configuration, and so its id.
_working: weakref.WeakValueDictionary[int, LogitsMetricsProcessor] = weakref.WeakValueDictionary()


def _is_second(processor: LogitsMetricsProcessor, config: Any) -> bool:
    """Whether the engine has one already: as an entry point, and once more by name."""
    return _working.setdefault(id(config), processor) is not processor


def _is_named(processor: type, names: Any) -> bool:
    """Whether the engine's user has asked for this class."""
    return any(name is processor or name == f"{processor.__module__}:{processor.__qualname__}" for name in names or ())


class _Group:
    """The samples of one request, numbered in the order in which they come."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._arrivals = 0
        self._rows: dict[int, _Row] = {}

    def number_of(self, tokens: list[int] | None, is_back: bool) -> int | None:
        """Of a sample that comes into the batch; None if that cannot be told.

        One that was preempted and comes back is the one with the same tokens. Of two with the same tokens either is right, since
        their records are the same, too. V2 does not tell the tokens.
        """
        for number, row in self._rows.items():
            if tokens is not None and row.tokens is tokens:
                return number
        if not tokens and not is_back:
            return self._new_number()
        for number, row in self._rows.items():
            if tokens is not None and not row.is_active and _agree(row.tokens, tokens):
                return number
        return None

    def _new_number(self) -> int:
        number = self._arrivals % self.samples
        if number == 0:
            # All samples have come: the request was made anew.
            self._rows.clear()
        self._arrivals += 1
        return number

    def put(self, number: int, row: _Row) -> None:
        """Goes on with the sample's state, if it has one."""
        if number in self._rows:
            row.sample = self._rows[number].sample
        self._rows[number] = row


def _agree(before: list[int], after: list[int]) -> bool:
    """Whether two lists are of the same tokens. -1 is one that is not known on the host yet; the last one may be dropped."""
    return len(before) - len(after) in (0, 1) and all(a == b or -1 in (a, b) for a, b in zip(before, after))


class _Row:
    """One row of a batch: a sample, and what tells its tokens and its end."""

    __slots__ = ("is_active", "last_index", "sample", "stops", "tokens")

    def __init__(self, sample: Sample, params: Any, prompt_len: int | None, max_model_len: int | None) -> None:
        self.sample = sample
        self.is_active = True
        #: V1: the engine's own list of the sample's tokens. It grows.
        self.tokens: list[int] = []
        self.stops = set(getattr(params, "stop_token_ids", None) or ())
        end = getattr(params, "eos_token_id", None)
        if end is not None and not getattr(params, "ignore_eos", False):
            self.stops.add(end)
        most = [params.max_tokens] if getattr(params, "max_tokens", None) is not None else []
        if prompt_len is not None and max_model_len is not None:
            most.append(max_model_len - prompt_len)
        self.last_index = min(most) - 1 if most else None

    def is_over(self, index: int) -> bool:
        """Whether the engine has run a step past the sample's last token, which happens when it schedules ahead."""
        if self.last_index is not None and index > self.last_index:
            return True
        return bool(self.tokens) and self.tokens[-1] in self.stops


class LogitsMetricsProcessor(*_interfaces()):  # type: ignore[misc]
    """Observes logits: never changes them, and never raises because of Redis.

    Each record goes to the place of its token index. So what comes twice, from a second tensor-parallel rank or from a chunk of
    a prefill, replaces an equal or an unfinished one.

    Attributes:
        failures: records that were not stored.
    """

    # V1 calls it with (vllm_config, device, is_pin_memory), V2 with (vllm_config, req_states).
    def __init__(self, vllm_config: Any, *arguments: Any) -> None:
        self._config = vllm_config
        self._req_states = arguments[0] if len(arguments) == 1 else None
        model_config = getattr(vllm_config, "model_config", None)
        self._max_model_len = getattr(model_config, "max_model_len", None)
        #: V1: by the row of the batch; V2: by the slot.
        self._rows: dict[int, _Row] = {}
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        self._store = Store()
        self._warnings = Limited()
        self._is_idle = _is_second(self, vllm_config)
        self._is_refusing = False
        if getattr(vllm_config, "speculative_config", None) is not None:
            if _is_named(type(self), getattr(model_config, "logits_processors", None)):
                raise ValueError(_NO_SPECULATION)
            # Only installed beside an engine that does something else: that engine runs on.
            self._is_refusing = True

    @property
    def failures(self) -> int:
        return self._store.failures

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuses a request whose ``extra_args`` cannot be understood, and notes how many samples it has.

        Raises:
            ValueError: the req_id is no string of 1 to 1024 bytes.
        """
        extra = sampling_params.extra_args
        if not extra or "req_id" not in extra:
            return
        req_id = extra["req_id"]
        samples = getattr(sampling_params, "n", 1) or 1
        if not isinstance(req_id, str) or not req_id or "\0" in req_id:
            raise ValueError(f"extra_args['req_id'] is {req_id!r}, not a string of 1 to {LONGEST_ID} bytes")
        longest = len(req_id.encode()) + (len(f":{samples - 1}") if samples > 1 else 0)
        if longest > LONGEST_ID:
            raise ValueError(f"extra_args['req_id'] makes an id of {longest} bytes, more than {LONGEST_ID}")
        if samples > 1 or _SAMPLES in extra:
            sampling_params.extra_args = {**extra, _SAMPLES: samples}

    def is_argmax_invariant(self) -> bool:
        """False, although it is: vLLM does not call those that are."""
        return False

    # --- V1: rows of a batch, told by updates ------------------------------------------------------------------------

    def update_state(self, batch_update: Any) -> None:
        """Follows the requests through the rows of the batch."""
        if batch_update is None or self._is_idle:
            return
        for row in batch_update.removed:
            self._leave(row)
        for row, params, prompt, tokens in batch_update.added:
            self._leave(row)
            entry = self._enter(params, len(prompt) if prompt is not None else None, tokens)
            if entry is not None:
                self._rows[row] = entry
        for source, target, direction in batch_update.moved:
            moved, replaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if replaced is not None:
                if direction.name == "SWAP":
                    self._rows[source] = replaced
                else:
                    replaced.is_active = False

    # --- V2: slots ---------------------------------------------------------------------------------------------------

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Takes over a slot. Returns whether this request wants metrics."""
        self._leave(req_idx)
        if self._is_idle:
            return False
        prompt = int(self._req_states.prompt_len.np[req_idx])
        # A request that was preempted comes back with tokens of its own.
        is_back = int(self._req_states.prefill_len.np[req_idx]) > prompt
        entry = self._enter(sampling_params, prompt, None, is_back)
        if entry is None:
            return False
        self._rows[req_idx] = entry
        return True

    # --- both --------------------------------------------------------------------------------------------------------

    def apply(self, logits: Any, ctx: Any = None) -> Any:
        """Stores one record for each row that wants it. The logits are returned as they are."""
        if self._rows:
            try:
                self._observe(logits, self._steps(logits) if ctx is None else self._steps_of(ctx, logits))
            except Exception:
                self._warnings.log(logging.ERROR, "metrics of a step are lost to a bug in pita_redis", exc_info=True)
        return logits

    def _observe(self, logits: Any, steps: Any) -> None:
        chosen = [
            (row, entry.sample, index)
            for row, entry, index in steps
            if entry.sample.takes(index) and not entry.is_over(index)
        ]
        if chosen:
            rows, samples, indices = zip(*chosen)
            self._store.store(logits, samples, rows, indices)

    def _steps(self, logits: Any) -> Any:
        """V1: the rows of this step, whose they are, and which token they make."""
        count = logits.shape[0]
        for row, entry in self._rows.items():
            if row < count:
                yield row, entry, len(entry.tokens)

    def _steps_of(self, ctx: Any, logits: Any) -> Any:
        """V2: the same."""
        slots = ctx.idx_mapping_np
        if logits.shape[0] != len(slots):
            self._warnings.log(logging.ERROR, "%s", _NO_SPECULATION)
            return
        states = self._req_states
        for row, (slot, length) in enumerate(zip(slots.tolist(), ctx.seq_lens_upper_bound_np.tolist())):
            entry = self._rows.get(slot)
            # A chunk of a prefill makes no token.
            if entry is not None and length >= states.prefill_len.np[slot]:
                yield row, entry, length - int(states.prompt_len.np[slot])

    def _leave(self, row: int) -> None:
        entry = self._rows.pop(row, None)
        if entry is not None:
            entry.is_active = False

    def _enter(self, params: Any, prompt_len: int | None, tokens: list[int] | None, is_back: bool = False) -> _Row | None:
        """A request that comes into the batch, for the first time or once more; None if it wants no metrics."""
        extra = getattr(params, "extra_args", None)
        if not extra or "req_id" not in extra:
            return None
        metrics = wanted_metrics(extra.get("normalization_constants"), extra.get("entropy"))
        if not metrics:
            return None
        req_id = extra["req_id"]
        if self._is_refusing:
            self._warnings.log(logging.ERROR, "%s: %s", req_id, _NO_SPECULATION)
            return None
        group: _Group | None = None
        number: int | None = 0
        if extra.get(_SAMPLES, 1) > 1:
            group = self._group(req_id, extra[_SAMPLES])
            number = group.number_of(tokens, is_back)
            if number is None:
                self._warnings.log(logging.ERROR, "%s: which of its samples is back is not known; it has no more metrics", req_id)
                return None
        try:
            sample = Sample(req_id, number, params.temperature, metrics)
        except (TypeError, ValueError) as error:
            self._warnings.log(logging.ERROR, "a request is left out: %s", error)
            return None
        entry = _Row(sample, params, prompt_len, self._max_model_len)
        if tokens is not None:
            entry.tokens = tokens
        if group is not None:
            group.put(number, entry)
        return entry

    def _group(self, req_id: str, samples: int) -> _Group:
        group = self._groups.pop(req_id, None)
        if group is None or group.samples != samples:
            group = _Group(samples)
        self._groups[req_id] = group
        if len(self._groups) > _GROUPS:
            self._groups.popitem(last=False)
        return group
