"""The Redis manager: stores the metrics of tokens, and takes them out again."""

from __future__ import annotations

import ctypes
import dataclasses
import ipaddress
import math
import os
import re
import time
import types
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from . import _logging, _native, errors
from ._batch import Metric, RequestId, address, borrow
from ._native import lib
from ._pool import Share
from ._values import c_string, seconds, whole

#: How long ``take_metrics(expected=...)`` waits without a ``timeout``, in seconds.
DEFAULT_WAIT = 10.0
# Longer waits are made of shorter ones, so that Ctrl-C is heard.
_SLICE = 0.2


@dataclasses.dataclass(frozen=True)
class Latency:
    """How long something took, in nanoseconds. Percentiles are at most 13 % above the true value."""

    count: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int


@dataclasses.dataclass(frozen=True)
class Stats:
    """What the process's pool has done since it was opened. The counters count records, unless said otherwise.

    Attributes:
        stored: stored for sure: appended + indexed.
        taken: taken out.
        retried: sent once more because an answer was lost, or replicas did not have them.
        uncertain: sent, but the answer was lost.
        refused: refused by Redis, or past the end of their list.
        queued: queued now, with ``write=behind``; `queued_max` is the most that ever were.
        connections: connections made; `reconnects` of them in the place of lost ones.
        store_latency: calls that store, without the computing.
        round_trip_latency: round trips to Redis.
        kernel: what computes: "avx512", "avx2", "neon" or "scalar".
    """

    stored: int
    appended: int
    indexed: int
    taken: int
    retried: int
    uncertain: int
    refused: int
    queued: int
    queued_max: int
    connections: int
    reconnects: int
    bytes_sent: int
    bytes_received: int
    store_latency: Latency
    round_trip_latency: Latency
    kernel: str


