"""RedisManager on a real server: what it stores and takes, and every way to fail."""

import concurrent.futures
import gc
import logging
import math
import multiprocessing
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import pita_redis
import reference
from conftest import eventually, free_port
from pita_redis import Metric, RedisManager, _pool
from pita_redis.manager import _url_of


def in_redis(server, name):
    """The records of a list, as PITA reads them."""
    return [tuple(map(float, element.split(b","))) for element in server.client.lrange(name, 0, -1)]


# --- storing and taking ----------------------------------------------------------------------------------------------


def test_a_row_is_stored_and_taken(server, manager):
    logits = reference.rows(3, 1000)
    for row in logits:
        manager.store_logits_metrics("a", row, 0.25)
    wanted = [reference.metrics(row, 0.25) for row in logits]
    np.testing.assert_allclose(in_redis(server, "a"), wanted, rtol=1e-6)
    assert manager.count("a") == 3
    taken = manager.take_metrics("a")
    assert (taken.dtype, taken.shape) == (np.float64, (3, 3))
    np.testing.assert_allclose(taken, wanted, rtol=1e-6)
    assert manager.count("a") == 0
    assert manager.take_metrics("a").shape == (0, 3)
    assert not server.client.keys()


def test_a_batch_is_stored(server, manager):
    logits = reference.rows(3, 1000)
    manager.store_logits_metrics_batch(
        ["a", None, b"c", "a"], logits, [0.25, 1, 0.5, 1.5], token_indices=[0, 0, 0, 1], row_of=[2, 1, 0, 2]
    )
    np.testing.assert_allclose(
        manager.take_metrics("a"), [reference.metrics(logits[2], 0.25), reference.metrics(logits[2], 1.5)], rtol=1e-6
    )
    np.testing.assert_allclose(manager.take_metrics("c"), [reference.metrics(logits[0], 0.5)], rtol=1e-6)
    assert not server.client.keys()


def test_one_number_is_for_all(manager):
    logits = reference.rows(2, 1000)
    manager.store_logits_metrics_batch(["a", "b"], logits, 0.5, token_indices=0, metrics=Metric.ENTROPY)
    for name, row in zip("ab", logits):
        np.testing.assert_allclose(manager.take_metrics(name), [[0, 0, reference.metrics(row)[2]]], rtol=1e-6)


def test_a_token_index_may_come_twice(manager):
    first, second = reference.rows(2, 100)
    for row in (second, first):
        manager.store_logits_metrics("a", row, token_index=0)
    manager.store_logits_metrics("a", second, token_index=1)
    np.testing.assert_array_equal(manager.take_metrics("a"), manager.compute(np.stack([first, second])))


def test_metrics_of_other_origin_are_stored(manager):
    records = np.array([[1.5, math.inf, 0], [-math.inf, 1e-300, math.nan]])
    manager.store_metrics("a", records)
    manager.store_metrics("a", [7, 8, 9], token_index=2)
    np.testing.assert_array_equal(manager.take_metrics("a"), [*records, [7, 8, 9]])


def test_long_lists_are_taken_whole(manager):
    records = np.arange(30000, dtype=float).reshape(10000, 3)
    manager.store_metrics("a", records)
    np.testing.assert_array_equal(manager.take_metrics("a"), records)
    manager.store_metrics("a", records)
    np.testing.assert_array_equal(manager.take_metrics("a", expected=10000), records)


def test_discard(server, manager):
    manager.store_metrics("a", np.zeros((2, 3)))
    manager.discard("a")
    manager.discard("a")
    assert not server.client.keys()


def test_ids_are_utf8(server, manager):
    manager.store_metrics("Anfrage ä", [1, 2, 3])
    assert server.client.keys() == ["Anfrage ä".encode()]
    assert len(manager.take_metrics("Anfrage ä".encode())) == 1


