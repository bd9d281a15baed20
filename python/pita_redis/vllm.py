"""A logits processor for vLLM, for its V1 and its V2 interface: metrics of every sampled token, into Redis.

It is found by itself where this package is installed, as an entry point of the group ``vllm.logits_processors``, or named::

    vllm serve MODEL --logits-processors pita_redis.vllm:LogitsMetricsProcessor

A request asks for metrics in ``SamplingParams.extra_args``::

    {"req_id": "req-1", "normalization_constants": True, "entropy": True}

Sample i of ``n`` has the list ``req-1:i``, the first one ``req-1``. Redis is where the environment of the engine says, see
:class:`pita_redis.RedisManager`. A request that does not ask costs nothing.
"""

from __future__ import annotations

import importlib
import logging
import secrets
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from ._engine import LONGEST_ID, Sample, Store, wanted_metrics
from ._logging import Limited, logger


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

# --- what a request asks for -----------------------------------------------------------------------------------------

# Where the side of vLLM that admits requests notes what the engine's side is not told: {"samples": n, "request": a name of this
# request alone, "seed": its seed, "is_drawn": whether that is ours}.
_NOTES = "pita_redis"
# Requests without a seed whose samples are remembered.
_UNSEEDED = 1024
# The seeds that were drawn here, the latest ones. The parameters that got one are the caller's, and may come again.
_drawn: OrderedDict[int, None] = OrderedDict()
_DRAWN = 1 << 16


def _metrics_of(params: Any) -> int:
    extra = getattr(params, "extra_args", None)
    if not extra or "req_id" not in extra:
        return 0
    return wanted_metrics(extra.get("normalization_constants"), extra.get("entropy"))


def _may_seed() -> bool:
    """Whether this vLLM bears seeds. Its CPU engine ends with "CPU Generator does not use offset" when the prompt of a request
    that has one comes in chunks."""
    try:
        return not importlib.import_module("vllm.platforms").current_platform.is_cpu()
    except (ImportError, AttributeError):
        return True


def _note_samples(params: Any, samples: int) -> None:
    """Sees to it that the samples of a request can be told apart.

    All that differs between what the engine is told of two of them is the seed: vLLM gives sample i the request's seed + i, if it
    has one. So it gets one. The parameters may come again, with another n.
    """
    extra = {name: value for name, value in params.extra_args.items() if name != _NOTES}
    if samples > 1:
        if params.seed is None and _may_seed():
            # As large as seeds may be, with room for the samples' numbers.
            params.seed = secrets.randbits(62)
            _drawn[params.seed] = None
            if len(_drawn) > _DRAWN:
                _drawn.popitem(last=False)
        extra[_NOTES] = {"samples": samples, "request": secrets.token_hex(8), "seed": params.seed}
    params.extra_args = extra


class _Arrivals:
    """Numbers the samples of requests without a seed by the order in which they come.

    That is their order where one engine serves what comes first. A preempted one is known by its list of tokens.
    """

    def __init__(self, vllm_config: Any) -> None:
        parallel = getattr(vllm_config, "parallel_config", None)
        policy = getattr(getattr(vllm_config, "scheduler_config", None), "policy", "fcfs")
        is_alone = getattr(parallel, "data_parallel_size", 1) == 1 and getattr(parallel, "data_parallel_index", 0) == 0
        self._is_ordered = is_alone and policy == "fcfs"
        self._requests: OrderedDict[str, list[list[int]]] = OrderedDict()

    def number(self, notes: dict[str, Any], tokens: list[int] | None) -> int:
        """The number of the sample that has this list of tokens.

        Raises:
            ValueError: that is not certain.
        """
        known = self._requests.setdefault(notes["request"], [])
        for number, those in enumerate(known):
            if those is tokens:
                return number
        if tokens != [] or len(known) == notes["samples"] or not self._is_ordered:
            raise ValueError("which of its samples this is cannot be told: a request with several needs a seed here")
        known.append(tokens)
        if len(self._requests) > _UNSEEDED:
            self._requests.popitem(last=False)
        return len(known) - 1


# --- which processor works -------------------------------------------------------------------------------------------

# By the id of an engine's configuration: its processor. It keeps the configuration, and so its id.
_working: weakref.WeakValueDictionary[int, LogitsMetricsProcessor] = weakref.WeakValueDictionary()


def _is_named(processor: type, names: Any) -> bool:
    """Whether the engine's user has asked for this class."""
    return any(name is processor or name == f"{processor.__module__}:{processor.__qualname__}" for name in names or ())


