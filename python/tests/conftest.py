"""A redis-server of the tests' own, and a manager on it."""

import contextlib
import gc
import os
import shutil
import socket
import subprocess
import tempfile
import time

import pytest
import redis

from pita_redis import RedisManager, _engine, _pool
from pita_redis._native import lib


def eventually(condition, seconds=10.0):
    """Polls until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.005)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A redis-server on a port of its own."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        self.port = free_port()
        self.start()

    def start(self):
        self._process = subprocess.Popen(
            [shutil.which("redis-server"), "--bind", "127.0.0.1", "--port", str(self.port)]
            + ["--save", "", "--dir", self._folder.name],
            stdout=subprocess.DEVNULL,
        )
        self.client = redis.Redis(port=self.port)
        eventually(self._answers)

    def _answers(self):
        with contextlib.suppress(redis.ConnectionError):
            return self.client.ping()
        return False

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def stop(self):
        self._process.kill()
        self._process.wait()

    def close(self):
        self.stop()
        self._folder.cleanup()


@pytest.fixture(autouse=True)
def closed_pool():
    """Each test finds the process's pool closed, whatever became of the one before."""
    yield
    _engine.store_of_process.cache_clear()
    gc.collect()
    with _pool._shares.lock:
        _pool._shares.drop_gone()
        _pool._shares.held.clear()
    lib.pita_redis_close()


@pytest.fixture(scope="session")
def _session_server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(_session_server, monkeypatch):
    """The server that the tests share, empty, and found by the environment."""
    for name in list(os.environ):
        if name.startswith(("REDIS_", "VALKEY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
    monkeypatch.setenv("REDIS_PORT", str(_session_server.port))
    _session_server.client.flushall()
    return _session_server


@pytest.fixture
def manager(server):
    with RedisManager() as manager:
        yield manager


@pytest.fixture
def own_server():
    """A server that may be stopped."""
    server = Server()
    yield server
    server.close()
