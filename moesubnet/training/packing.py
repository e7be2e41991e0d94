"""Documents of any length in windows of one length, none seeing another.

A document is `start, tokens …, end`; one that reaches over the end of a window goes on in the next
behind a new `start`, as a walk does that begins anywhere in a text. Positions begin at 0 with
each piece, and transformers takes a position that does not go on for the border of a document: it
masks attention there and in sliding windows. Simple concatenation would cost as much, and train
the model on beginnings that follow something; when it serves, they never do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesubnet.training.dataset import Ids
from moesubnet.training.dedup import SEEN_SHARE, runs

NO_LABEL = -100  # of a token whose next one is another document's
PIECE_TOKENS = 2_048  # a text of few documents is held out by pieces of this size
FEW_DOCUMENTS = 40
MIN_PIECE_TOKENS = 16  # what is left of a window below that is not worth a new beginning


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """M windows of W tokens: ids and positions int32 [M, W]."""

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [M, W]: the next token, NO_LABEL where no token of the same piece follows."""
        labels = np.full(self.ids.shape, NO_LABEL, np.int64)
        goes_on = self.positions[:, 1:] != 0
        labels[:, :-1][goes_on] = self.ids[:, 1:][goes_on]
        return labels

    def __getitem__(self, picks: NDArray[np.integer] | slice) -> Packed:
        return Packed(self.ids[picks], self.positions[picks])


def pack(documents: Sequence[Ids], window: int, start_id: int, end_id: int) -> Packed:
    """All tokens of `documents`, in order. Only the last window is filled up, with pieces of one
    token, which have no label."""
    ids: list[NDArray[np.integer]] = []
    positions: list[NDArray[np.integer]] = []
    room = window

    def put(piece: NDArray[np.integer]) -> None:
        nonlocal room
        ids.append(piece)
        positions.append(np.arange(len(piece)))
        room = (room - len(piece)) or window

    def fill() -> None:
        for _ in range(room % window):
            put(np.array([start_id]))

    for document in documents:
        left = np.append(document.astype(np.int64), end_id)
        while len(left):
            if room < min(len(left) + 1, MIN_PIECE_TOKENS):
                fill()
            piece, left = left[: room - 1], left[room - 1 :]
            put(np.concatenate([[start_id], piece]))
    fill()
    flat = np.concatenate([*ids, np.empty(0)]).astype(np.int32)
    places = np.concatenate([*positions, np.empty(0)]).astype(np.int32)
    return Packed(flat.reshape(-1, window), places.reshape(-1, window))


def split_documents(documents: Sequence[Ids], every: int) -> tuple[list[Ids], list[Ids]]:
    """(to train on, held out): one text in `every`, chosen by its content, so that it stays on
    its side whatever is added; whole documents, or pieces where documents are few. Of what is held
    out, a text of which half occurs in the other part, or occurred before, is left out altogether.
    """
    texts = [document for document in documents if len(document)]
    if len(texts) < FEW_DOCUMENTS:
        texts = [d[i : i + PIECE_TOKENS] for d in texts for i in range(0, len(d), PIECE_TOKENS)]
    lots = [_lot(text) for text in texts]
    bound = max(min(lots, default=0), (1 << 64) // every)  # one at least
    kept = [text for text, lot in zip(texts, lots, strict=True) if lot > bound]
    others = [text for text, lot in zip(texts, lots, strict=True) if lot <= bound]
    return kept, [others[index] for index in unseen(others, kept)]


def _lot(text: Ids) -> int:
    digest = hashlib.blake2b(text.astype("<u4").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def unseen(texts: Sequence[Ids], others: Sequence[Ids]) -> list[int]:
    """Indices of those `texts` of which less than half the runs of 12 tokens are in `others` or in
    a text before; one shorter than such a run has no identity, and goes."""
    marks = [runs(text.astype(np.uint64)) for text in texts]
    known = np.unique(np.concatenate([*marks, np.empty(0, np.uint64)]))
    seen = np.zeros(len(known), bool)
    for other in others:
        seen |= np.isin(known, runs(other.astype(np.uint64)))
    found = []
    for index, mark in enumerate(marks):
        places = np.searchsorted(known, mark)
        if len(mark) and seen[places].mean() < SEEN_SHARE:
            found.append(index)
        seen[places] = True
    return found
