"""The processor for TensorRT-LLM, called as its PyTorch executor calls: once a request and chunk."""

import inspect
import pickle

import ml_dtypes
import numpy as np
import pytest

import reference
from pita_redis.tensorrt_llm import LogitsMetricsProcessor

VOCABULARY = 50


class Executor:
    """One request of the executor's."""

    def __init__(self, processor, number=1, prompt=4, dtype=np.float32):
        self.processor, self.number, self.dtype = processor, number, dtype
        self.tokens = list(range(prompt))
        self.wanted = []

    def step(self, seed, is_chunk=False):
        logits = reference.rows(1, VOCABULARY, seed).astype(self.dtype)
        self.processor(self.number, logits[:, np.newaxis], [list(self.tokens)], None, None)
        if not is_chunk:
            self.wanted.append(reference.metrics(logits[0].astype(np.float32), 0.25))
            self.tokens.append(seed)

    def check(self, manager, name):
        np.testing.assert_allclose(manager.take_metrics(name), self.wanted, rtol=1e-6, atol=1e-6)


def test_the_executor_asks_for_this_signature():
    assert 4 <= len(inspect.signature(LogitsMetricsProcessor("a")).parameters) <= 5


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_request_is_stored(manager, server, dtype):
    request = Executor(LogitsMetricsProcessor("a", 0.25), dtype=dtype)
    for seed in range(5):
        request.step(seed)
    request.check(manager, "a")
    assert not server.client.keys()


def test_chunks_of_a_prefill_are_replaced(manager):
    request = Executor(LogitsMetricsProcessor("a", 0.25))
    for seed in range(3):
        request.step(seed, is_chunk=True)
    for seed in range(3, 6):
        request.step(seed)
    request.check(manager, "a")


def test_the_prompts_length_may_be_told(manager):
    """As for a request that comes back with tokens of its own."""
    processor = LogitsMetricsProcessor("a", 0.25, prompt_len=4)
    request = Executor(processor)
    request.step(0)
    request.step(1)
    request.processor = pickle.loads(pickle.dumps(LogitsMetricsProcessor("a", 0.25, prompt_len=4)))
    request.step(2)
    request.check(manager, "a")


def test_samples_have_a_list_each(manager, server):
    processor = pickle.loads(pickle.dumps(LogitsMetricsProcessor("a", 0.25, n=2)))
    for generation in range(2):
        samples = [Executor(processor, number=10 * generation + i) for i in range(2)]
        for seed in range(3):
            for i, sample in enumerate(samples):
                sample.step(10 * seed + i)
        samples[0].check(manager, "a")
        samples[1].check(manager, "a:1")
    assert not server.client.keys()


def test_samples_of_which_some_were_aborted_keep_their_numbers(manager, server):
    processor = LogitsMetricsProcessor("a", 0.25, n=3)
    for generation in range(2):
        first, third = (Executor(processor, number=10 * generation + i) for i in (0, 2))
        first.step(0)
        third.step(1)
        first.step(2)
        first.check(manager, "a")
        third.check(manager, "a:2")
    assert not server.client.keys()


@pytest.mark.parametrize("share", [lambda processor: processor, lambda processor: pickle.loads(pickle.dumps(processor))])
def test_two_requests_at_once_by_one_name_are_told_apart(manager, server, caplog, share):
    processor = LogitsMetricsProcessor("a", 0.25)
    first, second = Executor(processor, 1), Executor(share(processor), 2)
    first.step(0)
    second.step(1)
    first.step(2)
    second.step(3)
    second.check(manager, "a")
    assert "a: two requests at once" in caplog.text
    assert not server.client.keys()


def test_an_object_for_many_requests_does_not_grow(manager):
    processor = LogitsMetricsProcessor("a", 0.25, n=2)
    for number in range(200):
        Executor(processor, number=10 * number).step(0)
    assert len(processor._requests) <= 32


def test_only_what_is_asked_for(manager):
    Executor(LogitsMetricsProcessor("a", entropy=False)).step(0)
    ((log_norm, _, entropy),) = manager.take_metrics("a")
    assert log_norm != 0 and entropy == 0


def test_greedy_is_1(manager):
    logits = reference.rows(1, VOCABULARY)
    LogitsMetricsProcessor("a", 0.0)(1, logits[:, np.newaxis], [[1]], None, None)
    np.testing.assert_allclose(manager.take_metrics("a"), [reference.metrics(logits[0])], rtol=1e-6)


def test_rows_of_other_versions(manager):
    logits = reference.rows(1, VOCABULARY)
    LogitsMetricsProcessor("a")(1, logits, [[1]], None, None)
    np.testing.assert_allclose(manager.take_metrics("a"), [reference.metrics(logits[0])], rtol=1e-6)


def test_beam_search_is_refused_and_does_not_stop_the_engine(server, manager, caplog):
    LogitsMetricsProcessor("a")(1, reference.rows(2, VOCABULARY)[:, np.newaxis], [[1], [1]], None, None)
    assert not server.client.keys()
    assert "beam search" in caplog.text


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"req_id": "a\0b"}, "NUL"),
        ({"req_id": ""}, "req_id"),
        ({"req_id": "x" * 1025}, "req_id"),
        ({"req_id": "a", "temperature": float("nan")}, "temperature"),
        ({"req_id": "a", "temperature": -1.0}, "temperature"),
        ({"req_id": "a", "n": 0}, "n is 0"),
        ({"req_id": "a", "normalization_constants": False, "entropy": False}, "neither"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        LogitsMetricsProcessor(**arguments)
