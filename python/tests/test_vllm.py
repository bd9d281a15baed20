"""The processor for vLLM, driven as each interface drives it: call sequences recorded from engines."""

import contextlib
import copy
import importlib.metadata
import inspect
import logging
import types

import numpy as np
import pytest

import dlpack
import pita_redis
import reference
import vllm_stand_in
from conftest import eventually, free_port

vllm_stand_in.install()

from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality  # noqa: E402
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2LogitsProcessor  # noqa: E402

from pita_redis.vllm import LogitsMetricsProcessor  # noqa: E402

VOCABULARY = 50


def params(req_id=None, temperature=0.25, **others):
    """SamplingParams as the engine has them."""
    (only,) = samples(req_id, 1, temperature=temperature, **others)
    return only


def samples(req_id, n, temperature=0.25, seed=None, **others):
    """Those of each of n samples: admitted, and then made into one request each, with a seed each if there is one."""
    extra = None
    if req_id is not None:
        extra = {"req_id": req_id, "normalization_constants": True, "entropy": True}
    parent = types.SimpleNamespace(extra_args=extra, temperature=temperature, n=n, max_tokens=None, seed=seed, **others)
    LogitsMetricsProcessor.validate_params(parent)
    return split(parent)


def split(parent):
    """As vLLM's ParentRequest does."""
    children = [copy.copy(parent) for _ in range(parent.n)]
    for number, child in enumerate(children):
        child.n = 1
        if parent.n > 1 and parent.seed is not None:
            child.seed = parent.seed + number
    return children


def config(ranks=1, rank=0, sharded=False):
    model_config = types.SimpleNamespace(max_model_len=1000, logits_processors=None)
    parallel_config = types.SimpleNamespace(tensor_parallel_size=ranks, rank=rank, enable_batch_sharded_sampling=sharded)
    return types.SimpleNamespace(speculative_config=None, model_config=model_config, parallel_config=parallel_config)


class V1Engine:
    """A batch as V1 keeps it: rows without gaps, and updates that tell of changes."""

    def __init__(self, server, ranks=1):
        self.server = server
        self.processors = [LogitsMetricsProcessor(config(ranks, rank), "cpu", False) for rank in range(ranks)]
        self.rows = []
        self.seed = 0
        self.wanted = {}
        self._changes = {"removed": [], "added": [], "moved": []}

    def add(self, name, params, row=None, prompt=(1, 2, 3), tokens=None):
        """A request comes, into a row that another one has left in the same step, or behind the last one."""
        request = types.SimpleNamespace(name=name, params=params, tokens=[] if tokens is None else tokens)
        if row is None:
            self.rows.append(request)
            row = len(self.rows) - 1
        else:
            self.rows[row] = request
        self._changes["added"].append((row, params, list(prompt), request.tokens))
        return request

    def remove(self, *rows):
        """Requests end: the last ones move into their rows."""
        removed = sorted(rows, reverse=True)
        for row in sorted(rows):
            self.rows[row] = None
        while removed:
            last = len(self.rows) - 1
            while last >= 0 and self.rows[last] is None:
                self.rows.pop()
                last -= 1
            empty = removed[-1]
            if empty >= last:
                break
            removed.pop()
            self.rows[empty] = self.rows.pop()
            self._changes["moved"].append((last, empty, MoveDirectionality.UNIDIRECTIONAL))
        self._changes["removed"] += removed

    def swap(self, a, b):
        self.rows[a], self.rows[b] = self.rows[b], self.rows[a]
        self._changes["moved"].append((a, b, MoveDirectionality.SWAP))

    def step(self, unfinished=(), more_rows=0, token=None):
        """One forward pass. Rows of `unfinished` prefills make no token."""
        self.seed += 1
        logits = reference.rows(len(self.rows) + more_rows, VOCABULARY, self.seed)
        changes, self._changes = self._changes, {"removed": [], "added": [], "moved": []}
        update = BatchUpdate(len(self.rows), **changes) if any(changes.values()) else None
        before = logits.copy()
        for processor in self.processors:
            processor.update_state(update)
            assert processor.apply(logits) is logits
        np.testing.assert_array_equal(logits, before)
        for row, request in enumerate(self.rows):
            if row not in unfinished:
                metrics = reference.metrics(logits[row], request.params.temperature)
                self.wanted.setdefault(request.name, []).append(metrics)
                request.tokens.append(self.seed if token is None else token)

    def check(self, manager, *names):
        """Each list has one record a token, in order; there are no other lists."""
        for name in names:
            np.testing.assert_allclose(manager.take_metrics(name), self.wanted[name], rtol=1e-6, atol=1e-6)
        assert self.server.client.keys() == []


