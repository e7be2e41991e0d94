"""What a miner would answer, out of laws that a test knows."""

from __future__ import annotations

import numpy as np

from moesubnet.engine.base import Query
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import SequenceStep, Want


def answer_to(step: SequenceStep, laws: np.ndarray, want: Want) -> StepRows:
    """laws: f32 [step.end - step.first_law + 1, V], of the positions from `step.first_law`."""
    ids = np.concatenate((np.zeros(step.base_len, np.uint32), step.append_ids, step.draft_ids))
    query = Query(step.session, ids, step.first_row, len(step.draft_ids))
    return query.answer(laws, want).bind()


def dense_rows(rows: StepRows, vocab_size: int) -> np.ndarray:
    """f32 [rows, V]: the tail evenly over what is not listed."""
    out = np.empty((rows.count, vocab_size), np.float32)
    for index, row in enumerate(out):
        ids, logprobs, tail = rows.row(index)
        if ids is None:
            row[:] = logprobs
        else:
            row[:] = np.log(max(tail, 1e-30) / max(1, vocab_size - len(np.unique(ids))))
            row[ids] = logprobs
    return out
