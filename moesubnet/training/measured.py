"""How likely a model finds text that it did not learn from, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HELD_OUT_SHARE = 0.1  # of the seconds asked for, at most, goes into each of two measures


@dataclass(frozen=True, slots=True)
class Measured:
    """Nats and tokens of each window that was read, of `of` that there are. Windows are in a
    random order, so those that were read stand for the others."""

    nats: tuple[float, ...]
    tokens: tuple[float, ...]
    of: int

    def first(self, windows: int) -> Measured:
        return Measured(self.nats[:windows], self.tokens[:windows], self.of)

    @property
    def windows(self) -> int:
        return len(self.nats)

    @property
    def mean(self) -> float:
        """Nats a token."""
        return math.fsum(self.nats) / max(1.0, math.fsum(self.tokens))

    @property
    def error(self) -> float | None:
        """Standard error of `mean`, a ratio of sums over windows; None of a single one."""
        return ratio_error(self.nats, self.tokens)

    @property
    def perplexity(self) -> float:
        return math.exp(self.mean)

    @property
    def perplexity_error(self) -> float | None:
        """To first order."""
        return None if self.error is None else self.perplexity * self.error

    def gain_over(self, other: Measured) -> tuple[float, float | None]:
        """(nats a token less than `other` of the same windows, standard error): what is hard to
        read is so for both, so this is known much better than either."""
        gains = [theirs - ours for ours, theirs in zip(self.nats, other.nats, strict=True)]
        return other.mean - self.mean, ratio_error(gains, self.tokens)


def ratio_error(sums: Sequence[float], tokens: Sequence[float]) -> float | None:
    """Standard error of Σ sums / Σ tokens over windows drawn by chance (Cochran, Sampling
    Techniques, 1977, ch. 6); None of fewer than two."""
    count, total = len(sums), math.fsum(tokens)
    if count < 2 or not total:
        return None
    mean = math.fsum(sums) / total
    squares = ((s - mean * n) ** 2 for s, n in zip(sums, tokens, strict=True))
    return math.sqrt(count / (count - 1) * math.fsum(squares)) / total


def read_of(windows: int, of: int) -> str:
    """`by all 32 windows`, `by 6 of 32 windows`."""
    return f"by {f'all {of}' if windows == of else f'{windows} of {of}'} windows"


def margin_words(margins: Mapping[str, Sequence[float]], claim: str) -> str:
    """` (0.031 ± 0.012 nats a token)`, where that is known."""
    if claim not in margins:
        return ""
    nats, error = margins[claim]
    return f" ({with_error(nats, error, 3)} nats a token)"


def with_error(value: float, error: float | None, places: int = 2) -> str:
    """`8.10 ± 0.52`."""
    return f"{value:.{places}f}" + ("" if error is None else f" ± {error:.{places}f}")
