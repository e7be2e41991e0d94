"""Which queries share a forward pass: pure bookkeeping over sequences and slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from moesubnet.engine.base import TokenIds

EVEN_GROUP = 8  # this many sequences of one shape are worth a pass of their own, without a mask
TOKENS_PER_PASS = 16_384  # these two bound the memory of one forward pass
LOGITS_PER_PASS = 1 << 26
NO_SLOT = -1


@dataclass(slots=True)
class Held:
    """What a slot holds: `tokens` uint32 [length], the context token first."""

    slot: int = NO_SLOT
    tokens: TokenIds = field(default_factory=lambda: np.empty(0, dtype=np.uint32))


@dataclass(slots=True)
class Plan:
    """One query: `tokens[base:]` go through the model, rows are wanted from input `first` on."""

    index: int
    held: Held
    tokens: TokenIds
    base: int
    first: int

    @property
    def count(self) -> int:
        return len(self.tokens) - self.base


def common_prefix(held: TokenIds, wanted: TokenIds) -> int:
    length = min(len(held), len(wanted))
    same = held[:length] == wanted[:length]
    return length if same.all() else int(same.argmin())


def groups(plans: Sequence[Plan], vocab_size: int) -> list[list[Plan]]:
    """Which plans share a pass: those of one shape, and the rest by similar length."""
    shapes: dict[tuple[int, int], list[Plan]] = {}
    for plan in plans:
        shapes.setdefault((plan.base, plan.count), []).append(plan)
    uneven: dict[int, list[Plan]] = {}
    passes = []
    for (_, count), members in shapes.items():
        if len(members) >= EVEN_GROUP:
            passes.append(members)
        else:
            uneven.setdefault(count.bit_length(), []).extend(members)
    passes += uneven.values()
    chunks = []
    for group in passes:
        width = max(plan.count for plan in group)
        keep = width - min(plan.first - plan.base for plan in group)
        size = max(1, min(TOKENS_PER_PASS // width, LOGITS_PER_PASS // (keep * vocab_size)))
        chunks += [group[start : start + size] for start in range(0, len(group), size)]
    return chunks


def neighbours(group: Sequence[Plan]) -> list[list[Plan]]:
    """Cut plans sorted by slot where slots are not consecutive."""
    runs: list[list[Plan]] = []
    for plan in group:
        if runs and plan.held.slot == runs[-1][-1].held.slot + 1:
            runs[-1].append(plan)
        else:
            runs.append([plan])
    return runs