class V2Engine:
    """Slots as V2 keeps them: taken from a free list, rows in any order."""

    def __init__(self, server, slots=8):
        self.server = server
        lengths = lambda: types.SimpleNamespace(np=np.zeros(slots, np.int32))  # noqa: E731
        self.states = types.SimpleNamespace(prompt_len=lengths(), prefill_len=lengths(), index_to_req_id={})
        self.processor = LogitsMetricsProcessor(config(), self.states)
        self.requests = {}
        self.seed = 0
        self.wanted = {}

    def add(self, slot, name, params, prompt=3, tokens=0):
        self.states.prompt_len.np[slot] = prompt
        self.states.prefill_len.np[slot] = prompt + tokens
        self.states.index_to_req_id[slot] = name
        self.requests[slot] = types.SimpleNamespace(name=name, params=params, length=prompt + tokens)
        return self.processor.add_request(slot, params)

    def remove(self, slot):
        del self.requests[slot]

    def step(self, slots=None, chunks=None, rows_per_request=1):
        """One forward pass over some slots, in this order; of `chunks`, only a part of the prefill: up to that length."""
        self.seed += 1
        slots = list(self.requests) if slots is None else slots
        chunks = chunks or {}
        logits = reference.rows(len(slots) * rows_per_request, VOCABULARY, self.seed)
        lengths = [chunks.get(slot, self.requests[slot].length) for slot in slots]
        context = types.SimpleNamespace(
            idx_mapping_np=np.array(slots, np.int32), seq_lens_upper_bound_np=np.array(lengths, np.int32)
        )
        assert self.processor.apply(logits, context) is logits
        for row, slot in enumerate(slots):
            if slot not in chunks:
                request = self.requests[slot]
                metrics = reference.metrics(logits[row], request.params.temperature)
                self.wanted.setdefault(request.name, []).append(metrics)
                request.length += 1

    check = V1Engine.check


@pytest.fixture(autouse=True)
def seeds(monkeypatch):
    """As with a GPU, wherever the tests run."""
    monkeypatch.setattr("pita_redis.vllm._may_seed", lambda: True)


@pytest.fixture
def no_seeds(seeds, monkeypatch):
    """As on a CPU."""
    monkeypatch.setattr("pita_redis.vllm._may_seed", lambda: False)


@pytest.fixture
def v1(manager, server):
    return V1Engine(server)


@pytest.fixture
def v2(manager, server):
    return V2Engine(server)


# --- both interfaces -------------------------------------------------------------------------------------------------


def test_it_is_a_processor_of_both_interfaces():
    assert issubclass(LogitsMetricsProcessor, LogitsProcessor)
    assert issubclass(LogitsMetricsProcessor, V2LogitsProcessor)
    assert not inspect.isabstract(LogitsMetricsProcessor)
    (entry,) = [
        entry
        for entry in importlib.metadata.distribution("pita-redis").entry_points
        if entry.group == "vllm.logits_processors"
    ]
    assert entry.load() is LogitsMetricsProcessor


def admitted(n=1, seed=None, **extra):
    asked = types.SimpleNamespace(extra_args={"entropy": True, **extra}, temperature=1.0, n=n, seed=seed)
    LogitsMetricsProcessor.validate_params(asked)
    return asked


@pytest.mark.parametrize("req_id", ["", 7, None, "a\0b", "x" * 1025])
def test_a_bad_id_is_refused_at_admission(req_id):
    with pytest.raises(ValueError, match="req_id"):
        admitted(req_id=req_id)


