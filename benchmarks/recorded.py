"""Laws of a real model, recorded once and answered by many played miners."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from moesubnet.engine.base import Query
from moesubnet.wire.protocol import StepRows, Want, want_for

LAWS, TEXTS = "laws.npy", "texts.npy"
TEMPERATURES = (0.9, 0.97, 1.03, 1.1)  # of the models that are played


def record(model_folder: str, folder: Path, walks: int) -> None:
    """Write `walks` texts u32 [walks, tokens] of this machine, from each domain as many, and the
    model's laws f32 [walks * steps, V] of their last tokens. Loads torch: in a process of its own.
    """
    import torch
    from committed_rows import PREFIX_TOKENS, STEP_TOKENS, windows
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from moesubnet.localnet.sources import SOURCES

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    each = -(-walks // len(SOURCES))
    texts = np.array([ids for source in SOURCES for ids in windows(source, encode, each)][:walks])
    shape = (walks * STEP_TOKENS, model.config.vocab_size)
    laws = np.lib.format.open_memmap(folder / LAWS, "w+", np.float32, shape)
    with torch.inference_mode():
        for i, ids in enumerate(texts):
            context = torch.tensor([[tokenizer.bos_token_id, *ids[:-1].tolist()]])
            logits = model(context, logits_to_keep=STEP_TOKENS).logits[0].float()
            laws[i * STEP_TOKENS : (i + 1) * STEP_TOKENS] = torch.log_softmax(logits, -1)
    assert texts.shape[1] == PREFIX_TOKENS + STEP_TOKENS
    np.save(folder / TEXTS, texts.astype(np.uint32))


def documents(folder: Path) -> dict[bytes, np.ndarray]:
    """The recorded texts, as a validator's pool has them: one window each."""
    return {sha256(ids).digest(): ids for ids in np.load(folder / TEXTS)}


@dataclass
class Recorded:
    """An engine that has read the recorded texts before; its laws are the model's, at a
    temperature of its own. All answers are made at the start, committed tails included (0.5 MB each
    at V = 262,144): any number of experts may say the same, and an answer costs next to nothing.
    """

    folder: Path
    temperature: float
    name: str = "recorded"
    context_tokens: int = 4_096
    commitment: str = "0" * 64
    caches: bool = True

    def __post_init__(self) -> None:
        self.laws, texts = np.load(self.folder / LAWS, mmap_mode="r"), np.load(self.folder / TEXTS)
        self.vocab_size = self.laws.shape[1]
        steps = len(self.laws) // len(texts)
        begin = texts.shape[1] - steps
        self.rows_at = {
            ids[: begin + k].tobytes(): i * steps + k
            for i, ids in enumerate(texts)
            for k in range(steps)
        }
        self.bound = cache(self._bound)
        for row in range(len(self.laws)):
            self.bound(row, want_for(self.vocab_size))

    def rows(self, batch: list[Query], want: Want) -> list[StepRows]:
        return [self._answer(query, want) for query in batch]

    def _answer(self, query: Query, want: Want) -> StepRows:
        ends = range(query.first_law, len(query.ids) + 1)
        rows = [self.rows_at.get(query.ids[:n].astype(np.uint32).tobytes(), 0) for n in ends]
        asked = rows[query.first - query.first_law :]
        drafted = query.ids[len(query.ids) - query.draft :]
        before = rows[len(rows) - 1 - query.draft : -1]
        scores = [self._law(row)[0, token] for row, token in zip(before, drafted, strict=True)]
        return replace(
            StepRows.joined([self.bound(row, want) for row in asked]),
            first=query.first,
            draft_logprobs=np.array(scores, np.float32),
        )

    def _bound(self, row: int, want: Want) -> StepRows:
        return StepRows.of(0, self._law(row), want).bind()

    def _law(self, row: int) -> np.ndarray:
        """f32 [1, V], tempered."""
        law = self.laws[row : row + 1] / np.float32(self.temperature)
        return law - np.log(np.exp(law).sum(dtype=np.float64)).astype(np.float32)

    def forget(self, session: str) -> None:
        return
