"""Every block of text occurs once: exact and near-duplicates removed across all documents.

A block is what stands between blank lines. Its fingerprint is the set of its shingles (12
consecutive words or symbols, case and spacing ignored); a block of which half the shingles were
met before is dropped. One rule takes out licence headers, copied functions, forked files and
generated siblings, exact copies or nearly so.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SHINGLE_WORDS = 12
SEEN_SHARE = 0.5
_WORD = re.compile(r"\w+|[^\w\s]")
_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*?(?=\S|[ \t]+\S)")
# Odd multipliers: a polynomial hash over Z/2^64, exact and the same on every machine.
_POWERS = np.array([pow(0x9E3779B97F4A7C15, k, 1 << 64) for k in range(SHINGLE_WORDS)], np.uint64)


@lru_cache(maxsize=1 << 17)
def _word_hash(word: str) -> int:
    code = word.encode()
    return zlib.crc32(code) << 32 | zlib.adler32(code)


def shingles(block: str) -> NDArray[np.uint64]:
    """uint64 [max(0, words − 11)]: one hash for each run of 12 words or symbols."""
    return runs(np.array([_word_hash(word) for word in _WORD.findall(block.lower())], np.uint64))


def runs(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """uint64 [max(0, n − 11)]: one hash for each run of 12 consecutive values uint64 [n]."""
    if len(values) < SHINGLE_WORDS:
        return values[:0]
    windows = np.lib.stride_tricks.sliding_window_view(values, SHINGLE_WORDS)
    hashes: NDArray[np.uint64] = (windows * _POWERS).sum(axis=1, dtype=np.uint64)
    return hashes


class Deduplicator:
    """Remembers every block it let through."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self.dropped_chars = 0

    def unique(self, text: str) -> str:
        """`text` without the blocks met before (here or in an earlier text).

        Blocks shorter than one shingle carry no identity and stay.
        """
        kept = []
        for block in _BLANK_LINES.split(text):
            marks = shingles(block).tolist()
            if marks and sum(mark in self._seen for mark in marks) >= SEEN_SHARE * len(marks):
                self.dropped_chars += len(block)
                continue
            self._seen.update(marks)
            kept.append(block.rstrip())
        return "\n\n".join(kept)