def test_somebody_elses_id_is_no_concern_of_ours():
    admitted(req_id=7, entropy=False)
    LogitsMetricsProcessor.validate_params(types.SimpleNamespace(extra_args={"req_id": 7}, n=1))
    LogitsMetricsProcessor.validate_params(types.SimpleNamespace(extra_args=None, n=1))


def test_the_number_of_samples_fits_into_the_id():
    admitted(req_id="x" * 1022, n=10)
    with pytest.raises(ValueError, match="1025"):
        admitted(req_id="x" * 1022, n=11)


def test_admission_leaves_the_callers_arguments_alone():
    extra = {"req_id": "a", "entropy": True}
    asked = types.SimpleNamespace(extra_args=extra, n=3, seed=None)
    LogitsMetricsProcessor.validate_params(asked)
    assert extra == {"req_id": "a", "entropy": True}
    assert asked.extra_args != extra


def test_a_switch_is_true_or_false():
    for switch in (True, 1):
        assert admitted(req_id="a", normalization_constants=switch).extra_args["req_id"] == "a"
    for switch in ("false", "true", 2, []):
        with pytest.raises(ValueError, match="normalization_constants is "):
            admitted(req_id="a", normalization_constants=switch)


def test_a_drawn_seed_stays_with_no_other_request(seeds):
    asked = admitted(req_id="a", n=2)
    first = asked.seed
    asked.extra_args = {"req_id": "b", "entropy": True}
    LogitsMetricsProcessor.validate_params(asked)
    assert asked.seed not in (None, first)
    asked.extra_args = None
    LogitsMetricsProcessor.validate_params(asked)
    assert asked.seed is None


def test_a_request_with_samples_gets_a_seed():
    """By which alone the engine can tell them apart."""
    seeds = {admitted(req_id="a", n=2).seed for _ in range(10)}
    assert len(seeds) == 10 and all(0 <= seed < 2**62 for seed in seeds)
    assert admitted(req_id="a", n=1).seed is None
    assert admitted(req_id="a", n=2, seed=5).seed == 5
    assert admitted(req_id="a", n=2, entropy=False).seed is None


def test_parameters_that_come_again_get_another_seed():
    asked = admitted(req_id="a", n=2)
    first = asked.seed
    LogitsMetricsProcessor.validate_params(asked)
    assert asked.seed not in (None, first)
    asked.n = 1
    LogitsMetricsProcessor.validate_params(asked)
    assert asked.seed is None
    assert asked.extra_args == {"req_id": "a", "entropy": True}
    asked = admitted(req_id="a", n=2, seed=5)
    LogitsMetricsProcessor.validate_params(asked)
    assert asked.seed == 5
    asked.n = 1
    LogitsMetricsProcessor.validate_params(asked)
    assert asked.seed == 5


# --- V1 --------------------------------------------------------------------------------------------------------------


def test_v1_requests_come_and_go(v1, manager, server):
    assert not v1.processors[0].is_argmax_invariant()
    v1.add("a", params("a"))
    v1.add("b", params("b", temperature=1.5))
    v1.step()
    v1.add("c", params("c", temperature=0.0))
    v1.rows[2].params.temperature = 1.0  # What a greedy one is divided by.
    v1.step()
    v1.remove(0)
    v1.step()
    v1.step()
    v1.check(manager, "a", "b", "c")
    assert v1.processors[0].failures == 0


def test_v1_rows_without_an_id_between_others(v1, manager, server):
    for name in ("a", None, None, "d"):
        v1.add(name, params(name))
    for _ in range(3):
        v1.step()
    v1.check(manager, "a", "d")


def test_v1_only_what_is_asked_for(v1, manager, server):
    for name, extra in [
        ("a", {"req_id": "a", "entropy": True}),
        ("b", {"req_id": "b", "normalization_constants": True}),
        ("c", {"req_id": "c"}),
    ]:
        asked = params(name)
        asked.extra_args = extra
        v1.add(name, asked)
    v1.step()
    ((a_norm, a_temp, a_entropy),) = manager.take_metrics("a")
    ((b_norm, b_temp, b_entropy),) = manager.take_metrics("b")
    assert (a_norm, a_temp, b_entropy) == (0, 0, 0)
    assert a_entropy > 0 and b_norm != 0 and b_temp != 0
    assert not server.client.keys()


