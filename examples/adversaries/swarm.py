"""Claim: what one copy cannot take, many can.

`k` copies of one expert, each with noise of its own. Where values are shared over coalitions, each
copy that counts as a player takes a share from the expert that all of them say after.
"""

from __future__ import annotations

from collections.abc import Callable

from adversaries.noisy_copier import Ids, Law, NoisyCopier


def swarm(source: Callable[[Ids], Law], k: int, sigma: float) -> list[NoisyCopier]:
    return [NoisyCopier(source, sigma, seed=1_000 + i) for i in range(k)]