def test_stats(server, manager):
    manager.store_metrics("a", np.zeros((3, 3)))
    manager.store_metrics("a", np.zeros((2, 3)), token_index=3)
    manager.take_metrics("a")
    stats = manager.stats()
    assert (stats.stored, stats.appended, stats.indexed, stats.taken) == (5, 3, 2, 5)
    assert stats.store_latency.count == 2
    assert 0 < stats.store_latency.p50_ns <= stats.store_latency.p99_ns
    assert stats.kernel in ("avx512", "avx2", "neon", "scalar")


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_take_waits_for_what_is_expected(manager):
    manager.store_metrics("a", [1, 2, 3])
    waiter = threading.Timer(0.3, manager.store_metrics, ("a", [4, 5, 6]))
    waiter.start()
    np.testing.assert_array_equal(manager.take_metrics("a", expected=2, timeout=30), [[1, 2, 3], [4, 5, 6]])
    waiter.join()


def test_take_waits_no_longer_than_told(manager):
    manager.store_metrics("a", [1, 2, 3])
    for timeout in (0, 0.25):
        with pytest.raises(TimeoutError, match=f"has 1 after waiting {timeout} s for 2 records; nothing was taken"):
            manager.take_metrics("a", expected=2, timeout=timeout)
    assert manager.count("a") == 1, "nothing was taken"