def test_v1_rows_are_swapped_and_moved(v1, manager):
    for name in "abcd":
        v1.add(name, params(name))
    v1.step()
    v1.swap(0, 3)
    v1.swap(1, 0)
    v1.step()
    v1.remove(1)
    v1.step()
    v1.swap(2, 0)
    v1.step()
    v1.check(manager, *"abcd")


def test_v1_a_row_without_an_id_is_swapped(v1, manager, server):
    v1.add("a", params("a"))
    v1.add(None, params())
    v1.step()
    v1.swap(0, 1)
    v1.step()
    v1.swap(0, 1)
    v1.step()
    v1.check(manager, "a")


def test_v1_a_row_is_taken_over_in_the_same_step(v1, manager, server):
    v1.add("a", params("a"))
    v1.step()
    v1.add("b", params("b"), row=0)
    v1.step()
    v1.add(None, params(), row=0)
    v1.step()
    v1.check(manager, "a", "b")


def test_v1_a_row_is_overwritten_by_a_move(v1, manager):
    v1.add("a", params("a"))
    v1.add("b", params("b"))
    v1.step()
    v1.rows[0] = v1.rows.pop()
    v1._changes["moved"].append((1, 0, MoveDirectionality.UNIDIRECTIONAL))
    v1.step()
    v1.check(manager, "a", "b")


def test_v1_chunks_of_a_prefill_make_no_records_of_their_own(v1, manager):
    v1.add("a", params("a"))
    v1.step()
    v1.add("b", params("b"))
    for _ in range(4):
        v1.step(unfinished=[1])
    v1.step()
    v1.step()
    v1.check(manager, "a", "b")


def test_v1_of_tensor_parallel_ranks_the_first_stores(manager, server):
    v1 = V1Engine(server, ranks=2)
    for name in "ab":
        v1.add(name, params(name))
    for _ in range(5):
        v1.step()
    assert manager.stats().stored == 10
    v1.check(manager, "a", "b")


def test_ranks_that_share_the_batch_store_what_they_see(manager, server):
    update = BatchUpdate(1, [], [(0, params("a"), [1], [])], [])
    processor = LogitsMetricsProcessor(config(ranks=2, rank=1, sharded=True), "cpu", False)
    processor.update_state(update)
    processor.apply(reference.rows(1, VOCABULARY))
    assert manager.count("a") == 1


def test_v1_warm_up_has_more_rows_than_requests(v1, manager, server):
    v1.step(more_rows=16)
    v1.add("a", params("a"))
    v1.step(more_rows=3)
    v1.check(manager, "a")


def test_v1_fewer_rows_than_requests_are_no_error(v1, manager):
    v1.add("a", params("a"))
    v1.add("b", params("b"))
    v1.step()
    processor = v1.processors[0]
    processor.apply(reference.rows(1, VOCABULARY))
    assert manager.count("b") == 1
    assert processor.failures == 0


@pytest.mark.parametrize("seed", [None, 7])
def test_v1_samples_have_a_list_each(v1, manager, seed):
    for number, child in enumerate(samples("a", 3, seed=seed)):
        v1.add("a" if number == 0 else f"a:{number}", child)
    for _ in range(4):
        v1.step()
    v1.check(manager, "a", "a:1", "a:2")


def test_v1_samples_come_in_any_order_and_not_all_of_them(v1, manager):
    """As to one engine of several, or by priority, or where some were aborted before."""
    first, _, third, fourth = samples("a", 4)
    v1.add("a:3", fourth)
    v1.step()
    v1.add("a:2", third)
    v1.step()
    v1.remove(0)
    v1.step()
    v1.add("a", first)
    v1.step()
    v1.check(manager, "a", "a:2", "a:3")


