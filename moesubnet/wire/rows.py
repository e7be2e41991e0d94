"""Rows of log-probabilities: what one sequence of `POST /v1/step` is answered with.

They travel as float16 (float32 is accepted). Rounding is monotone, so an honest value ≤ 0 stays
≤ 0; a token of probability zero is written as LOWEST, the lowest finite float16, whose exponential
is exactly zero, and nothing on the wire is ever infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from moesubnet.wire import frames
from moesubnet.wire.commitment import Commitment, CommittedTail, commit
from moesubnet.wire.distributions import (
    LOWEST,
    Rows,
    check_dense,
    check_listed,
    draw,
    enough,
    likeliest,
)
from moesubnet.wire.step import Ids, Want

_NONE = np.empty(0, np.float32)
_NO_IDS = np.empty(0, np.uint32)


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """One sequence's answer; all log-probabilities are finite, ≤ 0 and normalised.

    first: position of row 0. full: `ids` None, logprobs f32 [rows, V]. Otherwise the rows follow
    each other: ids u32 [n], ascending within a row (distinct but for sampled_n), logprobs f32 [n]
    of those ids, ends int64 [rows] where each row ends, tail_mass f32 [rows] of all other tokens
    together. draft_logprobs f32 [draft].
    whole: f32 [V], the last row's law, where it has yet to be bound (the responder's, `bind`).
    bound: where the last row is committed, its tree (the responder's) or what the caller keeps of
    it. proof: of the token whose reveal was asked, zeros where it cannot be shown.
    further: u32, the tokens that the responder would go on with, where that was asked. Where it
    was to draw them they are of the last rows, one of each.
    """

    first: int
    logprobs: Rows
    ids: Ids | None = None
    tail_mass: Rows | None = None
    ends: NDArray[np.int64] | None = None
    draft_logprobs: Rows = field(default_factory=_NONE.copy)
    whole: Rows | None = None
    bound: CommittedTail | Commitment | None = None
    proof: bytes | None = None
    further: Ids = field(default_factory=_NO_IDS.copy)

    @property
    def count(self) -> int:
        return len(self.logprobs if self.tail_mass is None else self.tail_mass)

    def row(self, index: int) -> tuple[Ids | None, Rows, float]:
        """Ids, their log-probabilities and the tail's mass; −1 is the last row."""
        if self.ids is None or self.ends is None or self.tail_mass is None:
            return None, self.logprobs[index], 0.0
        index %= len(self.ends)
        part = slice(self.ends[index - 1] if index else 0, self.ends[index])
        return self.ids[part], self.logprobs[part], float(self.tail_mass[index])

    @classmethod
    def of(
        cls, first: int, laws: Rows, want: Want, *, draft_logprobs: Rows = _NONE, seed: int = 0
    ) -> StepRows:
        """What is wanted of whole laws f32 [rows, V], normalised; −inf is allowed. `seed` is for
        sampled_n."""
        if want.kind == "full":
            return cls(first, laws, draft_logprobs=draft_logprobs)
        if want.kind == "sampled_n":
            ids = draw(laws, want.k, seed, first)
        else:
            ids = likeliest(laws, want.k).astype(np.uint32)
        at = ids.astype(np.intp)
        others = laws.copy()
        np.put_along_axis(others, at, -np.inf, axis=1)
        beyond = np.exp(others, dtype=np.float64).sum(axis=1)
        listed = np.take_along_axis(laws, at, axis=1)
        whole = laws[-1] if want.committed and len(laws) else None
        return cls.ranked(first, ids, listed, beyond, want, draft_logprobs, whole)

    @classmethod
    def ranked(
        cls,
        first: int,
        ids: NDArray[np.integer],
        logprobs: Rows,
        beyond: NDArray[np.floating],
        want: Want,
        draft_logprobs: Rows = _NONE,
        whole: Rows | None = None,
    ) -> StepRows:
        """What is wanted of candidates: ids and log-probabilities [rows, k], the likeliest first
        (in any order for sampled_n), beyond [rows]: the mass of all other tokens. −inf is no
        candidate. For engines that know no more, or choose where the laws are."""
        kept = enough(logprobs, want.mass if want.kind == "nucleus" else np.inf)
        kept &= logprobs > -np.inf
        tail = beyond + np.where(kept, 0.0, np.exp(logprobs, dtype=np.float64)).sum(axis=1)
        row = np.nonzero(kept)[0]
        order = np.lexsort((ids[kept], row))
        return cls(
            first,
            logprobs[kept][order],
            ids[kept][order].astype(np.uint32),
            tail.astype(np.float32),
            np.cumsum(kept.sum(axis=1)),
            draft_logprobs,
            whole,
        )

    def as_read(self) -> StepRows:
        """As whoever gets these rows reads them: rounded, then normalised. Raises BadDistribution
        for what is no law."""
        values = compact([self.logprobs], "f16")
        if self.ids is None or self.ends is None or self.tail_mass is None:
            return replace(self, logprobs=check_dense(values))
        row = np.repeat(np.arange(self.count), np.diff(self.ends, prepend=0))
        logprobs, tail_mass, _ = check_listed(row, self.ids, values, self.tail_mass)
        return replace(self, logprobs=logprobs, tail_mass=tail_mass)

    @classmethod
    def joined(cls, parts: Sequence[StepRows]) -> StepRows:
        """Parts of one sequence's rows, in order, as one."""
        if len(parts) == 1:
            return parts[0]
        last = parts[-1]
        joined = replace(
            last,
            first=parts[0].first,
            logprobs=np.concatenate([p.logprobs for p in parts]),
            draft_logprobs=np.concatenate([p.draft_logprobs for p in parts]),
        )
        if last.ids is None:
            return joined
        sizes = [np.diff(p.ends, prepend=0) for p in parts if p.ends is not None]
        return replace(
            joined,
            ids=np.concatenate([p.ids for p in parts if p.ids is not None]),
            tail_mass=np.concatenate([p.tail_mass for p in parts if p.tail_mass is not None]),
            ends=np.cumsum(np.concatenate(sizes)),
        )

    def bind(self) -> StepRows:
        """With the last row committed, where its law is at hand. Raises BadDistribution."""
        if self.whole is None or self.tail_mass is None:
            return self
        listed = self.row(-1)[0]
        assert listed is not None
        (bound,) = commit(self.whole[None], [listed])
        tail = self.tail_mass.copy()
        tail[-1] = bound.tail_mass
        return replace(self, tail_mass=tail, bound=bound, whole=None)


def compact(parts: Sequence[Rows], dtype: str) -> NDArray[np.floating]:
    """As they travel."""
    joined = np.concatenate(parts)
    return np.clip(joined, LOWEST, 0.0).astype(frames.DTYPES[dtype])