def _is_repeated(vllm_config: Any) -> bool:
    """Whether this is a tensor-parallel rank that only sees once more what the first one sees."""
    parallel = getattr(vllm_config, "parallel_config", None)
    ranks = getattr(parallel, "tensor_parallel_size", 1)
    # With batch-sharded sampling each rank has requests of its own.
    return ranks > 1 and not getattr(parallel, "enable_batch_sharded_sampling", False) and parallel.rank % ranks != 0


class _Row:
    """One row of a batch: a sample, and what tells its tokens and its end."""

    __slots__ = ("_last_index", "_stops", "sample", "tokens")

    def __init__(
        self, sample: Sample, params: Any, prompt_len: int | None, tokens: list[int] | None, max_model_len: int | None
    ) -> None:
        self.sample = sample
        #: V1: the engine's own list of the sample's tokens. It grows; -1 is a token that is not known on the host yet.
        self.tokens: list[int] = [] if tokens is None else tokens
        self._stops = set(getattr(params, "stop_token_ids", None) or ())
        end = getattr(params, "eos_token_id", None)
        if end is not None and not getattr(params, "ignore_eos", False):
            self._stops.add(end)
        most = [params.max_tokens] if getattr(params, "max_tokens", None) is not None else []
        if prompt_len is not None and max_model_len is not None:
            most.append(max_model_len - prompt_len)
        self._last_index = min(most) - 1 if most else None

    def is_past_end(self, index: int) -> bool:
        """Whether the engine has run a step past the sample's last token, which happens when it schedules ahead."""
        if self._last_index is not None and index > self._last_index:
            return True
        return bool(self.tokens) and self.tokens[-1] in self._stops