class _ClassOrInstanceMethod:
    """A method of the class, or of a manager, whichever it is called on."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.__func__ = function
        self.__doc__ = function.__doc__

    def __get__(self, manager: Any, cls: type) -> Any:
        return types.MethodType(self.__func__, cls if manager is None else manager)


class RedisManager:
    """The metrics of requests in Redis: a list a request, a record a token, in token order.

    A record is three numbers, in nats, of a token's logits x: log_norm = logsumexp(x), log_norm_temp = logsumexp(x / T), and
    the entropy of softmax(x).

    All managers of a process share its one pool of connections, so they must agree on where Redis is. Making one connects to
    nothing yet; :meth:`ping` tells whether Redis can be reached. All methods may be called from any thread, and let other
    threads run. A forked child may go on with what it inherits; sent to another process, a manager opens a pool there. What is
    queued when the interpreter ends is written then.

    Every failed call of the library raises a :class:`PitaError`. What can come back from all methods that need Redis is
    :class:`UnavailableError`, :class:`DeadlineError`, :class:`AuthError` and :class:`ServerError`.
    """

    #: Where :meth:`start` starts; None, as the class has it, is where the environment says.
    _url: str | None = None

    def __init__(
        self, host: str | None = None, port: int | None = None, db: int | None = None, *, url: str | None = None
    ) -> None:
        """Opens the process's pool.

        Args:
            host, port, db: where Redis is. Without any of them, and without `url`, the environment says it: REDIS_URL, or
                else REDIS_HOST (localhost), REDIS_PORT (6379), REDIS_DB (0), REDIS_USERNAME, REDIS_PASSWORD. With some of
                them, the others come from these variables; REDIS_URL does not count then.
            url: everything, options included: ``redis://user:password@host:6379/0?write=behind&timeout_ms=200``.

        Raises:
            ConfigError: a ValueError; it cannot be understood, or the process's pool is open with other settings.
        """
        if url is not None and (host, port, db) != (None, None, None):
            raise TypeError("RedisManager takes host, port and db, or a url, not both")
        if url is None and (host, port, db) != (None, None, None):
            url = _url_of(host, port, db)
        self._url = url
        self._share = Share(url)

    def close(self) -> None:
        """Closes the pool, if no other manager uses it. With ``write=behind`` what is queued is written first.

        Raises:
            DeadlineError: time ran out; the message says how many records were given up.
        """
        self._share.close()

    def __reduce__(self) -> tuple[Callable[..., RedisManager], tuple[str | None]]:
        # Another process has a pool of its own.
        return _unpickled, (self._url,)

    def __enter__(self) -> RedisManager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @_ClassOrInstanceMethod
    def start(where: RedisManager | type[RedisManager]) -> None:  # noqa: N805
        """Starts a private redis-server or valkey-server from PATH, where none listens and the host is this machine.

        ``RedisManager.start()``, without a manager, does so where the environment says that Redis is. The server keeps all in
        memory, and ends with this process, or by :meth:`stop`. Where a server answers, nothing is done. Managers that there are
        already use it.

        Raises:
            UnavailableError: none can be started, such as for want of a program.
            ConfigError: none answers, and the host is another machine, or the URL asks for TLS.
        """
        _logging.install()
        url = where._url
        errors.check(lib.pita_redis_start_server(None if url is None else c_string(url, "url")))

    @staticmethod
    def stop() -> None:
        """Ends the servers that :meth:`start` has started in this process, if any; others are left alone."""
        errors.check(lib.pita_redis_stop_servers())

    def ping(self) -> None:
        """Asks Redis for a sign of life."""
        errors.check(lib.pita_redis_ping())

    # --- storing -----------------------------------------------------------------------------------------------------

    def store_logits_metrics(
        self,
        req_id: RequestId,
        logits: Any,
        temperature: float = 1.0,
        *,
        token_index: int | None = None,
        metrics: int = Metric.ALL,
        stream: int | None = None,
    ) -> None:
        """Computes the metrics of one token and stores them.

        Args:
            req_id: the request's id, 1 to 1024 bytes of UTF-8.
            logits: a row of float32, float16 or bfloat16, shape (vocabulary,): torch, numpy, anything with ``__dlpack__`` or
                a buffer. It is read where it is.
            temperature: finite and above 0.
            token_index: the token's place in the list; the store may then be repeated. None, or below 0: behind the last one.
            metrics: what to compute.
            stream: see :meth:`store_logits_metrics_batch`.

        Raises:
            UncertainError: it may or may not be stored; with a token index, store it again.
            GapError: `token_index` is past the end of the list. Not stored.
            QueueFullError: with ``write=behind``. Not stored.
        """
        if req_id is None:
            # In a batch it skips an entry.
            raise TypeError("req_id is None, not a str")
        self.store_logits_metrics_batch(
            [req_id],
            logits,
            [temperature],
            token_indices=None if token_index is None else [token_index],
            metrics=metrics,
            stream=stream,
        )

    def store_logits_metrics_batch(
        self,
        req_ids: Sequence[RequestId | None],
        logits: Any,
        temperatures: Any = None,
        *,
        token_indices: Any = None,
        row_of: Any = None,
        metrics: Any = None,
        stream: int | None = None,
    ) -> None:
        """Computes the metrics of many requests and stores a record for each, in one round trip, or queues it.

        Args:
            req_ids: the requests' ids; None skips one.
            logits: shape (rows, vocabulary); see :meth:`store_logits_metrics`.
            temperatures: one a request, or one for all; None: 1.
            token_indices: one a request, or one for all; None, or one below 0: behind the last one.
            row_of: the row of each request; several may share one. None: request i has row i.
            metrics: one a request, or one for all; None: all of them.
            stream: of a CUDA tensor, the stream on which it is made, as a number; None: torch's current one.

        Raises:
            PitaError: the first failed request's. `statuses` has each one's; one bad request does not stop the others.
        """
        batch, _ = borrow(logits, req_ids, temperatures, token_indices, row_of, metrics, stream)
        try:
            status = lib.pita_store_logits_metrics_batch(batch.struct)
            if status != _native.PITA_OK:
                error = errors.last_error(status)
                error.statuses = batch.statuses.copy()
                raise error
        finally:
            batch.release()

    def store_metrics(self, req_id: RequestId, metrics: Any, token_index: int | None = None) -> None:
        """Stores records that were computed elsewhere, all of them or none.

        Args:
            req_id: the request's id.
            metrics: shape (n, 3), or (3,) for one: log_norm, log_norm_temp, entropy.
            token_index: the place of the first one in the list. None, or below 0: behind the last one.
        """
        records = np.ascontiguousarray(metrics, np.float64)
        if records.ndim == 1:
            records = records[np.newaxis]
        if records.ndim != 2 or records.shape[1] != 3:
            raise ValueError(f"metrics have the shape {records.shape}, not (n, 3)")
        index = -1 if token_index is None else whole(token_index, "token_index", -(2**63), 2**63 - 1)
        errors.check(lib.pita_store_metrics(c_string(req_id, "req_id"), index, address(records), len(records)))

    def compute(
        self, logits: Any, temperatures: Any = None, *, row_of: Any = None, metrics: Any = None, stream: int | None = None
    ) -> np.ndarray:
        """Computes metrics and stores nothing.

        Returns:
            float64, shape (rows, 3), or (3,) for a single row of shape (vocabulary,).
        """
        return compute(logits, temperatures, row_of=row_of, metrics=metrics, stream=stream)

    # --- taking ------------------------------------------------------------------------------------------------------

    def take_metrics(self, req_id: RequestId, expected: int | None = None, timeout: float | None = None) -> np.ndarray:
        """Takes all records of a request: they are then gone from Redis. All or nothing.

        Args:
            req_id: the request's id.
            expected: wait until there are so many at least, such as for a writer in another process that has not written the
                last one yet. None: take what is there, maybe nothing.
            timeout: how long to wait for them at most, in seconds; None: 10.

        Returns:
            float64, shape (n, 3), in token order: log_norm, log_norm_temp, entropy. There may be more than `expected`: an
            engine may have run a step past the request's end. ``records[:len(tokens)]`` are those of its tokens.

        Raises:
            DeadlineError: a TimeoutError; there are fewer. Nothing was taken.
            BadRecordError: an element of the list is no record. Nothing was taken.
        """
        identifier = c_string(req_id, "req_id")
        if expected is None:
            if timeout is not None:
                raise ValueError("timeout is for waiting: it wants expected")
            return _take(lambda out, room, count: lib.pita_take_metrics(identifier, out, room, count), 0)
        whole(expected, "expected", 0, 2**63 - 1)
        limit = seconds(DEFAULT_WAIT if timeout is None else timeout, "timeout")
        end = time.monotonic() + limit

        def wait(out: int, room: int, count: Any) -> int:
            return _in_slices(end, lambda ms: lib.pita_take_metrics_wait(identifier, expected, ms, out, room, count))

        try:
            return _take(wait, expected)
        except errors.DeadlineError as error:
            # The library knows of the last slice.
            waited = f"after waiting {limit:g} s for"
            error.args = (re.sub(r"after waiting \d+ ms for", waited, error.message) + "; nothing was taken",)
            raise

    def count(self, req_id: RequestId) -> int:
        """How many records a request has."""
        count = ctypes.c_size_t()
        errors.check(lib.pita_count_metrics(c_string(req_id, "req_id"), count))
        return count.value

    def discard(self, req_id: RequestId) -> None:
        """Deletes all records of a request."""
        errors.check(lib.pita_discard_metrics(c_string(req_id, "req_id")))

    def flush(self, timeout: float = 1.0) -> None:
        """Waits until all that was queued is stored, with ``write=behind``; at most `timeout` seconds.

        Raises:
            DeadlineError: some are still queued.
            PitaError: some were lost since the last flush; the message says how many.
        """
        errors.check(_in_slices(time.monotonic() + seconds(timeout, "timeout"), lib.pita_redis_flush))

    def stats(self) -> Stats:
        """What the process's pool has done since it was opened."""
        out = _native.new_stats()
        errors.check(lib.pita_redis_stats(out))
        values = {field.name: getattr(out, field.name) for field in dataclasses.fields(Stats)}
        for name in ("store_latency", "round_trip_latency"):
            values[name] = Latency(*(getattr(values[name], field.name) for field in dataclasses.fields(Latency)))
        values["kernel"] = values["kernel"].decode()
        return Stats(**values)