def test_v1_preempted_samples_go_on_where_they_were(v1, manager):
    children = samples("a", 3)
    requests = [v1.add(name, child) for name, child in zip(("a", "a:1", "a:2"), children)]
    v1.step(unfinished=[2])
    v1.step(unfinished=[2])
    v1.remove(1, 2)
    v1.step()
    # Tokens come back in a list of their own, and one sample has none yet.
    v1.add("a:2", children[2])
    v1.add("a:1", children[1], tokens=list(requests[1].tokens))
    v1.step(unfinished=[1, 2])
    v1.step()
    v1.check(manager, "a", "a:1", "a:2")


def test_a_sample_with_the_seed_of_none_is_left_out(v1, manager, caplog):
    child, _ = samples("a", 2, seed=5)
    child.seed = 9
    v1.add("a", child)
    v1.step()
    assert manager.count("a") == 0
    assert "the seed 9" in caplog.text


def test_v1_samples_without_seeds_are_numbered_as_they_come(no_seeds, v1, manager):
    for _ in range(2):
        children = samples("a", 3)
        assert children[0].seed is None
        first = v1.add("a", children[0])
        second = v1.add("a:1", children[1])
        v1.step()
        v1.remove(0)
        v1.step()
        v1.add("a:2", children[2])
        # Preempted, and back with the same list of tokens.
        v1.add("a", children[0], tokens=first.tokens)
        v1.step()
        assert len(second.tokens) == 3
        v1.check(manager, "a", "a:1", "a:2")
        v1.wanted.clear()
        v1.remove(0, 1, 2)
        v1.step()


def test_v1_samples_without_seeds_are_left_out_where_they_cannot_be_told(no_seeds, v1, manager, caplog):
    children = samples("a", 2)
    first = v1.add("a", children[0])
    v1.add("a:1", children[1])
    v1.step()
    v1.remove(0)
    v1.step()
    # A list of tokens that was made anew.
    v1.add("a", children[0], tokens=list(first.tokens))
    v1.step()
    v1.wanted["a"].pop()
    v1.check(manager, "a", "a:1")
    assert "a: this request is left out: which of its samples" in caplog.text
    assert not v1.processors[0].failures


@pytest.mark.parametrize("place, name, value", [
    ("parallel_config", "data_parallel_size", 2),
    ("parallel_config", "data_parallel_index", 1),
    ("scheduler_config", "policy", "priority"),
])
def test_v1_samples_without_seeds_have_no_order_everywhere(no_seeds, manager, caplog, place, name, value):
    made = config()
    made.scheduler_config = types.SimpleNamespace(policy="fcfs")
    setattr(getattr(made, place), name, value)
    processor = LogitsMetricsProcessor(made, "cpu", False)
    processor.update_state(BatchUpdate(1, [], [(0, samples("a", 2)[1], [1], [])], []))
    processor.apply(reference.rows(1, VOCABULARY))
    assert manager.count("a") == 0
    assert "needs a seed" in caplog.text


def test_what_is_remembered_of_samples_without_seeds_is_bounded(no_seeds, v1, monkeypatch):
    monkeypatch.setattr("pita_redis.vllm._UNSEEDED", 10)
    for number in range(30):
        v1.add(f"r{number}", samples(f"r{number}", 2)[0])
        v1.step()
    assert len(v1.processors[0]._arrivals._requests) == 10


def test_v1_a_preempted_request_goes_on_where_it_was(v1, manager):
    request = v1.add("a", params("a"))
    v1.step()
    v1.step()
    v1.remove(0)
    v1.step()
    v1.add("a", params("a"), tokens=request.tokens)
    v1.step(unfinished=[0])
    v1.step()
    v1.check(manager, "a")


def test_v1_samples_of_the_next_request_by_the_same_name(v1, manager):
    for _ in range(2):
        for name, child in zip(("a", "a:1"), samples("a", 2)):
            v1.add(name, child)
        v1.step()
        v1.check(manager, "a", "a:1")
        v1.wanted.clear()
        v1.remove(0, 1)
        v1.step()


