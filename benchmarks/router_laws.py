"""What a token costs the router between the answers of its experts and the next token.

Eight experts and the baseline, laws as values against vectors of the whole vocabulary (how it was
done before: rows spread out, log-sum-exp over [9, V], sampling over [V]), taking turns in one
process on one thread. Laws are random: a common shape with each expert's own noise, sharp and flat
ones in turn, so that their nuclei hold from one token to the most that is asked for. Prints one
Markdown table of CPU ms.

    python benchmarks/router_laws.py
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np

from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import uniform_gate
from moesubnet.mixture.law import Law, law_of, mix, sample
from moesubnet.mixture.mixing import Walk, log_sum_exp, members_of
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import (
    SequenceStep,
    StepRequest,
    StepResponse,
    StepRows,
    base_hash,
    want_for,
)

EXPERTS, TOKENS, SEED = 8, 24, 0
SHARPNESS = (4.5, 5.5, 6.5, 9.0)  # standard deviation of the logits, nats
VOCABS = (2_048, 262_144)
Answer = tuple[bytes, StepRequest]


def cpu_ms(work: Callable[[], object]) -> float:
    """The least of some runs: caches are warm, as those of a router with many streams."""
    return min(_once(work) for _ in range(5))


def _once(work: Callable[[], object]) -> float:
    start_s = time.process_time()
    work()
    return (time.process_time() - start_s) * 1e3


def answers(vocab_size: int, sharpness: float, rng: np.random.Generator) -> list[Answer]:
    """One step's answer of each expert, as it came by wire."""
    want = want_for(vocab_size, committed=False)
    ids = np.zeros(1, np.uint32)
    request = StepRequest((SequenceStep("s", 0, base_hash(ids[:0]), ids),), want)
    # The likely tokens of a real vocabulary stand at its front.
    common = rng.normal(scale=sharpness, size=vocab_size) - np.log1p(np.arange(vocab_size))
    out = []
    for _ in range(EXPERTS):
        logits = common + rng.normal(scale=0.5, size=vocab_size)
        law = (logits - np.logaddexp.reduce(logits)).astype(np.float32)
        out.append((StepResponse((StepRows.of(1, law[None], want),)).to_bytes(), request))
    return out


def spread(law: Law, vocab_size: int) -> np.ndarray:
    """f32 [V]: the tail evenly over what is not listed."""
    if law.ids is None:
        return law.logp
    row = np.empty(vocab_size, np.float32)
    row[:] = np.log(max(law.tail, 1e-30) / (vocab_size - len(law.ids)))
    row[law.ids] = law.logp
    return row


def measure(vocab_size: int) -> list[str]:
    rng = np.random.default_rng(SEED)
    hotkeys = [Hotkey(f"expert{i}") for i in range(EXPERTS)]
    text = np.minimum(rng.zipf(1.2, 100_000), vocab_size) - 1
    base = Unigram.build(text, vocab_size).law
    assert base.entropy_nats > 0  # what is computed once is not a token's
    figures: dict[str, list[float]] = {"receive": [], "values": [], "vectors": []}
    sizes, listed = list[int](), list[int]()
    for turn in range(TOKENS):
        given = answers(vocab_size, SHARPNESS[turn % len(SHARPNESS)], rng)
        walk = Walk(uniform_gate(hotkeys), members_of(hotkeys))
        rows = [StepResponse.from_bytes(b, r, vocab_size).rows[0] for b, r in given]

        def receive(given: list[Answer] = given) -> None:
            for body, request in given:
                law_of(StepResponse.from_bytes(body, request, vocab_size).rows[0], -1, base)

        def observe(token: int, log_p: np.ndarray, walk: Walk = walk) -> None:
            walk.observe(np.array([token]), log_p[None])

        def by_values(rows: list[StepRows] = rows, walk: Walk = walk) -> None:
            laws = [*(law_of(row, -1, base) for row in rows), base]
            token = mix(walk.log_weights()[0], laws).draw(1.0, 1.0, np.random.default_rng(1))
            observe(token, np.array([law.at(token) for law in laws]))

        def by_vectors(rows: list[StepRows] = rows, walk: Walk = walk) -> None:
            log_p = np.empty((EXPERTS + 1, vocab_size), np.float32)
            named = np.zeros(vocab_size, bool)
            for out, row in zip(log_p, rows, strict=False):
                law = law_of(row, -1, base)
                out[:] = spread(law, vocab_size)
                named[slice(None) if law.ids is None else law.ids] = True
            log_p[-1] = base.logp
            log_w = walk.log_weights()[0].astype(np.float32)
            log_m = log_sum_exp(log_w[:, None] + log_p, axis=0)
            logits = np.where(named, log_m, -np.inf).astype(np.float64)
            logits -= np.max(logits)
            probs = np.exp(logits - log_sum_exp(logits))
            probs /= np.sum(probs)
            token = sample(probs, np.random.default_rng(1))
            observe(token, log_p[:, token])

        figures["receive"].append(cpu_ms(receive))
        figures["values"].append(cpu_ms(by_values))
        figures["vectors"].append(cpu_ms(by_vectors))
        sizes += [len(body) for body, _ in given]
        listed += [len(row.logprobs) for row in rows]
    cells = [f"{vocab_size:,} ({want_for(vocab_size).kind})", f"{statistics.median(sizes):,.0f}"]
    cells.append(f"{statistics.median(listed):,.0f} ({min(listed):,}–{max(listed):,})")
    for name in ("receive", "values", "vectors"):
        few, many = min(figures[name]), max(figures[name])
        cells.append(f"{statistics.median(figures[name]):.2f} ({few:.2f}–{many:.2f})")
    ratio = statistics.median(figures["values"]) / statistics.median(figures["vectors"])
    return [*cells, f"{ratio:.3f}"]


def main() -> None:
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, numpy {np.__version__}, one thread;")
    print(f"seed {SEED}, {EXPERTS} experts, n = {TOKENS} tokens, load", end=" ")
    print(f"{os.getloadavg()[0]:.1f}; CPU ms a token, median (least–most).\n")
    heads = ["V", "bytes an answer", "listed", "receive and check 8 answers"]
    heads += ["values: mix, draw, weigh", "vectors: the same", "ratio"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for vocab_size in VOCABS:
        print(f"| {' | '.join(measure(vocab_size))} |")


if __name__ == "__main__":
    main()
