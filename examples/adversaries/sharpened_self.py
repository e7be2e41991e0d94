"""Claim: one's own law, sharpened (or flattened), is a second expert.

The owner of an honest expert registers it again with its law raised to `power`. Sharper is surer
where it is right; flatter is better calibrated where it knows nothing. Neither is new knowledge.
"""

from __future__ import annotations

from collections.abc import Callable

from adversaries.noisy_copier import Ids, Law, NoisyCopier


class SharpenedSelf(NoisyCopier):
    def __init__(self, source: Callable[[Ids], Law], power: float) -> None:
        super().__init__(source, 0.0, power=power)