def test_v1_tokens_that_are_not_known_yet_count(v1, manager):
    """With asynchronous scheduling a token is -1 until it has come from the device."""
    asked = params("a", eos_token_id=2)
    asked.max_tokens = 3
    v1.add("a", asked)
    for _ in range(3):
        v1.step(token=-1)
    wanted = list(v1.wanted["a"])
    v1.step(token=-1)
    v1.wanted["a"] = wanted
    v1.check(manager, "a")


def test_two_requests_at_once_by_one_name_are_told_apart(v1, manager, caplog):
    asked = params("a")
    v1.add("first", asked)
    v1.step()
    v1.add("a", asked)
    for _ in range(3):
        v1.step()
    v1.check(manager, "a")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "a: two requests at once" in caplog.text


@pytest.mark.parametrize(
    "limits, prompt",
    [({"max_tokens": 2}, 3), ({"max_tokens": 100}, 998), ({"stop_token_ids": [2]}, 3), ({"eos_token_id": 2}, 3)],
)
def test_v1_a_step_past_the_end_makes_no_record(v1, manager, limits, prompt):
    asked = params("a")
    for name, value in limits.items():
        setattr(asked, name, value)
    v1.add("a", asked, prompt=[1] * prompt)
    v1.step()
    v1.step()
    wanted = list(v1.wanted["a"])
    v1.step()  # Scheduled ahead: the tokens' ends were not known yet.
    v1.wanted["a"] = wanted
    v1.check(manager, "a")


def test_v1_a_stop_token_that_does_not_stop_is_a_token(v1, manager):
    asked = params("a", eos_token_id=1, ignore_eos=True)
    v1.add("a", asked)
    for _ in range(3):
        v1.step()
    v1.check(manager, "a")


def test_v1_a_step_after_the_list_was_taken_does_not_bring_it_back(v1, manager, server, caplog):
    caplog.set_level(logging.INFO, "pita_redis")
    v1.add("a", params("a"))
    v1.step()
    v1.step()
    v1.check(manager, "a")
    v1.step()
    v1.step()
    assert not server.client.keys()
    assert v1.processors[0].failures == 0
    assert {record.levelno for record in caplog.records if "list is gone" in record.message} == {logging.INFO}


# --- V2 --------------------------------------------------------------------------------------------------------------


def test_v2_requests_come_and_go(v2, manager, server):
    assert v2.add(3, "a", params("a"))
    assert v2.add(5, "b", params("b", temperature=1.5))
    v2.step()
    assert not v2.add(0, None, params())
    v2.step(slots=[5, 0, 3])
    v2.remove(3)
    v2.step()
    v2.check(manager, "a", "b")


def test_v2_warm_up_without_an_id(v2, manager, server):
    for slot in range(8):
        assert not v2.add(slot, None, params())
    v2.step()
    assert not server.client.keys()
    assert v2.processor.failures == 0


def test_v2_a_slot_is_used_again(v2, manager, server):
    v2.add(1, "a", params("a"))
    v2.step()
    v2.remove(1)
    v2.add(1, None, params())
    v2.step()
    v2.remove(1)
    v2.add(1, "c", params("c"), prompt=7)
    v2.step()
    v2.step()
    v2.check(manager, "a", "c")


def test_v2_chunks_of_a_prefill_make_no_records(v2, manager, server):
    v2.add(1, "a", params("a"), prompt=10)
    for length in (4, 8):
        v2.step(chunks={1: length})
    assert not server.client.keys()
    v2.step()
    v2.step()
    v2.check(manager, "a")


def test_v2_a_preempted_request_goes_on_where_it_was(v2, manager):
    v2.add(1, "a", params("a"), prompt=4)
    v2.step()
    v2.step()
    v2.remove(1)
    v2.add(6, "a", params("a"), prompt=4, tokens=2)
    v2.step(chunks={6: 5})
    v2.step()
    v2.check(manager, "a")


def test_v2_samples_have_a_list_each(v2, manager):
    for slot, (name, child) in enumerate(zip(("a", "a:1", "a:2"), samples("a", 3))):
        v2.add(slot, name, child)
    v2.step()
    v2.step(slots=[2, 0, 1])
    v2.check(manager, "a", "a:1", "a:2")


