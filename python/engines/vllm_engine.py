"""A real vLLM engine with the processor: are there as many records as tokens, in order, with the right values?

It makes a tiny random model, generates with it, and compares what comes out of Redis with a recomputation in double precision from
the engine's own logits. Then it measures what the processor costs a step. Redis is found by the environment; see `make test-vllm`.
"""

import os
import statistics
import sys
import tempfile
import time

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vllm import LLM, SamplingParams

import pita_redis
import reference

PROCESSOR = "pita_redis.vllm:LogitsMetricsProcessor"
TOLERANCE = 1e-5


def make_model(folder, vocabulary, hidden):
    """A Llama of two layers with random weights, and a tokenizer of words w3, w4 ..."""
    torch.manual_seed(7)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    # Random logits are all but equal, which would leave little to be wrong.
    model.lm_head.weight.data.mul_(8)
    model.save_pretrained(folder)


def prompt(words, seed):
    numbers = np.random.default_rng(seed).integers(3, 900, words)
    return " ".join(f"w{number}" for number in numbers)


def params(req_id=None, **others):
    extra = {"req_id": req_id, "normalization_constants": True, "entropy": True} if req_id else None
    return SamplingParams(extra_args=extra, **{"temperature": 0.25, "max_tokens": 40, **others})


# --- values ----------------------------------------------------------------------------------------------------------


def requests():
    """Eight at once: long and short prompts, with and without an end, greedy, several samples, one without an id."""
    for i in range(5):
        yield prompt(5 + 30 * i, i), params(f"request {i}", ignore_eos=i % 2 == 0)
    yield prompt(60, 5), params("greedy", temperature=0.0, max_tokens=17)
    yield prompt(20, 6), params("samples", temperature=1.0, n=3, max_tokens=11)
    yield prompt(70, 7), params(None)


def wanted(output, temperature):
    """The metrics of a sample's tokens, from the logits that the engine reports for each token."""
    rows = []
    for logits in output.logprobs:
        row = np.array([entry.logprob for entry in logits.values()])
        rows.append(reference.metrics(row, temperature if temperature >= 1e-5 else 1.0))
    return np.array(rows)


def check_values(folder, manager):
    make_model(folder, 1000, 128)
    llm = LLM(
        folder,
        max_model_len=256,
        max_num_seqs=8,
        # Prompts of up to 125 tokens come in chunks.
        max_num_batched_tokens=32,
        enable_chunked_prefill=True,
        enforce_eager=True,
        logprobs_mode="raw_logits",
        max_logprobs=-1,
        # Installed it is found by itself; named once more it must not store twice.
        logits_processors=[PROCESSOR],
    )
    prompts, parameters = zip(*requests())
    for each in parameters:
        each.logprobs = -1
    tokens = records = samples = 0
    worst = 0.0
    for one, result in zip(parameters, llm.generate(list(prompts), list(parameters), use_tqdm=False)):
        for number, output in enumerate(result.outputs):
            tokens_here = len(output.token_ids)
            if not one.extra_args:
                continue
            name = one.extra_args["req_id"] + (f":{number}" if number else "")
            taken = manager.take_metrics(name, expected=tokens_here, timeout=10)
            assert len(taken) == tokens_here, f"{name}: {len(taken)} records for {tokens_here} tokens"
            expected = wanted(output, one.temperature)
            errors = np.abs(taken - expected) / np.maximum(1, np.abs(expected))
            assert errors.max() < TOLERANCE, f"{name}: token {errors.max(1).argmax()} is off by {errors.max()}"
            samples += 1
            tokens += tokens_here
            records += len(taken)
            worst = max(worst, errors.max())
    left = client().keys()
    assert not left, f"left in Redis: {left}"
    print(
        f"vLLM: {len(prompts)} requests, {samples} lists, {tokens} tokens, {records} records, worst error {worst:.1e}",
        flush=True,
    )
    stop(llm)


# --- cost ------------------------------------------------------------------------------------------------------------


def measure(folder, manager):
    """Steps of eight requests with metrics, and without, in turn, in one engine."""
    make_model(folder, 32000, 512)
    llm = LLM(folder, max_model_len=256, max_num_seqs=8, enforce_eager=True, dtype="float32")
    steps, rounds = 50, 30
    times = {"with": [], "without": []}
    for number in range(2 * rounds + 2):
        name = "with" if number % 2 else "without"
        parameters = [
            params(f"r{number}.{i}" if name == "with" else None, max_tokens=steps, ignore_eos=True) for i in range(8)
        ]
        began = time.perf_counter()
        llm.generate([prompt(4, i) for i in range(8)], parameters, use_tqdm=False)
        # The first two warm up.
        if number >= 2:
            times[name].append((time.perf_counter() - began) / steps)
        if name == "with":
            for i in range(8):
                assert len(manager.take_metrics(f"r{number}.{i}", expected=steps)) == steps
    without = statistics.median(times["without"])
    # Neighbours in time are compared: the machine's pace changes.
    cost = statistics.median(b - a for a, b in zip(times["without"], times["with"]))
    print(
        f"vLLM: a step of 8 requests, V = 32000: {1e3 * without:.2f} ms without metrics, {1e6 * cost:+.0f} us with them "
        f"({100 * cost / without:+.1f} %), medians of {rounds}",
        flush=True,
    )
    stop(llm)


def client():
    import redis

    return redis.Redis(os.environ["REDIS_HOST"], int(os.environ["REDIS_PORT"]))


def stop(llm):
    """Ends the engine's process."""
    llm.llm_engine.engine_core.shutdown()


def main():
    # The engine's process reads it, too.
    os.environ["REDIS_URL"] = f"redis://{os.environ['REDIS_HOST']}:{os.environ['REDIS_PORT']}?write=behind"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    with pita_redis.RedisManager() as manager:
        for part in (check_values, measure):
            with tempfile.TemporaryDirectory() as folder:
                part(folder, manager)


if __name__ == "__main__":
    sys.exit(main())
