"""What `POST /v1/step` answers: rows of log-probabilities, checked and normalised on receipt.

They travel as float16 (float32 is accepted). Rounding is monotone, so an honest value ≤ 0 stays
≤ 0; a token of probability zero is written as LOWEST, the lowest finite float16, whose exponential
is exactly zero, and nothing on the wire is ever infinite.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moesubnet.errors import FrameError
from moesubnet.wire import frames
from moesubnet.wire.commitment import Commitment, CommittedTail, commit, proof_bytes
from moesubnet.wire.distributions import (
    LOWEST,
    Rows,
    check_dense,
    check_listed,
    check_scores,
    draw,
    spread,
)
from moesubnet.wire.step import Ids, SequenceStep, StepRequest, Want

ROWS_SCHEMA = "moesubnet-rows/1"


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """One sequence's answer; all log-probabilities are finite, ≤ 0 and normalised.

    first: position of row 0. full: `ids` None, logprobs f32 [rows, V]. Otherwise ids u32
    [rows, k] (distinct for top_k, drawn with replacement for sampled_n), logprobs f32 [rows, k]
    of those ids, tail_mass f32 [rows] of all others together. draft_logprobs f32 [draft].
    bound: where the last row is committed, its tree (the responder's) or what the caller keeps of
    it. proof: of the token whose reveal was asked, zeros where it cannot be shown.
    """

    first: int
    logprobs: Rows
    ids: Ids | None = None
    tail_mass: Rows | None = None
    draft_logprobs: Rows = field(default_factory=lambda: np.empty(0, np.float32))
    bound: CommittedTail | Commitment | None = None
    proof: bytes | None = None

    def dense(self, vocab_size: int) -> Rows:
        """f32 [rows, vocab_size] log-probabilities; the tail spread evenly over the unlisted."""
        if self.ids is None or self.tail_mass is None:
            return self.logprobs
        return spread(self.ids, self.logprobs, self.tail_mass, vocab_size)

    @classmethod
    def answer(
        cls, step: SequenceStep, laws: Rows, want: Want, rng: np.random.Generator
    ) -> StepRows:
        """What a responder sends. laws: f32 [step.end - step.first_law + 1, V], normalised
        log-probabilities of the positions from `step.first_law`; -inf is allowed. `rng` draws
        for sampled_n."""
        offset = step.draft_start - step.first_law
        scores = laws[np.arange(len(step.draft_ids)) + offset, step.draft_ids]
        rows = laws[step.first_row - step.first_law :]
        if want.kind == "full":
            return cls(step.first_row, rows, draft_logprobs=scores)
        if want.kind == "top_k":
            ids = np.argpartition(rows, -want.k, axis=1)[:, -want.k :].astype(np.uint32)
        else:
            ids = draw(rows, want.k, rng)
        listed = np.take_along_axis(rows, ids.astype(np.intp), axis=1)
        others = rows.copy()
        np.put_along_axis(others, ids.astype(np.intp), -np.inf, axis=1)
        tail = np.exp(others, dtype=np.float64).sum(axis=1).astype(np.float32)
        bound = None
        if want.committed and len(rows):
            (bound,) = commit(rows[-1:], [ids[-1]])
            tail[-1] = bound.tail_mass
        return cls(step.first_row, listed, ids, tail, scores, bound)


@dataclass(frozen=True, slots=True)
class Proof:
    """What shows to others that an answer was given: `signing.verify_receipt` checks `receipt`
    (64 bytes) over the request, which had this nonce, these bases and reveals (None: it asked for
    no commitment), and this body."""

    nonce_ns: int
    base_lens: tuple[int, ...]
    receipt: bytes
    body: bytes | bytearray
    reveals: tuple[tuple[int, int] | None, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StepResponse:
    """The rows of each sequence of a StepRequest, in its order; `proof` if it came by wire."""

    rows: tuple[StepRows, ...]
    proof: Proof | None = None

    def to_bytes(self, dtype: Literal["f16", "f32"] = "f16") -> bytes:
        offsets = np.cumsum([0, *(len(r.logprobs) for r in self.rows)])
        tensors: dict[str, frames.Tensor] = {
            "row_offsets": offsets.astype(np.uint32),
            "logprobs": _compact([r.logprobs for r in self.rows], dtype),
            "draft_logprobs": _compact([r.draft_logprobs for r in self.rows], dtype),
        }
        ids = [r.ids for r in self.rows if r.ids is not None]
        tails = [r.tail_mass for r in self.rows if r.tail_mass is not None]
        if ids and tails:
            tensors["ids"] = np.concatenate(ids).astype(np.uint32, copy=False)
            tensors["tail_mass"] = np.concatenate(tails).astype(np.float32, copy=False)
        if roots := [r.bound.root for r in self.rows if r.bound is not None]:
            tensors["roots"] = _bytes(roots)
        if proofs := [r.proof for r in self.rows if r.proof is not None]:
            tensors["proofs"] = _bytes(proofs)
        return frames.encode(ROWS_SCHEMA, {}, tensors)

    @classmethod
    def from_bytes(
        cls, data: bytes | bytearray | memoryview, request: StepRequest, vocab_size: int
    ) -> StepResponse:
        """The answer to `request`, checked and renormalised.

        Raises FrameError when it has not exactly the rows that were asked for, BadDistribution
        when they are no distributions.
        """
        total, width = request.row_offsets[-1], request.want.k or vocab_size
        drafted = sum(len(s.draft_ids) for s in request.sequences)
        limits = frames.Limits(max_frame_bytes=max_answer_bytes(request, vocab_size))
        frame = frames.decode(data, schema=ROWS_SCHEMA, limits=limits)
        names = {"row_offsets", "logprobs", "draft_logprobs"}
        listed = request.want.kind != "full"
        answering = sum(s.rows > 0 for s in request.sequences) * request.want.committed
        shown = sum(s.reveal is not None for s in request.sequences)
        names |= ({"ids", "tail_mass"} if listed else set()) | ({"roots"} if answering else set())
        frame.holds_only(set(), names | ({"proofs"} if shown else set()))
        offsets = frame.tensor("row_offsets", "u32", (len(request.row_offsets),))
        if offsets.tolist() != request.row_offsets:
            raise FrameError("not the rows that were asked for")
        logprobs = frame.tensor("logprobs", "f16 f32", (total, width))
        scores = check_scores(frame.tensor("draft_logprobs", "f16 f32", (drafted,)))
        ids = tail = None
        bound: Iterator[Commitment] = iter(())
        proofs: Iterator[NDArray[np.uint8]] = iter(())
        if listed:
            ids = frame.tensor("ids", "u32", (total, width))
            tail = frame.tensor("tail_mass", "f32", (total,))
            distinct = request.want.kind == "top_k"
            if answering:
                roots = frame.tensor("roots", "u8", (answering, 32))
                last = np.unique(offsets[1:][np.diff(offsets) > 0]) - 1
                bound = _commitments(roots, logprobs[last], tail[last], vocab_size)
            logprobs, tail = check_listed(ids, logprobs, tail, vocab_size, distinct=distinct)
        else:
            logprobs = check_dense(logprobs)
        if shown:
            proofs = iter(frame.tensor("proofs", "u8", (shown, proof_bytes(vocab_size))))
        rows, begin = [], 0
        for i, step in enumerate(request.sequences):
            part = slice(*request.row_offsets[i : i + 2])
            end = begin + len(step.draft_ids)
            rows.append(
                StepRows(
                    step.first_row,
                    logprobs[part],
                    None if ids is None else ids[part],
                    None if tail is None else tail[part],
                    scores[begin:end],
                    next(bound) if answering and step.rows else None,
                    None if step.reveal is None else next(proofs).tobytes(),
                )
            )
            begin = end
        return cls(tuple(rows))


def max_answer_bytes(request: StepRequest, vocab_size: int) -> int:
    """The largest honest answer: what a client reads before it gives up."""
    width = request.want.k or vocab_size
    drafted = sum(len(s.draft_ids) for s in request.sequences)
    bound = sum(32 + proof_bytes(vocab_size) * (s.reveal is not None) for s in request.sequences)
    rows = request.row_offsets[-1] * (8 * width + 8)
    return 4_096 + rows + 4 * drafted + bound * request.want.committed


def _commitments(
    roots: NDArray[np.uint8], logprobs: NDArray[np.generic], tail: Rows, vocab_size: int
) -> Iterator[Commitment]:
    """Of rows as they were sent: logprobs [rows, k], tail f32 [rows]. Lazy: check them first."""
    log_mass = np.log(np.exp(logprobs.astype(np.float64)).sum(axis=1) + tail)
    for root, row_tail, row_mass in zip(roots, tail.tolist(), log_mass.tolist(), strict=True):
        yield Commitment(root.tobytes(), row_tail, row_mass, vocab_size)


def _bytes(parts: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), -1)


def _compact(parts: Sequence[Rows], dtype: str) -> NDArray[np.floating]:
    joined = np.concatenate(parts)
    return np.clip(joined, LOWEST, 0.0).astype(frames.DTYPES[dtype])
