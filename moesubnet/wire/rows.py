"""What `POST /v1/step` answers: rows of log-probabilities, checked and normalised on receipt.

They travel as float16 (float32 is accepted). Rounding is monotone, so an honest value ≤ 0 stays
≤ 0; a token of probability zero is written as LOWEST, the lowest finite float16, whose exponential
is exactly zero, and nothing on the wire is ever infinite.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moesubnet.errors import BadDistribution, FrameError
from moesubnet.types import Hotkey
from moesubnet.wire import frames
from moesubnet.wire.commitment import Commitment, CommittedTail, commit, proof_bytes
from moesubnet.wire.distributions import (
    LOWEST,
    Rows,
    check_dense,
    check_listed,
    check_scores,
    draw,
    enough,
    likeliest,
)
from moesubnet.wire.packing import pack_ids, unpack_ids
from moesubnet.wire.step import Ids, StepRequest, Want

ROWS_SCHEMA = "moesubnet-rows/2"
_NONE = np.empty(0, np.float32)
_NO_IDS = np.empty(0, np.uint32)


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """One sequence's answer; all log-probabilities are finite, ≤ 0 and normalised.

    first: position of row 0. full: `ids` None, logprobs f32 [rows, V]. Otherwise the rows follow
    each other: ids u32 [n], ascending within a row (distinct but for sampled_n), logprobs f32 [n]
    of those ids, ends int64 [rows] where each row ends, tail_mass f32 [rows] of all other tokens
    together. draft_logprobs f32 [draft].
    whole: f32 [V], the last row's law, where it has yet to be bound (the responder's, `bind`).
    bound: where the last row is committed, its tree (the responder's) or what the caller keeps of
    it. proof: of the token whose reveal was asked, zeros where it cannot be shown.
    further: u32, the tokens that the responder would go on with, where that was asked. Where it
    was to draw them they are of the last rows, one of each.
    """

    first: int
    logprobs: Rows
    ids: Ids | None = None
    tail_mass: Rows | None = None
    ends: NDArray[np.int64] | None = None
    draft_logprobs: Rows = field(default_factory=_NONE.copy)
    whole: Rows | None = None
    bound: CommittedTail | Commitment | None = None
    proof: bytes | None = None
    further: Ids = field(default_factory=_NO_IDS.copy)

    @property
    def count(self) -> int:
        return len(self.logprobs if self.tail_mass is None else self.tail_mass)

    def row(self, index: int) -> tuple[Ids | None, Rows, float]:
        """Ids, their log-probabilities and the tail's mass; −1 is the last row."""
        if self.ids is None or self.ends is None or self.tail_mass is None:
            return None, self.logprobs[index], 0.0
        index %= len(self.ends)
        part = slice(self.ends[index - 1] if index else 0, self.ends[index])
        return self.ids[part], self.logprobs[part], float(self.tail_mass[index])

    @classmethod
    def of(
        cls, first: int, laws: Rows, want: Want, *, draft_logprobs: Rows = _NONE, seed: int = 0
    ) -> StepRows:
        """What is wanted of whole laws f32 [rows, V], normalised; −inf is allowed. `seed` is for
        sampled_n."""
        if want.kind == "full":
            return cls(first, laws, draft_logprobs=draft_logprobs)
        if want.kind == "sampled_n":
            ids = draw(laws, want.k, seed, first)
        else:
            ids = likeliest(laws, want.k).astype(np.uint32)
        at = ids.astype(np.intp)
        others = laws.copy()
        np.put_along_axis(others, at, -np.inf, axis=1)
        beyond = np.exp(others, dtype=np.float64).sum(axis=1)
        listed = np.take_along_axis(laws, at, axis=1)
        whole = laws[-1] if want.committed and len(laws) else None
        return cls.ranked(first, ids, listed, beyond, want, draft_logprobs, whole)

    @classmethod
    def ranked(
        cls,
        first: int,
        ids: NDArray[np.integer],
        logprobs: Rows,
        beyond: NDArray[np.floating],
        want: Want,
        draft_logprobs: Rows = _NONE,
        whole: Rows | None = None,
    ) -> StepRows:
        """What is wanted of candidates: ids and log-probabilities [rows, k], the likeliest first
        (in any order for sampled_n), beyond [rows]: the mass of all other tokens. −inf is no
        candidate. For engines that know no more, or choose where the laws are."""
        kept = enough(logprobs, want.mass if want.kind == "nucleus" else np.inf)
        kept &= logprobs > -np.inf
        tail = beyond + np.where(kept, 0.0, np.exp(logprobs, dtype=np.float64)).sum(axis=1)
        row = np.nonzero(kept)[0]
        order = np.lexsort((ids[kept], row))
        return cls(
            first,
            logprobs[kept][order],
            ids[kept][order].astype(np.uint32),
            tail.astype(np.float32),
            np.cumsum(kept.sum(axis=1)),
            draft_logprobs,
            whole,
        )

    def as_read(self) -> StepRows:
        """As whoever gets these rows reads them: rounded, then normalised. Raises BadDistribution
        for what is no law."""
        values = _compact([self.logprobs], "f16")
        if self.ids is None or self.ends is None or self.tail_mass is None:
            return replace(self, logprobs=check_dense(values))
        row = np.repeat(np.arange(self.count), np.diff(self.ends, prepend=0))
        logprobs, tail_mass, _ = check_listed(row, self.ids, values, self.tail_mass)
        return replace(self, logprobs=logprobs, tail_mass=tail_mass)

    @classmethod
    def joined(cls, parts: Sequence[StepRows]) -> StepRows:
        """Parts of one sequence's rows, in order, as one."""
        if len(parts) == 1:
            return parts[0]
        last = parts[-1]
        joined = replace(
            last,
            first=parts[0].first,
            logprobs=np.concatenate([p.logprobs for p in parts]),
            draft_logprobs=np.concatenate([p.draft_logprobs for p in parts]),
        )
        if last.ids is None:
            return joined
        sizes = [np.diff(p.ends, prepend=0) for p in parts if p.ends is not None]
        return replace(
            joined,
            ids=np.concatenate([p.ids for p in parts if p.ids is not None]),
            tail_mass=np.concatenate([p.tail_mass for p in parts if p.tail_mass is not None]),
            ends=np.cumsum(np.concatenate(sizes)),
        )

    def bind(self) -> StepRows:
        """With the last row committed, where its law is at hand. Raises BadDistribution."""
        if self.whole is None or self.tail_mass is None:
            return self
        listed = self.row(-1)[0]
        assert listed is not None
        (bound,) = commit(self.whole[None], [listed])
        tail = self.tail_mass.copy()
        tail[-1] = bound.tail_mass
        return replace(self, tail_mass=tail, bound=bound, whole=None)


@dataclass(frozen=True, slots=True)
class Proof:
    """What shows to others that an answer was given: `lanes.verify_step` checks `receipt` over the
    request, which had this nonce, these bases and reveals (None: it asked for no commitment), and
    this body. rows, further: how many of each were asked of its sequences. step: the request as it
    was sent, where that is known."""

    nonce_ns: int
    base_lens: tuple[int, ...]
    receipt: bytes
    body: bytes
    reveals: tuple[tuple[int, int] | None, ...] | None = None
    sender: Hotkey | None = None  # whose hotkey asked, where it was not our own
    rows: tuple[int, ...] = (1,)
    further: tuple[int, ...] = (0,)
    step: bytes = b""

    @classmethod
    def of(
        cls,
        request: StepRequest,
        nonce_ns: int,
        receipt: bytes,
        body: bytes,
        sender: Hotkey | None = None,
        step: bytes = b"",
    ) -> Proof:
        """receipt: verified."""
        base_lens, reveals, rows, further = request.asked
        return cls(nonce_ns, base_lens, receipt, body, reveals, sender, rows, further, step)


@dataclass(frozen=True, slots=True, eq=False)
class StepResponse:
    """The rows of each sequence of a StepRequest, in its order; `proof` if it came by wire, and
    `took_s` since it was asked."""

    rows: tuple[StepRows, ...]
    proof: Proof | None = None
    took_s: float | None = None

    def to_bytes(self, dtype: Literal["f16", "f32"] = "f16") -> bytes:
        offsets = np.cumsum([0, *(r.count for r in self.rows)])
        tensors: dict[str, frames.Tensor] = {
            "row_offsets": offsets.astype(np.uint32),
            "logprobs": _compact([r.logprobs for r in self.rows], dtype),
            "draft_logprobs": _compact([r.draft_logprobs for r in self.rows], dtype),
        }
        ids = [r.ids for r in self.rows if r.ids is not None]
        sizes = [np.diff(r.ends, prepend=0) for r in self.rows if r.ends is not None]
        tails = [r.tail_mass for r in self.rows if r.tail_mass is not None]
        if ids and sizes and tails:
            row = np.repeat(np.arange(offsets[-1]), np.concatenate(sizes))
            tensors["ids"] = pack_ids(row, np.concatenate(ids))
            tensors["tail_mass"] = np.concatenate(tails).astype(np.float32, copy=False)
        if roots := [r.bound.root for r in self.rows if r.bound is not None]:
            tensors["roots"] = _bytes(roots)
        if proofs := [r.proof for r in self.rows if r.proof is not None]:
            tensors["proofs"] = _bytes(proofs)
        if any(len(r.further) for r in self.rows):
            tensors["further"] = np.concatenate([r.further for r in self.rows]).astype(np.uint32)
        return frames.encode(ROWS_SCHEMA, {}, tensors)

    @classmethod
    def from_bytes(
        cls, data: bytes | bytearray | memoryview, request: StepRequest, vocab_size: int
    ) -> StepResponse:
        """The answer to `request`, checked and renormalised.

        Raises FrameError when it has not exactly the rows that were asked for, BadDistribution
        when they are no distributions.
        """
        want = request.want
        drafted, answering, shown, further = request.counts
        limits = frames.Limits(max_frame_bytes=max_answer_bytes(request, vocab_size))
        frame = frames.decode(data, schema=ROWS_SCHEMA, limits=limits)
        listed = want.kind != "full"
        names = _tensors(listed, bool(answering), bool(shown), bool(further))
        frame.holds_only(frozenset(), names)
        offsets = frame.tensor("row_offsets", "u32", (len(request.row_offsets),)).tolist()
        given = _further(offsets, request)
        total, more = offsets[-1], sum(given)
        scores = frame.tensor("draft_logprobs", "f16 f32", (drafted,))
        scores = check_scores(scores) if drafted else _NONE
        bound: Iterator[Commitment] = iter(())
        proofs: Iterator[NDArray[np.uint8]] = iter(())
        if listed:
            row, ids = unpack_ids(frame.tensor("ids", "u8", (None,)))
            _check_ids(row, ids, total, want, vocab_size)
            values = frame.tensor("logprobs", "f16 f32", (len(ids),))
            tail = frame.tensor("tail_mass", "f32", (total,))
            bounds = np.searchsorted(row, np.arange(total + 1))
            logprobs, tails, log_mass = check_listed(row, ids, values, tail)
            if answering:
                roots = frame.tensor("roots", "u8", (answering, 32))
                last = [end - 1 for begin, end in pairwise(offsets) if end > begin]
                sent = zip(roots, tail[last].tolist(), log_mass[last].tolist(), strict=True)
                bound = (Commitment(r.tobytes(), mass, log, vocab_size) for r, mass, log in sent)
        else:
            logprobs = check_dense(frame.tensor("logprobs", "f16 f32", (total, vocab_size)))
        if shown:
            proofs = iter(frame.tensor("proofs", "u8", (shown, proof_bytes(vocab_size))))
        going_on = [_NO_IDS] * len(request.sequences)
        if more:
            guesses = frame.tensor("further", "u32", (more,))
            if int(guesses.max()) >= vocab_size:
                raise FrameError("a token to go on with is outside the vocabulary")
            going_on = np.split(guesses, np.cumsum(given)[:-1])
        drafts = [scores] * len(request.sequences)
        if drafted:
            drafts = np.split(scores, np.cumsum([len(s.draft_ids) for s in request.sequences]))
        rows = []
        for i, step in enumerate(request.sequences):
            begin, end = offsets[i], offsets[i + 1]
            part, ends = slice(begin, end), None
            if listed:
                part = slice(bounds[begin], bounds[end])
                ends = bounds[begin + 1 : end + 1] - bounds[begin]
            answer = StepRows(
                step.first_row,
                logprobs[part],
                ids[part] if listed else None,
                tails[begin:end] if listed else None,
                ends,
                drafts[i],
                None,
                next(bound) if answering and step.rows else None,
                None if step.reveal is None else next(proofs).tobytes(),
                going_on[i],
            )
            rows.append(answer)
        return cls(tuple(rows))


def max_answer_bytes(request: StepRequest, vocab_size: int) -> int:
    """The largest honest answer: what a client reads before it gives up."""
    drafted, _, shown, more = request.counts
    bound = 0
    if request.want.committed:
        bound = 32 * len(request.sequences) + proof_bytes(vocab_size) * shown
    width = request.want.width(vocab_size)
    rows = request.most_rows * (8 * width + 8)  # an id takes four bytes at most
    return 4_096 + rows + 4 * (drafted + more) + bound


def _further(offsets: Sequence[int], request: StepRequest) -> list[int]:
    """How many tokens an answer with these row offsets goes on with, by sequence. Raises
    FrameError unless these rows were asked for: one of each drawn token, of which there may be
    fewer."""
    asked = [s.further for s in request.sequences]
    if request.ahead is None:
        if list(offsets) != request.row_offsets:
            raise FrameError("not the rows that were asked for")
        return asked
    sizes = (end - begin for begin, end in pairwise(offsets))
    beyond = [size - s.rows for size, s in zip(sizes, request.sequences, strict=True)]
    most = [max(further - 1, 0) for further in asked]
    if offsets[0] or not all(0 <= rows <= m for rows, m in zip(beyond, most, strict=True)):
        raise FrameError("not the rows that were asked for, or more than may be drawn")
    return [rows + (further > 0) for rows, further in zip(beyond, asked, strict=True)]


@lru_cache
def _tensors(listed: bool, answering: bool, shown: bool, further: bool) -> frozenset[str]:
    """Those of an answer."""
    names = {"row_offsets", "logprobs", "draft_logprobs"}
    names |= ({"ids", "tail_mass"} if listed else set()) | ({"roots"} if answering else set())
    return frozenset(names | ({"proofs"} if shown else set()) | ({"further"} if further else set()))


def _check_ids(row: NDArray[np.int64], ids: Ids, rows: int, want: Want, vocab_size: int) -> None:
    """Raises FrameError or BadDistribution unless these are as many tokens as were wanted."""
    if len(row) and row[-1] >= rows:
        raise FrameError("more rows than were asked for")
    if len(ids) and int(ids.max()) >= vocab_size:
        raise BadDistribution("a listed token is outside the vocabulary")
    counts = np.bincount(row, minlength=rows)
    drawn = want.kind == "sampled_n"
    if bool(((counts > want.k) | (counts < (want.k if drawn else 1))).any()):
        raise BadDistribution("a row lists nothing, or more or less than was asked for")
    if not drawn and bool(((row[1:] == row[:-1]) & (ids[1:] == ids[:-1])).any()):
        raise BadDistribution("a token is listed twice")


def _bytes(parts: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), -1)


def _compact(parts: Sequence[Rows], dtype: str) -> NDArray[np.floating]:
    joined = np.concatenate(parts)
    return np.clip(joined, LOWEST, 0.0).astype(frames.DTYPES[dtype])
