"""Going on with texts: an engine's own tokens, each drawn from its own law of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesubnet.engine.base import Engine, Query, TokenIds
from moesubnet.mixture.drafting import Drawn
from moesubnet.mixture.law import law_of
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import Want


@dataclass(frozen=True, slots=True)
class Continuation:
    """Asks for `count` tokens more, drawn at this temperature (0: the likeliest) and top-p from
    what the rows list."""

    count: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def draft(
    engine: Engine, batch: Sequence[Query], asked: Sequence[Continuation], want: Want
) -> list[tuple[TokenIds, StepRows]]:
    """For each query, whose `first` is len(ids), the tokens that follow, count ≥ 1, and the rows
    that each was drawn from. Sequences go on in step, one pass of the engine for each token."""
    rngs = [np.random.default_rng(wish.seed) for wish in asked]
    texts = [query.ids for query in batch]
    rows: list[list[StepRows]] = [[] for _ in batch]
    for step in range(max(wish.count for wish in asked)):
        going = [i for i, wish in enumerate(asked) if step < wish.count]
        now = [replace(batch[i], ids=texts[i], first=len(texts[i])) for i in going]
        for i, row in zip(going, engine.rows(now, want), strict=True):
            law, wish = law_of(row, -1, None), asked[i]
            drawn = Drawn.of(law.logp, law.ids, wish.temperature, wish.top_p)
            texts[i] = np.append(texts[i], np.uint32(drawn.draw(rngs[i])))
            rows[i].append(row)
    drafted = [text[len(query.ids) :] for text, query in zip(texts, batch, strict=True)]
    return [(ids, StepRows.joined(parts)) for ids, parts in zip(drafted, rows, strict=True)]
