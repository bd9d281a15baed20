"""What the engines' processors share: which tokens still have a place, and what is logged of those that have none."""

import logging

import numpy as np
import pytest

import reference
from pita_redis import _native, errors
from pita_redis._engine import Sample, Store
from pita_redis._logging import Limited


def sample(name="a", request=None, is_resumed=False):
    made = Sample(name, 0, 1.0, 3)
    made.begin(request, is_resumed=is_resumed)
    return made


def fails_with(store, *statuses, names="abcdefgh"):
    """Samples of which each store at index 3 has failed in its way."""
    samples = [sample(name) for name, _ in zip(names, statuses)]
    error = next(errors.BY_STATUS[status]("words") for status in statuses if status != _native.PITA_OK)
    error.statuses = np.array(statuses, np.int32)
    store._count(samples, [3] * len(samples), error)
    return samples


def test_behind_a_missing_token_nothing_has_a_place():
    store = Store()
    for status in (_native.PITA_ERR_UNAVAILABLE, _native.PITA_ERR_QUEUE_FULL, _native.PITA_ERR_TIMEOUT):
        (one,) = fails_with(store, status)
        assert one.takes(3), "the same token may come again"
        one.misses(3)
        assert not one.takes(4)
        assert not one.takes(3), "it was told that there is nothing more"
    assert store.failures == 3


def test_a_missing_token_that_comes_again_is_not_missing():
    (one,) = fails_with(Store(), _native.PITA_ERR_UNAVAILABLE)
    assert one.takes(3)
    assert one.takes(4)


def test_a_list_that_is_gone_while_its_request_runs_is_an_error(caplog):
    (one,) = fails_with(Store(), _native.PITA_ERR_GAP)
    for index in range(4, 8):
        assert not one.takes(index)
    assert not caplog.records, "an engine runs some steps past the end"
    for index in range(8, 20):
        assert not one.takes(index)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "a: its list was lost" in caplog.text


def test_a_request_that_comes_back_takes_no_list_from_another(caplog):
    tokens = [1]
    first = sample(request=tokens)
    second = sample(request=[])
    assert not first.takes(1)
    again = sample(request=tokens, is_resumed=True)
    assert not again.takes(2)
    assert second.takes(0)
    second_again = sample(request=second._request, is_resumed=True)
    assert second_again.takes(1)
    del first, second, second_again
    assert sample(request=tokens, is_resumed=True).takes(3), "it is alone"


def test_a_request_is_known_by_its_name_too():
    first = sample(request="r1")
    again = sample(request="r" + str(1), is_resumed=True)
    assert again.takes(1)
    other = sample(request="r2", is_resumed=True)
    assert not other.takes(1)
    del first


def test_an_uncertain_token_may_be_there():
    store = Store()
    (one,) = fails_with(store, _native.PITA_ERR_UNCERTAIN)
    assert one.takes(4)
    assert store.failures == 1


def test_a_list_that_is_gone_takes_nothing_and_is_no_failure():
    store = Store()
    (one,) = fails_with(store, _native.PITA_ERR_GAP)
    assert not one.takes(3)
    assert store.failures == 0


def test_a_batch_fails_in_parts(caplog):
    caplog.set_level(logging.INFO)
    store = Store()
    ok, gone, away, full = fails_with(
        store, _native.PITA_OK, _native.PITA_ERR_GAP, _native.PITA_ERR_UNAVAILABLE, _native.PITA_ERR_QUEUE_FULL
    )
    assert [one.takes(4) for one in (ok, gone, away, full)] == [True, False, False, False]
    assert store.failures == 2
    lines = {(record.levelname, record.getMessage().rpartition(": ")[2]) for record in caplog.records}
    assert lines == {("INFO", "words"), ("WARNING", "PITA_ERR_UNAVAILABLE"), ("WARNING", "PITA_ERR_QUEUE_FULL")}


def test_lists_that_are_gone_do_not_hide_a_fault(caplog):
    caplog.set_level(logging.INFO)
    store = Store()
    for _ in range(50):
        fails_with(store, _native.PITA_ERR_GAP)
    fails_with(store, _native.PITA_ERR_AUTH)
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert len(caplog.records) == Limited.LINES + 1


def test_the_one_that_came_last_writes_the_list(caplog):
    first = sample()
    assert first.takes(0)
    second = sample()
    assert not first.takes(1)
    assert not first.takes(1)
    assert second.takes(0)
    assert caplog.text.count("two requests at once") == 1
    del first, second
    assert sample().takes(0)
    assert sample("b").takes(0)


def test_a_fault_of_ours_is_logged_as_an_error(server, caplog):
    store = Store()
    one = sample()
    store.store(reference.rows(1, 10), [one], [7], [0])
    store.store(object(), [one], [0], [0])
    assert store.failures == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert not one.takes(1)


def test_a_store_leaves_the_pool_open_for_nobody_once_it_is_gone(server):
    from pita_redis import RedisManager

    store = Store()
    store.store(reference.rows(1, 10), [sample()], [0], [0])
    assert server.client.llen("a") == 1
    with pytest.raises(errors.ConfigError):
        RedisManager(db=3)
    del store
    RedisManager(db=3).close()


# --- lines -----------------------------------------------------------------------------------------------------------


def test_lines_of_a_kind_are_limited(caplog, monkeypatch):
    now = 100.0
    monkeypatch.setattr("pita_redis._logging.time.monotonic", lambda: now)
    limited = Limited()

    def log(times, message="line %d", **others):
        caplog.clear()
        for number in range(times):
            limited.log(logging.WARNING, message, number, **others)
        return [record.getMessage() for record in caplog.records]

    assert log(25) == [f"line {number}" for number in range(10)]
    assert log(1, "other %d") == ["other 0"], "another kind"
    assert log(1, kind="another") == ["line 0"]
    now += Limited.SECONDS
    assert log(2) == ["line 0 (15 like this were left out)", "line 1"]
    now += Limited.SECONDS
    assert log(1) == ["line 0"]
