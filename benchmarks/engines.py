"""Tokens a second of each engine over the same model, beside what its own library does.

    python benchmarks/engines.py SPEC_FOLDER [--folder MODEL] [--gguf FILE] [--upstream URL]

One thread; wall clock and CPU of this process (a server's CPU is not in it). Ratios within a line
are what counts: both are taken one after the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from moesubnet.engine.base import Engine, Query
from moesubnet.engine.named import load_engine
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.wire.step import want_for

PROMPT, TOKENS, STREAMS = 256, 32, 8


def timed(what: str, tokens: int, work: Callable[[], object]) -> None:
    began_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    report(what, tokens, time.perf_counter() - began_s, time.process_time() - cpu_s)


def report(what: str, tokens: int, wall_s: float, cpu_s: float) -> None:
    print(f"{what:44} {tokens / wall_s:8.1f} tokens/s  {1e3 * cpu_s / tokens:8.2f} CPU-ms a token")


def ours(engine: Engine, spec: LoadedSpec, name: str) -> None:
    want = want_for(spec.spec.vocab_size)
    rng = np.random.default_rng(0)
    shape = STREAMS + 1, PROMPT + TOKENS
    texts = rng.integers(100, spec.spec.vocab_size, shape, dtype=np.uint32)

    def rows(streams: list[int], length: int) -> None:
        engine.rows([Query(f"a/{i}", texts[i, :length], length) for i in streams], want)

    timed(f"{name}, prompt of {PROMPT}", PROMPT, lambda: rows([STREAMS], PROMPT))
    for streams in ([STREAMS], list(range(STREAMS))):
        rows(streams, PROMPT)
        timed(
            f"{name}, {len(streams)} stream(s)",
            TOKENS * len(streams),
            lambda streams=streams: [rows(streams, PROMPT + i) for i in range(1, TOKENS + 1)],
        )


def plain_transformers(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for streams in (1, STREAMS):
        ids = torch.randint(100, model.config.vocab_size, (streams, PROMPT))

        def generate(count: int, ids: torch.Tensor = ids) -> None:
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=count,
                min_new_tokens=count,
            )

        spent = []
        for count in (1, TOKENS + 1):
            began_s, cpu_s = time.perf_counter(), time.process_time()
            generate(count)
            spent.append((time.perf_counter() - began_s, time.process_time() - cpu_s))
        report(f"generate, prompt of {PROMPT}, {streams} stream(s)", PROMPT * streams, *spent[0])
        wall_s, cpu_s = (after - before for before, after in zip(*spent, strict=True))
        report(f"generate, {streams} stream(s)", TOKENS * streams, wall_s, cpu_s)


def plain_llama(path: Path) -> None:
    """As llama.cpp's own llama-bench does it: batches of random tokens, nothing read."""
    from moesubnet.engine.llama_context import Fed, LlamaContext, LlamaModel

    model = LlamaModel(path)
    context = LlamaContext(model, cells=4_096, threads=1)
    rng = np.random.default_rng(0)

    def feed(sequences: int, position: int, count: int) -> None:
        context.feed(
            [
                Fed(s, position + i, int(rng.integers(100, model.vocab_size)), i == count - 1)
                for s in range(sequences)
                for i in range(count)
            ]
        )

    timed(f"llama.cpp, prompt of {PROMPT}", PROMPT, lambda: feed(1, 0, PROMPT))
    for sequences in (1, STREAMS):
        for s in range(sequences):
            context.cut(s, 0)
        for begin in range(0, PROMPT, PROMPT // STREAMS):
            feed(sequences, begin, PROMPT // STREAMS)
        timed(
            f"llama.cpp, {sequences} stream(s)",
            TOKENS * sequences,
            lambda n=sequences: [feed(n, PROMPT + i, 1) for i in range(TOKENS)],
        )
    context.close()
    model.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("spec", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--upstream")
    given = parser.parse_args()
    spec = load_spec(given.spec)
    if given.folder:
        plain_transformers(given.folder)
        for dtype in ("float32", "bfloat16", "int8"):
            engine = load_engine("transformers", str(given.folder), spec, dtype=dtype)
            ours(engine, spec, f"transformers {dtype}")
    if given.gguf:
        plain_llama(given.gguf)
        ours(load_engine("gguf", str(given.gguf), spec), spec, "gguf")
    if given.upstream:
        ours(load_engine("upstream", "", spec, upstream=given.upstream), spec, "upstream")


if __name__ == "__main__":
    main()
