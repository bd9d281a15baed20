"""Other processes: forked, spawned, and ending."""

import multiprocessing
import os
import subprocess
import sys

import pytest

import reference
from pita_redis import RedisManager, _pool

METHODS = ["fork", "spawn"]


def run(method, function, *arguments):
    process = multiprocessing.get_context(method).Process(target=function, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def store(url, name, count):
    manager = RedisManager(url=url)
    for index in range(count):
        manager.store_logits_metrics(name, reference.rows(1, 100)[0], token_index=index)


@pytest.mark.parametrize("method", METHODS)
def test_a_child_stores_what_the_parent_takes(server, method):
    with RedisManager(url=server.url) as manager:
        manager.ping()
        run(method, store, server.url, "a", 20)
        assert manager.take_metrics("a").shape == (20, 3)


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_ends_writes_what_is_queued(server, method):
    url = server.url + "?write=behind"
    with RedisManager(url=url) as manager:
        manager.ping()
        run(method, store, url, "a", 2000)
        assert manager.take_metrics("a").shape == (2000, 3)


def test_a_forked_child_goes_on_with_its_parents_manager(server):
    with RedisManager(url=server.url) as manager:
        manager.ping()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                manager.store_metrics("child", [1, 2, 3])
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        manager.store_metrics("parent", [1, 2, 3])
        assert manager.count("child") == 1


def test_a_program_that_ends_writes_what_is_queued(server):
    program = """
import sys, numpy
from pita_redis import RedisManager, _pool
manager = RedisManager(url=sys.argv[1])
manager.store_metrics("a", numpy.zeros((1000, 3)))
"""
    subprocess.run([sys.executable, "-c", program, server.url + "?write=behind"], check=True)
    assert server.client.llen("a") == 1000


def test_ctrl_c_ends_a_wait(server):
    program = """
import _thread, threading
from pita_redis import RedisManager, _pool
manager = RedisManager()
threading.Timer(0.5, _thread.interrupt_main).start()
try:
    manager.take_metrics("a", expected=1, timeout=60)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=30)
    assert done.stdout == b"interrupted\n"


def test_nothing_is_opened_once_the_program_ends(server):
    """A thread of an engine may outlive the interpreter's end for a moment; the library must not call into that."""
    program = """
import atexit, logging, sys, numpy
atexit.register(lambda: store())
import pita_redis._engine as engine, pita_redis._native as native
logging.basicConfig(stream=sys.stdout, format="%(message)s")
one = engine.Store()
sample = engine.Sample("a", 0, 1.0, 3)
def store():
    one.store(numpy.zeros((1, 9), numpy.float32), [sample], [0], [0])
    print(native.lib.pita_redis_ping(), one.failures)
store()
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=30, text=True)
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("0 0", "-2 1")
    assert "the interpreter ends" in done.stdout


def test_nobody_who_forgets_to_close_is_counted_for_ever(server):
    with RedisManager(url=server.url + "?write=behind") as manager:
        for _ in range(1000):
            RedisManager(url=server.url + "?write=behind")
        manager.ping()
        assert len(_pool._shares.gone) <= 1