class LogitsMetricsProcessor(*_interfaces()):  # type: ignore[misc]
    """Observes logits: never changes them, and never raises because of Redis.

    Each record goes to the place of its token index. So one that comes twice, as from the chunks of a prefill under V1, replaces
    an unfinished or an equal one.

    Attributes:
        failures: records that were not stored because of a fault.
    """

    # V1 calls it with (vllm_config, device, is_pin_memory), V2 with (vllm_config, req_states).
    def __init__(self, vllm_config: Any, *arguments: Any) -> None:
        self._config = vllm_config
        self._req_states = arguments[0] if len(arguments) == 1 else None
        model_config = getattr(vllm_config, "model_config", None)
        self._max_model_len = getattr(model_config, "max_model_len", None)
        #: V1: by the row of the batch; V2: by the slot.
        self._rows: dict[int, _Row] = {}
        self._arrivals = _Arrivals(vllm_config)
        self._store = Store()
        self._lines = Limited()
        self._is_idle = _is_repeated(vllm_config)
        self._is_refusing = False
        if getattr(vllm_config, "speculative_config", None) is not None:
            if _is_named(type(self), getattr(model_config, "logits_processors", None)):
                raise ValueError(_NO_SPECULATION)
            # Only installed beside an engine that does something else: that engine runs on.
            self._is_refusing = True
        self._take_over()

    def _take_over(self) -> None:
        """Of two in one engine, as an entry point and once more by name, the last one works."""
        before = _working.get(id(self._config))
        if before is not None:
            before._is_idle = True
            before._rows.clear()
        _working[id(self._config)] = self

    @property
    def failures(self) -> int:
        return self._store.failures

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuses a request whose ``extra_args`` cannot be understood. One with several samples gets a seed, if it has none and
        the engine bears one.

        Raises:
            ValueError: the req_id is no string of 1 to 1024 bytes, or a switch is neither true nor false.
        """
        if getattr(sampling_params, "seed", None) in _drawn:
            sampling_params.seed = None
        if not _metrics_of(sampling_params):
            return
        req_id = sampling_params.extra_args["req_id"]
        samples = getattr(sampling_params, "n", 1) or 1
        if not isinstance(req_id, str) or not req_id or "\0" in req_id:
            raise ValueError(f"extra_args['req_id'] is {req_id!r}, not a string of 1 to {LONGEST_ID} bytes")
        longest = len(req_id.encode()) + (len(f":{samples - 1}") if samples > 1 else 0)
        if longest > LONGEST_ID:
            raise ValueError(f"extra_args['req_id'] makes an id of {longest} bytes, more than {LONGEST_ID}")
        if samples > 1 or _NOTES in sampling_params.extra_args:
            _note_samples(sampling_params, samples)

    def is_argmax_invariant(self) -> bool:
        """False, although it is: vLLM does not call those that are."""
        return False

    # --- V1: rows of a batch, told by updates ------------------------------------------------------------------------

    def update_state(self, batch_update: Any) -> None:
        """Follows the requests through the rows of the batch."""
        if batch_update is None or self._is_idle:
            return
        try:
            self._follow(batch_update)
        except Exception:
            # Whose row is whose is not known any more.
            self._rows.clear()
            self._log_bug("the requests that run now have no more metrics")

    def _follow(self, batch_update: Any) -> None:
        for row in batch_update.removed:
            self._rows.pop(row, None)
        for row, params, prompt, tokens in batch_update.added:
            self._enter(row, params, len(prompt) if prompt is not None else None, tokens, tokens, bool(tokens))
        for source, target, direction in batch_update.moved:
            moved, replaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if replaced is not None and direction.name == "SWAP":
                self._rows[source] = replaced

    # --- V2: slots ---------------------------------------------------------------------------------------------------

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Takes over a slot. Returns whether this request wants metrics."""
        self._rows.pop(req_idx, None)
        if self._is_idle:
            return False
        try:
            states = self._req_states
            prompt_len = int(states.prompt_len.np[req_idx])
            name = getattr(states, "index_to_req_id", {}).get(req_idx)
            self._enter(req_idx, sampling_params, prompt_len, None, name, states.prefill_len.np[req_idx] > prompt_len)
        except Exception:
            self._log_bug("a request has no metrics")
        return req_idx in self._rows

    # --- both --------------------------------------------------------------------------------------------------------

    def apply(self, logits: Any, ctx: Any = None) -> Any:
        """Stores one record for each row that wants it. The logits are returned as they are."""
        if self._rows:
            try:
                self._observe(logits, self._steps(logits) if ctx is None else self._steps_of(ctx, logits))
            except Exception:
                self._log_bug("a step has no metrics")
        return logits

    def _observe(self, logits: Any, steps: Iterator[tuple[int, _Row, int]]) -> None:
        chosen = [
            (row, entry.sample, index)
            for row, entry, index in steps
            if entry.sample.takes(index) and not entry.is_past_end(index)
        ]
        if chosen:
            rows, samples, indices = zip(*chosen)
            self._store.store(logits, samples, rows, indices)

    def _steps(self, logits: Any) -> Iterator[tuple[int, _Row, int]]:
        """V1: the rows of this step, whose they are, and which token they make."""
        count = logits.shape[0]
        for row, entry in self._rows.items():
            if row < count:
                yield row, entry, len(entry.tokens)

    def _steps_of(self, ctx: Any, logits: Any) -> Iterator[tuple[int, _Row, int]]:
        """V2: the same."""
        slots = ctx.idx_mapping_np
        if logits.shape[0] != len(slots):
            self._lines.log(logging.ERROR, "%s", _NO_SPECULATION)
            return
        states = self._req_states
        for row, (slot, length) in enumerate(zip(slots.tolist(), ctx.seq_lens_upper_bound_np.tolist())):
            entry = self._rows.get(slot)
            # A chunk of a prefill makes no token.
            if entry is not None and length >= states.prefill_len.np[slot]:
                yield row, entry, length - int(states.prompt_len.np[slot])

    def _enter(
        self,
        place: int,
        params: Any,
        prompt_len: int | None,
        tokens: list[int] | None,
        request: object,
        is_resumed: bool,
    ) -> None:
        """A request comes into the batch, for the first time or once more, as after a preemption."""
        self._rows.pop(place, None)
        try:
            metrics = _metrics_of(params)
        except ValueError as error:
            self._lines.log(logging.ERROR, "%s: this request is left out: %s", params.extra_args["req_id"], error)
            return
        if not metrics:
            return
        if self._is_refusing:
            self._lines.log(logging.ERROR, "%s: %s", params.extra_args["req_id"], _NO_SPECULATION)
            return
        req_id = params.extra_args["req_id"]
        try:
            sample = Sample(req_id, self._number(params, tokens), params.temperature, metrics)
        except (TypeError, ValueError) as error:
            self._lines.log(logging.ERROR, "%s: this request is left out: %s", req_id, error)
            return
        sample.begin(request, is_resumed=is_resumed)
        self._rows[place] = _Row(sample, params, prompt_len, tokens, self._max_model_len)

    def _number(self, params: Any, tokens: list[int] | None) -> int:
        """Of the sample that these parameters are of, as the engine has them."""
        notes = params.extra_args.get(_NOTES)
        if notes is None:
            return 0
        if notes["seed"] is None:
            return self._arrivals.number(notes, tokens)
        number = params.seed - notes["seed"]
        if not 0 <= number < notes["samples"]:
            raise ValueError(f"the seed {params.seed} is of no sample of {notes}")
        return number

    def _log_bug(self, consequence: str) -> None:
        self._lines.log(logging.ERROR, "a bug in pita_redis: %s", consequence, exc_info=True)