def _unpickled(url: str | None) -> RedisManager:
    return RedisManager(url=url)


def compute(
    logits: Any, temperatures: Any = None, *, row_of: Any = None, metrics: Any = None, stream: int | None = None
) -> np.ndarray:
    """Computes metrics; needs no Redis. See :meth:`RedisManager.compute`."""
    batch, rows = borrow(logits, None, temperatures, None, row_of, metrics, stream)
    try:
        out = np.empty((batch.count, 3))
        errors.check(lib.pita_compute_logits_metrics(batch.struct, address(out)))
    finally:
        batch.release()
    return out[0] if rows.is_row and row_of is None else out


def _in_slices(end: float, call: Callable[[int], int]) -> int:
    """The status of a call that waits so many milliseconds, again and again until it is another than a timeout, or `end`."""
    while True:
        left = max(end - time.monotonic(), 0.0)
        status = call(math.ceil(min(left, _SLICE) * 1000))
        if status != _native.PITA_ERR_TIMEOUT or left <= _SLICE:
            return status


# Most lists fit; a longer one is taken at the second try.
_ROOM = 4096
_MOST_ROOM = 1 << 20


def _take(take: Callable[[int, int, Any], int], expected: int) -> np.ndarray:
    room = min(max(expected, _ROOM), _MOST_ROOM)
    count = ctypes.c_size_t()
    while True:
        out = np.empty((room, 3))
        status = take(address(out), room, count)
        if status != _native.PITA_ERR_BUFFER_TOO_SMALL:
            break
        # It may grow until the next try.
        room = count.value + _ROOM
    errors.check(status)
    return out[: count.value].copy() if count.value < room else out


