"""From a model's logits to what is wanted of them, on the device where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moesubnet.engine.base import Query
from moesubnet.errors import EngineError
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import Want

_NOTHING = np.empty(0, np.float32)
MIN_LOGPROB = -100.0  # a model's -inf, as a number
FEW = 256  # hold enough of most laws, in a third of the time that it takes to sort thousands
VALUES_AT_ONCE = 1 << 24  # bounds what is held beside the logits
CPU_VALUES_AT_ONCE = 1 << 18  # what stays in a core's cache: 2.5 times as fast at V = 262,144


def answers(queries: Sequence[Query], logits: Sequence[Tensor], want: Want) -> list[StepRows]:
    """logits: for each query [n - first_law + 1, V]. Raises EngineError for not-a-number."""
    answer = _listed if want.lists_likeliest else _whole
    out: list[StepRows] = []
    for part in _parts([tensor.numel() for tensor in logits], _at_once(logits[0])):
        given = logits[part]
        laws = torch.log_softmax((torch.cat(list(given)) if given[1:] else given[0]).float(), -1)
        if bool(torch.isnan(laws[:, 0]).any()):  # one not-a-number spoils its whole row
            is_half = logits[0].dtype == torch.float16  # Gemma 3 270M overflows
            way_out = ": float16 is too narrow for it, take another --dtype" if is_half else ""
            raise EngineError(f"the model returned not-a-number{way_out}")
        ends = np.cumsum([len(tensor) for tensor in given]).tolist()
        out += answer(queries[part], laws.clamp_(min=MIN_LOGPROB), ends, want)
    return out


def _at_once(logits: Tensor) -> int:
    return CPU_VALUES_AT_ONCE if logits.device.type == "cpu" else VALUES_AT_ONCE


def _parts(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """What is worked on together: as many neighbours as stay within `most` values, or one."""
    begin = values = 0
    for end, size in enumerate(sizes):
        if end > begin and values + size > most:
            yield slice(begin, end)
            begin, values = end, 0
        values += size
    yield slice(begin, len(sizes))


def _whole(queries: Sequence[Query], laws: Tensor, ends: list[int], want: Want) -> list[StepRows]:
    rows = laws.cpu().numpy()
    return [
        query.answer(rows[begin:end], want)
        for query, begin, end in zip(queries, [0, *ends], ends, strict=False)
    ]


def _listed(queries: Sequence[Query], laws: Tensor, ends: list[int], want: Want) -> list[StepRows]:
    step = max(1, _at_once(laws) // laws.shape[1])
    blocks = [laws[begin : begin + step] for begin in range(0, len(laws), step)]
    found = [_likeliest(rows, want) for rows in blocks]
    ids, values, beyond = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    out = []
    for query, end in zip(queries, ends, strict=True):
        part = slice(end - (len(query.ids) - query.first + 1), end)
        scores = _drafted(query, laws[:end]) if query.draft else _NOTHING
        # A copy where it is not alone, or it would keep all of them in memory.
        last = laws[end - 1].clone() if len(laws) > 1 else laws[end - 1]
        whole = last.cpu().numpy() if want.committed else None
        candidates = ids[part], values[part], beyond[part]
        out.append(StepRows.ranked(query.first, *candidates, want, scores, whole))
    return out


def _drafted(query: Query, laws: Tensor) -> NDArray[np.float32]:
    """[draft]: what the laws before the last one say of a query's draft."""
    drafted = torch.from_numpy(query.ids[-query.draft :].astype(np.int64)).to(laws.device)
    before = laws[-1 - query.draft : -1]
    scores: NDArray[np.float32] = before.gather(1, drafted[:, None])[:, 0].cpu().numpy()
    return scores


def _likeliest(laws: Tensor, want: Want) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates as `StepRows.ranked` takes them; where few are enough, padded with nothing."""
    width = want.width(laws.shape[1])
    if width == laws.shape[1]:
        every = laws.topk(width)
        return every.indices, every.values, laws.new_zeros(len(laws))
    few = min(FEW, width) if want.kind == "nucleus" else width
    best = laws.topk(few)
    values = laws.new_full((len(laws), width), -torch.inf)
    ids = best.indices[:, :1].repeat(1, width)  # any of them: what has no value is no candidate
    values[:, :few], ids[:, :few] = best
    short = (best.values.exp().sum(1) < want.mass).nonzero()[:, 0]
    if few < width and len(short):
        values[short], ids[short] = laws[short].topk(width)
    return ids, values, laws.exp().scatter_(1, ids, 0.0).sum(1)
