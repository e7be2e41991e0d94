"""What scoring loses where a row lists only its likeliest tokens, with and without a commitment.

Takes a real model through text of this machine, token by token as a probe does, and scores each
token by the exact row; by the list with its tail spread evenly; and by the list with its tail
committed, where a token that is not listed is shown by its leaf. Bytes are those of the frames of
`/v1/step`, question and answer of one sequence and one token, leaves included, without HTTP.
Prints Markdown. CPU time, one thread:

    OMP_NUM_THREADS=1 python benchmarks/committed_rows.py MODEL_FOLDER
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from moesubnet.localnet.sources import SOURCES
from moesubnet.wire.commitment import Commitment, CommittedTail, commit
from moesubnet.wire.protocol import (
    SequenceStep,
    StepRequest,
    StepResponse,
    StepRows,
    Want,
    base_hash,
)

PREFIX_TOKENS, STEP_TOKENS, SEED, TIMED_TOKENS = 32, 16, 0, 60
LISTS = ((0.8, 1_024), (0.9, 1_024), (0.95, 1_024), (0.97, 2_048), (0.98, 2_048), (1.0, 256))
# mass, at most
Law = np.ndarray  # float32 [V], log-probabilities


@dataclass
class Figures:
    """One entry a token: nats lost by an even tail and by a committed one, tokens listed, whether
    a leaf was shown, the tail's mass, bytes."""

    even: list[float] = field(default_factory=list)
    committed: list[float] = field(default_factory=list)
    listed: list[int] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    tail: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)


def windows(
    source: str, encode: Callable[[str], Sequence[int]], count: int
) -> Iterator[np.ndarray]:
    """Ids [PREFIX_TOKENS + STEP_TOKENS] from the middle of documents that a fixed seed draws."""
    documents, length = SOURCES[source](), PREFIX_TOKENS + STEP_TOKENS
    names = sorted(documents)
    random.Random(SEED).shuffle(names)
    for name in names:
        ids = encode(documents[name]())
        if len(ids) >= 4 * length:
            yield np.array(ids[len(ids) // 2 :][:length], np.uint32)
            count -= 1
            if not count:
                return


def walk(laws: Sequence[Law], ids: np.ndarray, mass: float, most: int, to: Figures) -> None:
    """Score the last tokens of `ids`, each by its law, through the frames of the wire."""
    owed: tuple[int, int] | None = None
    tail: CommittedTail | None = None
    held = 0
    for position, law in enumerate(laws, PREFIX_TOKENS):
        label = int(ids[position])
        want = Want("nucleus", most, mass, committed=True)
        step = SequenceStep("w" * 32, held, base_hash(ids[:held]), ids[held:position], reveal=owed)
        request = StepRequest((step,), want)
        row = StepRows.of(position, law[None], want).bind()
        proof = tail.open(owed[1]) if tail is not None and owed is not None else None
        body = StepResponse((replace(row, proof=proof),)).to_bytes()
        got = StepResponse.from_bytes(body, request, len(law)).rows[0]
        tail = row.bound if isinstance(row.bound, CommittedTail) else None
        assert tail is not None
        assert isinstance(got.bound, Commitment)
        likely, logprobs, rest = got.row(-1)
        assert likely is not None
        count, listed, exact = len(likely), label in likely, float(law[label])
        if listed:
            committed = even = float(logprobs[np.searchsorted(likely, label)])
        else:
            even = math.log(max(rest, 1e-30) / (len(law) - count))
            committed = got.bound.shown(label, tail.open(label))
        to.even.append(exact - even)
        to.committed.append(exact - committed)
        to.listed.append(count)
        to.shown.append(not listed)
        to.tail.append(float(tail.tail_mass))
        to.bytes.append(len(request.to_bytes()) + len(body))
        owed, held = None if listed else (position, label), position


def timed(model: torch.nn.Module, ids: Sequence[int]) -> tuple[float, float]:
    """Median CPU ms of one token's forward pass with its cache, and of committing to its row."""
    forward, committing = [], []
    out = model(torch.tensor([list(ids[:300])]), use_cache=True, logits_to_keep=1)
    for token in ids[300 : 300 + TIMED_TOKENS]:
        start_s = time.process_time()
        out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
        law = torch.log_softmax(out.logits[0, -1:].float(), -1).numpy()
        forward.append(time.process_time() - start_s)
        top = [np.argpartition(law[0], -256)[-256:].astype(np.uint32)]
        start_s = time.process_time()
        commit(law, top)
        committing.append(time.process_time() - start_s)
    return statistics.median(forward) * 1e3, statistics.median(committing) * 1e3


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a Hugging Face folder with tokenizer")
    parser.add_argument("--windows", type=int, default=24, help="of each domain (16 tokens each)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    print(f"V = {model.config.vocab_size:,}, {platform.machine()}, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    print("| domain | tokens | exact, nats | list | even tail loses | committed loses | largest "
          "| not listed | tail | tokens listed | bytes: median, mean, p95 |")  # fmt: skip
    print("|" + "---|" * 11)
    for source in SOURCES:
        surprise, figures = [], {kind: Figures() for kind in LISTS}
        for ids in windows(source, encode, arguments.windows):
            context = torch.tensor([[tokenizer.bos_token_id, *ids[:-1].tolist()]])
            logits = model(context, logits_to_keep=STEP_TOKENS).logits[0]
            laws = torch.log_softmax(logits.float(), -1).numpy()
            surprise += [-float(laws[i, ids[PREFIX_TOKENS + i]]) for i in range(STEP_TOKENS)]
            for kind, of_kind in figures.items():
                walk(laws, ids, *kind, of_kind)
        for (mass, most), f in figures.items():
            kind = f"{most} likeliest" if mass == 1.0 else f"{mass:g}, at most {most:,}"
            size = np.array(f.bytes)
            print(
                f"| {source} | {len(surprise)} | {np.mean(surprise):.3f} | {kind} "
                f"| {np.mean(f.even):.3f} | {np.mean(f.committed):.5f} "
                f"| {np.abs(f.committed).max():.4f} | {np.mean(f.shown):.1%} "
                f"| {np.mean(f.tail):.3f} | {np.median(f.listed):.0f}, {np.mean(f.listed):.0f} "
                f"| {np.median(size):,.0f}, {size.mean():,.0f}, {np.percentile(size, 95):,.0f} |",
                flush=True,
            )
    documents = SOURCES["python"]()
    forward, committing = timed(model, encode(documents[max(documents)]() * 9))
    print(f"\nforward pass of a token {forward:.1f} CPU ms, commitment {committing:.2f} CPU ms: "
          f"{committing / forward:.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