def test_waits_can_be_interrupted():
    code = (
        "import time, pita_redis\n"
        f"manager = pita_redis.RedisManager(url='redis://127.0.0.1:{free_port()}?write=behind&timeout_ms=1')\n"
        "manager.store_metrics('a', [1, 2, 3])\n"
        "print('waits', flush=True)\n"
        "manager.flush(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "waits\n"
        child.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in child.communicate(timeout=60)[1]


HANDLERS = """
import logging, os, signal, time, pita_redis
manager = pita_redis.RedisManager(url="redis://127.0.0.1:{port}?timeout_ms=2000{options}")
def handle(*_):
    {handle}
class OnLine(logging.Handler):
    def emit(self, record):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
signal.signal(signal.SIGINT, handle)
logging.getLogger("pita_redis").addHandler(OnLine())
try:
    {calls}
finally:
    print("over", flush=True)
"""


def after_a_signal(handle, calls, options=""):
    """How a program ends whose handler runs while the library logs a line."""
    code = HANDLERS.format(port=free_port(), handle=handle, calls=calls, options=options)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_a_signal_handler_may_close():
    calls = "manager.store_metrics('a', [1, 2, 3]); manager.close()"
    assert after_a_signal("manager.close()", calls, "&write=behind").stdout == "over\n"


def test_what_a_signal_handler_raises_is_not_dropped():
    done = after_a_signal("raise KeyboardInterrupt", "manager.ping()")
    assert done.stdout == "over\n"
    assert done.stderr.endswith("KeyboardInterrupt\n"), done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_manager_sent_to_another_process_works_there(manager):
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(manager.store_metrics, "a", [1, 2, 3]).result(60)
    assert manager.count("a") == 1


def test_write_behind(server):
    with RedisManager(url=server.url + "?write=behind") as manager:
        for index in range(100):
            manager.store_metrics("a", [index, 0, 0], token_index=index)
        manager.flush()
        assert len(in_redis(server, "a")) == 100
        assert manager.stats().queued == 0
        manager.store_metrics("b", [1, 2, 3])
    assert in_redis(server, "b") == [(1, 2, 3)], "close writes what is queued"


# --- opening ---------------------------------------------------------------------------------------------------------


def test_pitas_example(server):
    from pita_redis import RedisManager

    redis_client = RedisManager(host="127.0.0.1", port=server.port, db=0)
    redis_client.ping()
    redis_client.close()


def test_parts_that_are_not_given_come_from_the_environment(server, monkeypatch):
    with RedisManager(db=3) as manager:
        manager.store_metrics("a", [1, 2, 3])
    assert server.client.execute_command("SWAPDB", 0, 3)
    assert in_redis(server, "a") == [(1, 2, 3)]
    server.client.execute_command("SWAPDB", 0, 3)
    server.client.config_set("requirepass", "p@ss/word")
    try:
        monkeypatch.setenv("REDIS_PASSWORD", "p@ss/word")
        with RedisManager(host="127.0.0.1") as manager:
            manager.ping()
        monkeypatch.setenv("REDIS_PASSWORD", "guess")
        with RedisManager(host="127.0.0.1") as manager, pytest.raises(pita_redis.AuthError) as caught:
            manager.ping()
        assert "guess" not in str(caught.value)
    finally:
        server.client.config_set("requirepass", "")


def test_valkeys_names_count_where_redis_has_none(server, monkeypatch):
    monkeypatch.delenv("REDIS_HOST")
    monkeypatch.delenv("REDIS_PORT")
    monkeypatch.setenv("VALKEY_PORT", str(server.port))
    for arguments in ({}, {"host": "127.0.0.1"}, {"db": 0}):
        with RedisManager(**arguments) as manager:
            manager.ping()


def test_a_url_says_everything(server):
    with RedisManager(url=f"{server.url}/2?prefix=x:") as manager:
        manager.store_metrics("a", [1, 2, 3])
    server.client.execute_command("SWAPDB", 0, 2)
    assert server.client.keys() == [b"x:a"]


def test_managers_share_the_pool_until_the_last_is_closed(server):
    first, second = RedisManager(), RedisManager()
    with pytest.raises(ValueError, match="already open"):
        RedisManager(db=5)
    first.close()
    first.close()
    second.ping()
    second.close()
    with pytest.raises(pita_redis.NotOpenError):
        second.ping()
    with RedisManager(db=5) as other:
        other.ping()


def test_a_manager_that_is_gone_holds_the_pool_no_longer(server):
    manager = RedisManager()
    manager.ping()
    del manager
    with RedisManager(db=5) as other:
        other.ping()
    kept = RedisManager()
    gone = RedisManager()
    del gone
    with pytest.raises(pita_redis.ConfigError):
        RedisManager(db=5)
    kept.close()
    with pytest.raises(pita_redis.NotOpenError):
        kept.ping()


def test_a_manager_may_go_while_another_opens(server):
    """The collector runs whenever it likes, even in the thread that holds the lock."""
    manager = RedisManager()
    with _pool._shares.lock:
        del manager
    with RedisManager(db=5) as other:
        other.ping()


def test_a_manager_that_could_not_be_made_holds_nothing(server):
    with pytest.raises(ValueError):
        RedisManager(url="redis://localhost?no_such_option=1")
    gc.collect()
    with RedisManager() as manager:
        manager.ping()


@pytest.mark.parametrize(
    "environment, arguments, url",
    [
        ({"HOST": "h", "PORT": "7", "DB": "2"}, {"db": 3}, "redis://h:7/3"),
        ({"USERNAME": "us/er"}, {"host": "h"}, "redis://us%2Fer@h:6379/0"),
        ({"PASSWORD": "p@ss"}, {"host": "h"}, "redis://:p%40ss@h:6379/0"),
        ({"USERNAME": "u", "PASSWORD": "p"}, {"port": 1}, "redis://u:p@localhost:1/0"),
        ({"URL": "redis://elsewhere"}, {"host": "h"}, "redis://h:6379/0"),
        ({"HOST": ""}, {"host": "", "port": 1}, "redis://localhost:1/0"),
        ({}, {"host": "0:0:0:0:0:0:0:1"}, "redis://[::1]:6379/0"),
        ({}, {"host": "a b%"}, "redis://a%20b%25:6379/0"),
    ],
)
def test_the_url_of_parts(monkeypatch, environment, arguments, url):
    for name in ("URL", "HOST", "PORT", "DB", "USERNAME", "PASSWORD"):
        monkeypatch.delenv("REDIS_" + name, raising=False)
        monkeypatch.delenv("VALKEY_" + name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv("REDIS_" + name, value)
    asked = {"host": None, "port": None, "db": None, **arguments}
    assert _url_of(**asked) == url


@pytest.mark.parametrize(
    "environment, arguments, words",
    [
        ({}, {"port": 0}, "port is 0, not from 1 to 65535"),
        ({}, {"db": -1}, "db is -1"),
        ({}, {"db": 2**31}, "db is 2147483648"),
        ({"PORT": "tcp://10.0.0.1:6379"}, {"db": 1}, "REDIS_PORT is 'tcp://10.0.0.1:6379'"),
        ({"DB": "70000000000"}, {"port": 1}, "REDIS_DB is 70000000000"),
        ({}, {"host": "h:6379"}, "host is 'h:6379'"),
        ({"HOST": "redis://h"}, {"port": 1}, "REDIS_HOST is 'redis://h'"),
        ({}, {"host": "user:secret@h"}, "host has an '@'"),
    ],
)
def test_parts_that_are_no_parts(server, monkeypatch, environment, arguments, words):
    for name, value in environment.items():
        monkeypatch.setenv("REDIS_" + name, value)
    with pytest.raises(ValueError) as caught:
        RedisManager(**arguments)
    assert words in str(caught.value) and "secret" not in str(caught.value)


def test_start_and_stop_a_private_server(monkeypatch, server):
    port = free_port()
    monkeypatch.setenv("REDIS_PORT", str(port))
    RedisManager.start()
    RedisManager.start()
    with RedisManager() as manager:
        manager.store_metrics("a", [1, 2, 3])
        manager.start()
        assert manager.count("a") == 1
        RedisManager.stop()
        with pytest.raises(ConnectionError):
            manager.ping()
        manager.start()
        manager.ping()
        assert manager.count("a") == 0, "it is a new one"
    RedisManager.stop()
    RedisManager.stop()


def test_start_leaves_a_server_alone_that_is_there(server):
    RedisManager.start()
    RedisManager.stop()
    with RedisManager() as manager:
        manager.ping()


def test_start_of_a_manager_is_where_that_manager_is(server):
    with RedisManager(port=free_port()) as manager:
        with pytest.raises(ConnectionError):
            manager.ping()
        manager.start()
        manager.ping()
        manager.stop()


def test_start_loses_nothing_that_is_queued(server):
    with RedisManager(url=f"redis://127.0.0.1:{free_port()}?write=behind&timeout_ms=60000") as manager:
        manager.store_metrics("a", [1, 2, 3], token_index=0)
        manager.start()
        manager.flush(60)
        assert manager.count("a") == 1
        manager.stop()


def test_start_asks_nothing_of_a_server_elsewhere_that_answers(server, monkeypatch):
    monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
    RedisManager.start()
    monkeypatch.setenv("REDIS_URL", "redis://192.0.2.1?connect_timeout_ms=50")
    with pytest.raises(pita_redis.ConfigError, match="another machine"):
        RedisManager.start()


def test_start_is_documented():
    assert "private redis-server" in RedisManager.start.__doc__
    assert RedisManager.start.__name__ == "start"


def test_start_says_why_there_is_none(monkeypatch, server):
    monkeypatch.setenv("REDIS_PORT", str(free_port()))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConnectionError, match="redis-server"):
        RedisManager.start()


# --- every exception -------------------------------------------------------------------------------------------------


def test_not_open(manager):
    manager.close()
    for call in (manager.ping, manager.stats, lambda: manager.take_metrics("a"), lambda: manager.count("a")):
        with pytest.raises(pita_redis.NotOpenError, match="make a new one"):
            call()


def test_invalid_arguments(manager):
    row = np.zeros(3, np.float32)
    for call, words in [
        (lambda: manager.store_logits_metrics("", row), "empty"),
        (lambda: manager.store_logits_metrics("x" * 1025, row), "longer than 1024"),
        (lambda: manager.store_logits_metrics("a", row, 0), "temperature"),
        (lambda: manager.store_logits_metrics("a", row, math.nan), "temperature"),
        (lambda: manager.store_logits_metrics("a", row, metrics=0), "metrics"),
        (lambda: manager.store_logits_metrics_batch(["a"], row, row_of=[1]), "row"),
        (lambda: manager.store_metrics("a", np.zeros((0, 3))), "count"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert caught.type is pita_redis.InvalidArgumentError
    for call, words in [
        (lambda: manager.store_logits_metrics("a\0b", row), "NUL"),
        (lambda: manager.store_logits_metrics_batch(["a", "b"], row), "2 req_ids for 1 rows"),
        (lambda: manager.store_logits_metrics_batch(["a"], row, [1, 2]), r"temperatures has the shape \(2,\)"),
        (lambda: manager.store_logits_metrics_batch(["a"], row, row_of=[-1]), "row_of is -1, not from 0"),
        (lambda: manager.store_logits_metrics_batch(["a"], row, token_indices=[2**63]), "token_indices is 9223372036854775808"),
        (lambda: manager.store_logits_metrics("a", row, token_index=2**64), "token_indices is 18446744073709551616"),
        (lambda: manager.store_logits_metrics_batch(["a"], row, metrics=[2**32 + 1]), "metrics is 4294967297"),
        (lambda: manager.store_metrics("a", [1, 2, 3], token_index=2**63), "token_index is 9223372036854775808"),
        (lambda: manager.take_metrics("a", expected=2**64), "expected is 18446744073709551616"),
        (lambda: manager.store_logits_metrics_batch([], row, row_of=[]), "len"),
        (lambda: manager.store_metrics("a", np.zeros((2, 2))), r"\(2, 2\), not \(n, 3\)"),
        (lambda: manager.take_metrics("a", timeout=1), "expected"),
        (lambda: RedisManager("fe80::1%eth0"), "host is 'fe80::1%eth0': an address with a scope"),
        (lambda: manager.take_metrics("\ud800"), "req_id '.ud800' cannot be UTF-8"),
        (lambda: manager.store_logits_metrics("a", np.zeros(3, np.float32), 1e300), "temperature is inf"),
        (lambda: manager.take_metrics("a", expected=-1), "-1"),
        (lambda: manager.take_metrics("a", expected=1, timeout=-1), "timeout"),
        (lambda: manager.flush(math.nan), "timeout"),
        (lambda: manager.store_logits_metrics("\ud800", row), "surrogates"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    assert manager.count("a") == 0


def test_wrong_types(manager):
    row = np.zeros(3, np.float32)
    for call, words in [
        (lambda: manager.store_logits_metrics(7, row), "req_id is a int"),
        (lambda: manager.store_logits_metrics(None, row), "req_id is None"),
        (lambda: manager.take_metrics("a", expected=1, timeout="1"), "timeout is a str"),
        (lambda: manager.store_logits_metrics_batch("abc", np.zeros((3, 3), np.float32)), "a single id"),
        (lambda: manager.store_logits_metrics_batch(["a"], row, ["x"]), "temperatures"),
        (lambda: manager.store_logits_metrics_batch(["a"], row, token_indices=[0.5]), "token_indices"),
        (lambda: manager.store_metrics("a", [1, 2, 3], token_index=0.5), "token_index is a float"),
        (lambda: manager.take_metrics("a", expected="1"), "expected is a str"),
        (lambda: RedisManager(host=7), "host is a int"),
        (lambda: RedisManager(port="6379"), "port is a str"),
        (lambda: RedisManager(url=7), "url is a int"),
        (lambda: RedisManager("localhost", url="redis://localhost"), "not both"),
    ]:
        with pytest.raises(TypeError, match=words):
            call()


def test_a_bad_request_of_a_batch_does_not_stop_the_others(server, manager):
    server.client.set("b", "no list")
    with pytest.raises(pita_redis.ServerError, match="WRONGTYPE") as caught:
        manager.store_logits_metrics_batch(["a", "b", "c"], reference.rows(3, 10), token_indices=[0, 0, 5])
    assert caught.value.statuses.tolist() == [0, -7, -11]
    assert caught.value.name == "PITA_ERR_REDIS"
    assert len(in_redis(server, "a")) == 1


def test_gap(manager):
    with pytest.raises(pita_redis.GapError):
        manager.store_metrics("a", [1, 2, 3], token_index=1)


def test_bad_record(server, manager):
    server.client.rpush("a", "1,2,3", "no record")
    with pytest.raises(pita_redis.BadRecordError):
        manager.take_metrics("a")
    assert server.client.llen("a") == 2


def test_config(server):
    for url in ("redis://localhost:port", "redis://localhost/0?no_such_option=1", "http://localhost"):
        with pytest.raises(ValueError, match="PITA_ERR_CONFIG"):
            RedisManager(url=url)


def test_unavailable_and_timeout(own_server):
    with RedisManager(url=own_server.url + "?timeout_ms=200") as manager:
        manager.ping()
        own_server.client.execute_command("CLIENT", "PAUSE", 60000, "ALL")
        with pytest.raises((TimeoutError, ConnectionError)):
            manager.ping()
        own_server.stop()

        def is_away():
            with pytest.raises((ConnectionError, TimeoutError)) as caught:
                manager.take_metrics("a")
            return isinstance(caught.value, pita_redis.UnavailableError)

        eventually(is_away)


def test_uncertain(own_server):
    with RedisManager(url=own_server.url + "?timeout_ms=300") as manager:
        manager.ping()
        own_server.client.execute_command("CLIENT", "PAUSE", 60000, "ALL")
        with pytest.raises(pita_redis.UncertainError) as caught:
            manager.store_metrics("a", [1, 2, 3])
        assert isinstance(caught.value, ConnectionError)


def test_queue_full(own_server):
    with RedisManager(url=own_server.url + "?write=behind&queue=10&timeout_ms=50") as manager:
        own_server.stop()

        def fills():
            try:
                manager.store_metrics("a", [1, 2, 3])
            except pita_redis.QueueFullError:
                return True
            return False

        eventually(fills)
        with pytest.raises(TimeoutError, match="10"):
            manager.flush(0)
        with pytest.raises(TimeoutError, match="10"):
            manager.close()


def test_exceptions_cross_processes():
    error = pickle.loads(pickle.dumps(pita_redis.DeadlineError("words")))
    assert (type(error), error.status, error.message) == (pita_redis.DeadlineError, -5, "words")


# --- the log ---------------------------------------------------------------------------------------------------------


def test_the_librarys_lines_go_to_pythons_logging(own_server, caplog):
    caplog.set_level(logging.DEBUG, "pita_redis")
    with RedisManager(url=own_server.url + "?timeout_ms=200") as manager:
        manager.ping()
        own_server.stop()
        with pytest.raises(ConnectionError):
            manager.ping()
    levels = {record.levelname for record in caplog.records if record.name == "pita_redis"}
    assert {"INFO", "DEBUG", "WARNING"} <= levels
    assert any("open: " in record.message for record in caplog.records)


# --- threads ---------------------------------------------------------------------------------------------------------


def test_threads_store_side_by_side(manager):
    logits = reference.rows(1, 100)[0]

    def store(name):
        for index in range(50):
            manager.store_logits_metrics(name, logits, token_index=index)

    threads = [threading.Thread(target=store, args=(f"t{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        assert manager.take_metrics(f"t{i}").shape == (50, 3)


def test_a_wait_lets_other_threads_run(manager):
    began = threading.Event()
    taken = []

    def take():
        began.set()
        taken.append(manager.take_metrics("a", expected=1, timeout=30))

    thread = threading.Thread(target=take)
    thread.start()
    began.wait()
    manager.store_metrics("a", [1, 2, 3])
    thread.join()
    assert taken[0].tolist() == [[1, 2, 3]]
