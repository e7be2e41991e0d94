"""Which prompts are the later turns of chats."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict

import numpy as np
import numpy.typing as npt

CAPACITY = 4_096  # prompts


class Prompts:
    """The newest prompts, by their hashes."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._tokens: OrderedDict[bytes, int] = OrderedDict()
        self._lengths: Counter[int] = Counter()

    def goes_on(self, ids: npt.NDArray[np.uint32]) -> bool:
        """Whether a prompt that was met begins these, which are longer. They are met now."""
        text, digest, at, found = ids.astype("<u4").tobytes(), hashlib.sha256(), 0, False
        for length in sorted(n for n in self._lengths if n < len(ids)):
            digest.update(text[4 * at : 4 * length])
            at = length
            found = found or digest.digest() in self._tokens
        digest.update(text[4 * at :])
        self._note(digest.digest(), len(ids))
        return found

    def _note(self, name: bytes, length: int) -> None:
        if name not in self._tokens:
            self._lengths[length] += 1
        self._tokens[name] = length
        self._tokens.move_to_end(name)
        if len(self._tokens) > self._capacity:
            _, oldest = self._tokens.popitem(last=False)
            self._lengths[oldest] -= 1
            if not self._lengths[oldest]:
                del self._lengths[oldest]
