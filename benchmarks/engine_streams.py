"""Streams of one model: the engine against plain `generate`, and tokens far into a text.

Both run the same model in the same process on one thread, taking turns, in CPU seconds, so that
the ratios stand even where the machine is busy. Without MODEL: random weights of SmolLM2-135M's
shape. Prints one Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/engine_streams.py [MODEL]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from moesubnet.engine import transformers_engine
from moesubnet.engine.base import Query
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.wire.protocol import Want

TOKENS, ROUNDS, SEED = 32, 3, 0
SMOLLM2 = LlamaConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1_536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8_192,
    tie_word_embeddings=True,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as directory:
        if arguments.model is None:
            AutoModelForCausalLM.from_config(SMOLLM2).save_pretrained(directory)
        folder = arguments.model or directory
        engine = _engine(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=engine._model.dtype).eval()
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, {model.dtype}; CPU ms a")
    print(f"token and stream, medians of {ROUNDS} rounds of {TOKENS} tokens.\n")
    print("| work | engine | plain `generate` | speed of the engine |\n|---|---|---|---|")
    for streams, lengths in ((1, (50,)), (8, (50,)), (8, (30, 50, 70, 90)), (1, (1_000,))):
        texts = _texts(engine, [lengths[i % len(lengths)] for i in range(streams)])
        rounds = [(_stream(engine, texts), _generate(model, texts)) for _ in range(ROUNDS)]
        name = f"{streams} × {'/'.join(map(str, lengths))} tokens read"
        ours, theirs = (statistics.median(r[i] for r in rounds) * 1e3 / streams for i in (0, 1))
        print(f"| {name} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.2f}× |", flush=True)


def _engine(folder: str) -> TransformersEngine:
    """An engine over `folder`, whatever its tokenizer: ids are random here."""
    config = json.loads((Path(folder) / "config.json").read_text())
    spec: Any = SimpleNamespace(
        vocab_size=config["vocab_size"], context_tokens=2_048, bos_id=0, stop_ids=(0,)
    )
    with patch.object(transformers_engine, "check_tokenizer"):
        return TransformersEngine(folder, SimpleNamespace(spec=spec), threads=1)


def _texts(engine: TransformersEngine, lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(SEED)
    return [rng.integers(0, engine.vocab_size, n, dtype=np.uint32) for n in lengths]


def _cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _stream(engine: TransformersEngine, texts: list[np.ndarray]) -> float:
    """CPU seconds a step, all streams by one token each."""

    def step() -> None:
        queries = [Query(f"{i}", t, len(t)) for i, t in enumerate(texts)]
        rows = engine.rows(queries, Want("full"))
        drawn = [np.uint32(row.logprobs[-1].argmax()) for row in rows]
        texts[:] = map(np.append, texts, drawn)

    texts = list(texts)
    for i in range(len(texts)):
        engine.forget(f"{i}")
    step()
    return _cpu_s(lambda: [step() for _ in range(TOKENS)]) / TOKENS


def _generate(model: Any, texts: list[np.ndarray]) -> float:
    """The same by one batched `generate`; what its prompt costs is taken off."""
    longest = max(map(len, texts))
    ids = torch.tensor(np.array([np.pad(t, (longest - len(t), 0)) for t in texts], dtype=np.int64))
    mask = torch.tensor([[0] * (longest - len(t)) + [1] * len(t) for t in texts])

    def run(tokens: int) -> float:
        return _cpu_s(
            lambda: model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
        )

    return (run(TOKENS + 1) - run(1)) / TOKENS


if __name__ == "__main__":
    main()
