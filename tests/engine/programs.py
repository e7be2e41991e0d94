"""Programs of appends and rollbacks over many sessions, for engines that keep what they read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

from moesubnet.engine.base import Query

Program = list[list[tuple[int, int, list[int], int]]]


def programs(vocab_size: int, at_once: int) -> st.SearchStrategy[Program]:
    """Batches of at most so many moves."""
    move = st.tuples(
        st.integers(0, 7),  # which session
        st.integers(0, 12),  # how many ids to take back first
        st.lists(st.integers(0, vocab_size - 1), max_size=9),  # ids to append
        st.integers(0, 5),  # how many rows more than the last
    )
    batch = st.lists(move, min_size=1, max_size=at_once, unique_by=lambda move: move[0])
    return st.lists(batch, min_size=1, max_size=8)


def batches(program: Program, context_tokens: int, named: str = "{}") -> Iterator[list[Query]]:
    """What it asks. named: of a session's number."""
    held: dict[int, np.ndarray] = {}
    for batch in program:
        queries = []
        for session, back, append, more in batch:
            old = held.get(session, np.empty(0, np.uint32))
            kept = old[: max(0, len(old) - back)]
            new = np.append(kept, append).astype(np.uint32)[: context_tokens - 1]
            held[session] = new
            queries.append(Query(named.format(session), new, max(0, len(new) - more)))
        yield queries
