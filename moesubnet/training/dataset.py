"""From texts to token ids, and from token ids to windows.

A stream is `<|end|> document <|end|> document …`. Engines feed `<|end|>` before every sequence,
and walks start anywhere in a text, so a training window is `<|end|>` and then tokens from any
offset: what a model meets when it serves is what it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Ids = NDArray[np.uint32]
ENCODE_BATCH = 256
PIECE_TOKENS = 512  # text is held out by pieces of this size
FIRST_HELD_OUT = 5  # so that even a short text has a piece held out


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[Ids]:
    """Token ids of each text, uint32 [n_i]."""
    encodings = (
        encoding
        for start in range(0, len(texts), ENCODE_BATCH)
        for encoding in tokenizer.encode_batch_fast(
            texts[start : start + ENCODE_BATCH], add_special_tokens=False
        )
    )
    return [np.asarray(encoding.ids, np.uint32) for encoding in encodings]


def stream(documents: Sequence[Ids], start_id: int) -> Ids:
    """uint32 [Σ (n_i + 1)]: every document preceded by `start_id`."""
    start = np.array([start_id], np.uint32)
    return np.concatenate([part for ids in documents for part in (start, ids)] or [start[:0]])


def random_windows(
    ids: Ids, count: int, length: int, start_id: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """int64 [count, length]: `start_id`, then length − 1 consecutive ids from a random offset."""
    starts = rng.integers(0, len(ids) - length + 2, size=count)
    body = ids[starts[:, None] + np.arange(length - 1)]
    return np.concatenate([np.full((count, 1), start_id), body], axis=1, dtype=np.int64)


def cold_windows(ids: Ids, length: int) -> Ids:
    """uint32 [len(ids) // length, length]: consecutive, non-overlapping; the rest is cut."""
    count = len(ids) // length
    return ids[: count * length].reshape(count, length)


def split_held_out(
    documents: Sequence[Ids], start_id: int, window: int, every: int
) -> tuple[Ids, Ids]:
    """(stream uint32 [n] to train on, cold windows uint32 [m, window]): one piece of 512 tokens
    in `every` is held out, evenly over the documents."""
    pieces = [d[i : i + PIECE_TOKENS] for d in documents for i in range(0, len(d), PIECE_TOKENS)]
    kept = [piece for i, piece in enumerate(pieces) if i % every != FIRST_HELD_OUT]
    return stream(kept, start_id), cold_windows(
        stream(pieces[FIRST_HELD_OUT::every], start_id), window
    )
