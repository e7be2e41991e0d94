"""Which queries share a forward pass: pure bookkeeping over sequences and where they are held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from moesubnet.engine.base import Query, TokenIds

TOKENS_PER_PASS = 16_384  # these two bound the memory of one forward pass
LOGITS_PER_PASS = 1 << 24
ROUND_COLUMNS = 64
MOVED_AGAIN_AFTER = 8  # passes that sequences are expected to stay together once they were moved


@dataclass(slots=True, eq=False)
class Held:
    """What the engine holds of a session: `tokens` uint32 [length], the context token first."""

    owner: str = ""
    tokens: TokenIds = field(default_factory=lambda: np.empty(0, dtype=np.uint32))
    home: Home | None = None


@dataclass(slots=True, eq=False)
class Slab:
    """pairs: (keys, values) of each layer, tensors [rows, heads, capacity, dim] each."""

    pairs: list[tuple[Any, Any]]
    rows: list[Held | None]
    capacity: int

    @property
    def live(self) -> int:
        return sum(row is not None for row in self.rows)


class Home(NamedTuple):
    """Where a sequence lies: its token p at column start + p of a slab's row."""

    slab: Slab
    row: int
    start: int


@dataclass(slots=True, eq=False)
class Plan:
    """One query: `tokens[base:]` go through the model, rows are wanted from input `first` on.

    source: whose first `base` tokens are these; `held` itself, or a session that it forks.
    """

    index: int
    held: Held
    source: Held
    tokens: TokenIds
    base: int
    first: int

    @property
    def count(self) -> int:
        return len(self.tokens) - self.base

    @property
    def end(self) -> int:
        """The column after its last token, should it stay where it is."""
        assert self.held.home is not None
        return self.held.home.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a pass may take.

    pass_positions: reading this many positions' keys and values takes as long as reading the
        model's weights, which is what a pass of its own costs. budget_positions: at most held.
    """

    vocab_size: int
    pass_positions: int
    budget_positions: int


def columns(longest: int) -> int:
    """Of a new slab: a quarter more than its longest row, so that growing is cheap by the token."""
    return (longest + longest // 4) // ROUND_COLUMNS * ROUND_COLUMNS + ROUND_COLUMNS


def common_prefix(held: TokenIds, wanted: TokenIds) -> int:
    length = min(len(held), len(wanted))
    same = held[:length] == wanted[:length]
    return length if same.all() else int(same.argmin())


def stays(group: Sequence[Plan]) -> bool:
    """Whether a pass over these can read and write where they lie: neighbours, ends aligned."""
    home = group[0].held.home
    if home is None or group[0].end > home.slab.capacity:
        return False
    return all(
        plan.source is plan.held
        and plan.held.home is not None
        and plan.held.home.slab is home.slab
        and plan.held.home.row == home.row + offset
        and plan.end == group[0].end
        for offset, plan in enumerate(group)
    )


def rows_at_once(vocab_size: int) -> int:
    """The most of one sequence that one pass gives."""
    return max(1, LOGITS_PER_PASS // vocab_size)


def in_parts(query: Query, most: int) -> list[Query]:
    """Queries of up to `most` rows each, to be asked one after the other; a draft stays whole."""
    ends = range(query.first + most - 1, len(query.ids) - query.draft, most)
    firsts = [query.first, *(end + 1 for end in ends)]
    parts = [
        replace(query, ids=query.ids[:end], first=first, draft=0)
        for first, end in zip(firsts, ends, strict=False)
    ]
    return [*parts, replace(query, first=firsts[-1]) if parts else query]


def passes(plans: Sequence[Plan], costs: Costs) -> list[list[Plan]]:
    """The plans by pass: those of similar count, as long as joining is cheaper than another pass.

    Joining costs the columns that shorter sequences are padded with, each time, and moving what
    does not lie side by side, once.
    """
    classes: dict[int, list[Plan]] = {}
    for plan in plans:
        classes.setdefault(plan.count.bit_length(), []).append(plan)
    chosen: list[list[Plan]] = []
    for members in classes.values():
        groups: list[list[Plan]] = []
        for run in sorted(_runs(members), key=_longest, reverse=True):
            if groups and _joining(groups[-1], run) <= costs.pass_positions:
                groups[-1] += run
            else:
                groups.append(run)
        for group in groups:
            size = _size(group, costs)
            chosen += [group[start : start + size] for start in range(0, len(group), size)]
    return chosen


def _runs(plans: list[Plan]) -> list[list[Plan]]:
    """Cut into the longest runs that can stay where they are, and single plans."""
    runs: list[list[Plan]] = []
    for plan in sorted(plans, key=_place):
        if runs and stays([*runs[-1][-1:], plan]):
            runs[-1].append(plan)
        else:
            runs.append([plan])
    return runs


def _place(plan: Plan) -> tuple[int, int]:
    home = plan.held.home
    return (-1, plan.index) if home is None else (id(home.slab), home.row)


def _longest(group: list[Plan]) -> int:
    return max(len(plan.tokens) for plan in group)


def _joining(group: list[Plan], run: list[Plan]) -> int:
    """Positions that one pass over both reads more, moves shared among the passes they serve."""
    padding = _longest(group) * len(run) - sum(len(plan.tokens) for plan in run)
    movers = [*run, *group] if stays(group) else run
    return padding + 2 * sum(plan.base for plan in movers) // MOVED_AGAIN_AFTER


def _size(group: list[Plan], costs: Costs) -> int:
    width = max(plan.count for plan in group)
    keep = max(len(plan.tokens) - plan.first for plan in group)
    return max(
        1,
        min(
            TOKENS_PER_PASS // width,
            LOGITS_PER_PASS // (keep * costs.vocab_size),
            costs.budget_positions // columns(_longest(group)),
        ),
    )