def test_v2_preempted_samples_go_on_where_they_were(v2, manager):
    first, second = samples("a", 2)
    v2.add(0, "a", first)
    v2.add(1, "a:1", second, prompt=10)
    v2.step(chunks={1: 5})
    v2.remove(1)
    v2.step()
    # In its prefill, and then with tokens.
    v2.add(2, "a:1", second, prompt=10)
    v2.step()
    v2.step()
    v2.remove(0)
    v2.add(1, "a", first, tokens=4)
    v2.step()
    v2.check(manager, "a", "a:1")


def test_v2_several_rows_a_request_are_refused(v2, manager, server, caplog):
    v2.add(0, "a", params("a"))
    v2.step(rows_per_request=2)
    assert not server.client.keys()
    assert "speculative" in caplog.text


def test_v2_a_step_past_the_end_makes_no_record(v2, manager):
    asked = params("a")
    asked.max_tokens = 2
    v2.add(0, "a", asked)
    v2.step()
    v2.step()
    wanted = list(v2.wanted["a"])
    v2.step()
    v2.wanted["a"] = wanted
    v2.check(manager, "a")


# --- faults ----------------------------------------------------------------------------------------------------------


def named(speculative):
    made = config()
    made.speculative_config = speculative
    made.model_config.logits_processors = ["other:Processor", "pita_redis.vllm:LogitsMetricsProcessor"]
    return made


def test_speculative_decoding_is_refused_where_the_processor_was_asked_for():
    states = types.SimpleNamespace()
    with pytest.raises(ValueError, match="speculative decoding"):
        LogitsMetricsProcessor(named("ngram"), states)
    LogitsMetricsProcessor(named(None), states)


def test_speculative_decoding_runs_on_where_the_package_is_only_installed(server, caplog):
    made = config()
    made.speculative_config = "ngram"
    states = types.SimpleNamespace(prompt_len=types.SimpleNamespace(np=[3]), prefill_len=types.SimpleNamespace(np=[3]))
    processor = LogitsMetricsProcessor(made, states)
    assert not processor.add_request(0, params("a"))
    assert "a: metrics" in caplog.text


def test_an_engine_with_two_of_them_stores_once(manager):
    made = config()
    first, second = (LogitsMetricsProcessor(made, "cpu", False) for _ in range(2))
    update = BatchUpdate(1, [], [(0, params("a"), [1], [])], [])
    for processor in (first, second):
        processor.update_state(update)
        processor.apply(reference.rows(1, VOCABULARY))
    assert manager.stats().stored == 1


def test_an_engine_that_is_made_anew_stores_though_the_old_one_is_still_there(manager):
    made = config()
    states = types.SimpleNamespace(prompt_len=types.SimpleNamespace(np=[3]), prefill_len=types.SimpleNamespace(np=[3]))
    old = LogitsMetricsProcessor(made, states)
    assert old.add_request(0, params("a"))
    new = LogitsMetricsProcessor(made, states)
    assert new.add_request(0, params("b"))
    assert not old.add_request(0, params("c"))


def test_what_an_engine_tells_and_nobody_understands_does_not_stop_it(v1, manager, caplog):
    v1.add("a", params("a"))
    v1.step()
    processor = v1.processors[0]
    processor.update_state(types.SimpleNamespace(removed=[], added=[(0,)], moved=[]))
    assert "a bug in pita_redis" in caplog.text
    v1.step()
    assert manager.count("a") == 1, "whose row it is is not known any more"
    v2 = LogitsMetricsProcessor(config(), types.SimpleNamespace(prompt_len=None))
    assert not v2.add_request(0, params("b"))
    v1.add("c", params("c"))
    v1.step()
    assert manager.count("c") == 1


@contextlib.contextmanager
def pool_of(monkeypatch, url):
    """The environment that an engine finds."""
    monkeypatch.setenv("REDIS_URL", url)
    with pita_redis.RedisManager() as manager:
        yield manager


