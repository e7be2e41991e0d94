"""What experts said the first time: only that is blind.

An expert that has met a text can claim p = 1 on what comes next in it. Choices of one request may
agree for a while, and the same request comes again; so of every text only an expert's first
answer about its last token counts as evidence, whichever stream got it.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from moesubnet.types import Hotkey
from moesubnet.wire.protocol import base_hash

CAPACITY_TOKENS = 65_536  # about 40 MB with eight experts; at 100 tokens a second eleven minutes

LogProbs = NDArray[np.floating]
Mask = NDArray[np.bool_]


class FirstAnswers:
    """By text, of the newest ones, each expert's first log-probability of the last token."""

    def __init__(self, capacity: int = CAPACITY_TOKENS) -> None:
        self._capacity = capacity
        self._first: OrderedDict[bytes, dict[Hotkey, float]] = OrderedDict()

    def settle(
        self,
        text_ids: NDArray[np.uint32],
        members: Sequence[Hotkey],
        log_p: LogProbs,
        blind: Mask,
        unsent: Collection[Hotkey] = (),
    ) -> tuple[LogProbs, Mask, Mask]:
        """What counts of the last token of `text_ids`, which nobody was sent yet by this stream,
        whether it was blind, and whether it is from this very call.

        log_p, blind: [E], what the members gave it just now. Whoever was silent the first time
        has not been blind since, but for `unsent`, to whom the token is not going to be sent yet.
        Call it before the token is sent.
        """
        first = self._newest(base_hash(text_ids))
        values, known, new = log_p.tolist(), [], []
        for i, (hotkey, was_blind) in enumerate(zip(members, blind.tolist(), strict=True)):
            is_new = hotkey not in first
            if is_new and hotkey not in unsent:
                first[hotkey] = values[i] if was_blind else math.nan
            settled = first.get(hotkey, math.nan)
            known.append(is_known := not math.isnan(settled))
            new.append(is_new and is_known)
            if is_known:
                values[i] = settled
        return np.array(values), np.array(known), np.array(new)

    def spoil(self, text_ids: NDArray[np.uint32], drafted: int, members: Sequence[Hotkey]) -> None:
        """The last ids are a draft that all these know: what they have not said of its tokens
        before is no evidence any more."""
        text = hashlib.sha256(text_ids[: len(text_ids) - drafted].astype("<u4").tobytes())
        for token in text_ids[len(text_ids) - drafted :].astype("<u4"):
            text.update(token.tobytes())
            first = self._newest(text.digest())
            for hotkey in members:
                first.setdefault(hotkey, np.nan)

    def amend(self, text_ids: NDArray[np.uint32], hotkey: Hotkey, log_p: float) -> None:
        """What an expert had bound itself to give the last token, known only after it was sent."""
        first = self._first.get(base_hash(text_ids)[:16], {})
        if hotkey in first:
            first[hotkey] = log_p

    def _newest(self, text_sha256: bytes) -> dict[Hotkey, float]:
        """What is known of a text, which is the newest now."""
        first = self._first.setdefault(key := text_sha256[:16], {})
        self._first.move_to_end(key)
        if len(self._first) > self._capacity:
            self._first.popitem(last=False)
        return first
