"""Metrics of LLM logits into Redis and out again, computed natively.

>>> from pita_redis import RedisManager
>>> manager = RedisManager(host="localhost", port=6379, db=0)
>>> manager.store_logits_metrics("req-1", logits, temperature=0.25)    # each token; torch, numpy, DLPack
>>> manager.take_metrics("req-1")                                      # (tokens, 3): log_norm, log_norm_temp, entropy

For engines: :mod:`pita_redis.vllm`, :mod:`pita_redis.tensorrt_llm`. Log lines go to the logger "pita_redis".
"""

from ._batch import Metric
from ._native import lib as _lib
from .errors import (
    AuthError,
    BadRecordError,
    BufferTooSmallError,
    ConfigError,
    CudaError,
    DeadlineError,
    GapError,
    InvalidArgumentError,
    NotOpenError,
    PanicError,
    PitaError,
    QueueFullError,
    ServerError,
    UnavailableError,
    UncertainError,
    UnsupportedError,
    status_name,
)
from .manager import Latency, RedisManager, Stats, compute

__version__ = _lib.pita_version().decode()

__all__ = [
    "AuthError",
    "BadRecordError",
    "BufferTooSmallError",
    "ConfigError",
    "CudaError",
    "DeadlineError",
    "GapError",
    "InvalidArgumentError",
    "Latency",
    "Metric",
    "NotOpenError",
    "PanicError",
    "PitaError",
    "QueueFullError",
    "RedisManager",
    "ServerError",
    "Stats",
    "UnavailableError",
    "UncertainError",
    "UnsupportedError",
    "compute",
    "status_name",
]