# --- where Redis is --------------------------------------------------------------------------------------------------


def _url_of(host: str | None, port: int | None, db: int | None) -> str:
    """A URL of what is given, and for the rest of the environment, as the library reads it."""
    names = ("URL", "HOST", "PORT", "DB", "USERNAME", "PASSWORD")
    family = "REDIS_" if any(os.environ.get("REDIS_" + name) for name in names) else "VALKEY_"

    def found(name: str) -> str | None:
        return os.environ.get(family + name) or None

    def number(given: int | None, name: str, otherwise: int, least: int, most: int) -> int:
        if given is not None:
            return whole(given, name, least, most)
        text = found(name.upper()) or str(otherwise)
        if not (text.isascii() and text.isdigit()):
            raise ValueError(f"{family}{name.upper()} is {text!r}, not a whole number")
        return whole(int(text), family + name.upper(), least, most)

    place = _host("host", host) if host else _host(family + "HOST", found("HOST") or "localhost")
    login = quote(found("USERNAME") or "", safe="")
    if password := found("PASSWORD"):
        login += ":" + quote(password, safe="")
    return (
        f"redis://{login}{'@' if login else ''}{place}"
        f":{number(port, 'port', 6379, 1, 65535)}/{number(db, 'db', 0, 0, 2**31 - 1)}"
    )


def _host(name: str, host: str) -> str:
    """A host name or address as a URL has it."""
    if not isinstance(host, str):
        raise TypeError(f"{name} is a {type(host).__name__}, not a str")
    if "@" in host:
        # What is before it may be a password.
        raise ValueError(f"{name} has an '@' in it: must be a host name or address alone")
    if ":" in host and "%" in host:
        raise ValueError(f"{name} is {host!r}: an address with a scope is not supported")
    try:
        return f"[{ipaddress.IPv6Address(host)}]"
    except ValueError:
        if ":" in host or "/" in host:
            raise ValueError(f"{name} is {host!r}: must be a host name or address alone") from None
    return quote(host, safe="")
