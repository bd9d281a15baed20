"""vLLM's two processor interfaces, where vLLM itself is not installed: names and shapes, nothing else.

Where it is installed, as for `make test-vllm`, the real ones are taken.
"""

import dataclasses
import enum
import importlib.util
import sys
import types
from abc import ABC, abstractmethod


class V1(ABC):
    @abstractmethod
    def __init__(self, vllm_config, device, is_pin_memory): ...

    @abstractmethod
    def apply(self, logits): ...

    @abstractmethod
    def is_argmax_invariant(self): ...

    @abstractmethod
    def update_state(self, batch_update): ...


class V2(ABC):
    def __init__(self, vllm_config, req_states): ...

    def add_request(self, req_idx, sampling_params):
        return True

    def apply_staged_writes(self): ...

    @abstractmethod
    def apply(self, logits, ctx): ...


class MoveDirectionality(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


@dataclasses.dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: list
    added: list
    moved: list


def install():
    if importlib.util.find_spec("vllm"):
        return
    for name in ("vllm", "vllm.v1", "vllm.v1.sample", "vllm.v1.worker", "vllm.v1.worker.gpu", "vllm.v1.worker.gpu.sample"):
        sys.modules.setdefault(name, types.ModuleType(name))
    first = types.ModuleType("vllm.v1.sample.logits_processor")
    first.LogitsProcessor, first.BatchUpdate, first.MoveDirectionality = V1, BatchUpdate, MoveDirectionality
    second = types.ModuleType("vllm.v1.worker.gpu.sample.logits_processor")
    second.LogitsProcessor = V2
    for module in (first, second):
        sys.modules[module.__name__] = module