def test_a_server_that_is_away_does_not_stop_the_engine(server, monkeypatch, caplog):
    with pool_of(monkeypatch, f"redis://127.0.0.1:{free_port()}?timeout_ms=100"):
        v1 = V1Engine(server)
        v1.add("a", params("a"))
        for _ in range(20):
            v1.step()
        assert v1.processors[0].failures == 1, "nothing behind the first can be stored"
    lines = [record for record in caplog.records if "were not stored" in record.message]
    assert len(lines) == 1 and lines[0].levelno == logging.WARNING


def test_a_server_that_comes_back_is_used_again(own_server, monkeypatch, server):
    with pool_of(monkeypatch, own_server.url + "?timeout_ms=100") as manager:
        v1 = V1Engine(own_server)
        v1.add("lost", params("lost"))
        v1.step()
        own_server.stop()
        v1.step()
        own_server.start()
        eventually(lambda: not isinstance(_failure(manager.ping), pita_redis.PitaError))
        v1.add("new", params("new"))
        v1.step()
        v1.step()
        v1.check(manager, "new")
        assert own_server.client.keys() == []


def _failure(call):
    try:
        call()
    except pita_redis.PitaError as error:
        return error
    return None


def test_behind_a_server_that_is_away_is_waited_for(own_server, monkeypatch, server):
    with pool_of(monkeypatch, own_server.url + "?write=behind&timeout_ms=1000") as manager:
        v1 = V1Engine(own_server)
        v1.add("a", params("a"))
        own_server.stop()
        for _ in range(10):
            v1.step()
        own_server.start()
        eventually(lambda: own_server.client.llen("a") == 10)
        v1.check(manager, "a")
        assert v1.processors[0].failures == 0


def test_a_wrong_url_does_not_stop_the_engine(server, monkeypatch, caplog):
    monkeypatch.setenv("REDIS_URL", "redis://localhost?no_such_option=1")
    v1 = V1Engine(server)
    v1.add("a", params("a"))
    v1.step()
    v1.step()
    assert v1.processors[0].failures == 1
    assert "no_such_option" in caplog.text


def test_the_pool_is_used_as_it_is_open(server, monkeypatch):
    with pita_redis.RedisManager(url=server.url + "?prefix=x:") as manager:
        v1 = V1Engine(server)
        v1.add("a", params("a"))
        v1.step()
        assert server.client.keys() == [b"x:a"]
        v1.check(manager, "a")


def test_a_pool_that_was_closed_is_opened_again(server):
    manager = pita_redis.RedisManager()
    v1 = V1Engine(server)
    v1.add("a", params("a"))
    v1.step()
    from pita_redis._native import lib

    lib.pita_redis_close()
    v1.add("b", params("b"))
    v1.step()
    v1.step()
    assert server.client.llen("b") == 2
    manager.close()


def test_a_wrong_type_of_logits_does_not_stop_the_engine(v1, manager, caplog):
    v1.add("a", params("a"))
    processor = v1.processors[0]
    processor.update_state(BatchUpdate(1, [], [(0, params("a"), [1], [])], []))
    assert processor.apply(np.zeros((1, 3))) is not None
    assert processor.failures == 1
    assert "float64" in caplog.text


class OnGpu(dlpack.ByHand):
    """Logits that the library refuses as it does a CUDA tensor without a driver, until they are copied."""

    def __init__(self, logits):
        super().__init__(4096, dlpack.CUDA, dlpack.FLOAT, 32, logits.shape)
        self._logits = logits

    def __getitem__(self, rows):
        return types.SimpleNamespace(cpu=lambda: self._logits[rows])

    def cpu(self):
        raise AssertionError("only the rows that are wanted are copied")


def test_logits_that_cannot_be_read_where_they_are_are_copied(v1, manager, caplog):
    processor = v1.processors[0]
    tokens = []
    processor.update_state(BatchUpdate(1, [], [(0, params("a"), [1], tokens)], []))
    rows = reference.rows(3, VOCABULARY)
    for row in rows:
        processor.apply(OnGpu(np.stack([row, row + 1])))
        tokens.append(5)
    np.testing.assert_allclose(manager.take_metrics("a"), [reference.metrics(row, 0.25) for row in rows], rtol=1e-6)
    assert caplog.text.count("copied to the host") == 1
    assert processor.failures == 0
