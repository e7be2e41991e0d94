"""Stepping 64 sequences by one token: the engine against plain transformers with its own cache.

Both run the same model in the same process on one thread, taking turns, so that the ratio stands
even where the machine is busy. Prints one Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/engine_walk.py
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

from moesubnet.engine.base import Query
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.spec.content import LoadedSpec, Spec, save_spec, spec_files
from moesubnet.wire.step import Want

VOCAB, CONTEXT, SEQUENCES, SEED, ROUNDS = 2048, 256, 64, 0, 3


def main() -> None:
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        spec = _spec(root)
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
        )
        model = AutoModelForCausalLM.from_config(config).eval()
        model.save_pretrained(root)
        engine = TransformersEngine(str(root), spec, threads=1)
    texts = np.random.default_rng(SEED).integers(0, VOCAB, (SEQUENCES, 255), dtype=np.uint32)
    walks = [
        (_engine_walk(engine, texts, f"r{r}"), _plain_walk(model, texts)) for r in range(ROUNDS)
    ]
    prefills = [
        (_engine_prefill(engine, texts, f"p{r}"), _plain_prefill(model, texts))
        for r in range(2 * ROUNDS)
    ]
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}, one thread;")
    print(f"seed {SEED}, {ROUNDS} walks of {SEQUENCES} sequences; medians, spread = max/min.\n")
    print("| work | engine ms | plain transformers ms | ratio |\n|---|---|---|---|")
    for low, high in ((1, 128), (128, 255), (1, 255)):
        _row(
            f"one-token step at {low}–{high} tokens",
            [statistics.median(ours[low:high]) for ours, _ in walks],
            [statistics.median(theirs[low:high]) for _, theirs in walks],
        )
    _row("prefill of 128 tokens", [a for a, _ in prefills], [b for _, b in prefills])


def _row(name: str, ours_s: list[float], theirs_s: list[float]) -> None:
    def cell(values: list[float]) -> str:
        spread = max(values) / min(values)
        return f"{statistics.median(values) * 1e3:.1f} (spread {spread:.2f})"

    ratio = statistics.median(ours_s) / statistics.median(theirs_s)
    print(f"| {name} | {cell(ours_s)} | {cell(theirs_s)} | {ratio:.2f} |")


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _engine_walk(engine: TransformersEngine, texts: np.ndarray, name: str) -> list[float]:
    def step(length: int) -> None:
        engine.rows(
            [Query(f"{name}-{i}", t[:length], length) for i, t in enumerate(texts)], Want("full")
        )

    times = [_seconds(lambda n=length: step(n)) for length in range(texts.shape[1])]
    for i in range(len(texts)):
        engine.forget(f"{name}-{i}")
    return times


def _plain_walk(model: torch.nn.Module, texts: np.ndarray) -> list[float]:
    ids = torch.from_numpy(np.pad(texts, ((0, 0), (1, 0))).astype(np.int64))
    cache = DynamicCache()

    def step(position: int) -> None:
        logits = model(ids[:, position : position + 1], past_key_values=cache).logits[:, -1]
        torch.log_softmax(logits, -1)

    with torch.inference_mode():
        return [_seconds(lambda n=position: step(n)) for position in range(texts.shape[1])]


def _engine_prefill(engine: TransformersEngine, texts: np.ndarray, name: str) -> float:
    queries = [Query(f"{name}-{i}", t[:127], 127) for i, t in enumerate(texts)]
    taken = _seconds(lambda: engine.rows(queries, Want("full")))
    for query in queries:
        engine.forget(query.session)
    return taken


def _plain_prefill(model: torch.nn.Module, texts: np.ndarray) -> float:
    ids = torch.from_numpy(np.pad(texts[:, :127], ((0, 0), (1, 0))).astype(np.int64))
    with torch.inference_mode():
        return _seconds(lambda: model(ids, use_cache=True, logits_to_keep=1))


def _spec(root: Path) -> LoadedSpec:
    """A spec that names any tokenizer of this size; the benchmark encodes no text."""
    vocab = {f"t{i}": i for i in range(VOCAB)}
    Tokenizer(models.WordLevel(vocab, unk_token="t0")).save(str(root / "tokenizer.json"))
    (root / "public.jsonl").write_text(json.dumps({"domain": "none", "text": ""}) + "\n")
    np.save(root / "unigram.npy", np.full(VOCAB, -np.log(VOCAB), dtype=np.float32))

    return save_spec(
        root,
        Spec(
            name="benchmark",
            vocab_size=VOCAB,
            bos_id=0,
            stop_ids=(0,),
            context_tokens=CONTEXT,
            chat_template="",
            min_caller_stake_rao=0,
            **spec_files(root),
        ),
    )


if __name__ == "__main__":
    main()
