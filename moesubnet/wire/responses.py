"""What `POST /v1/step` answers, written and read: rows of all sequences, checked and normalised.

Answers that come together are read together: a dozen numpy calls on short arrays cost what a dozen
on long ones do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesubnet.errors import BadDistribution, FrameError, WireError
from moesubnet.types import Hotkey
from moesubnet.wire import frames
from moesubnet.wire.commitment import Commitment, proof_bytes
from moesubnet.wire.distributions import Rows, check_dense, check_listed, check_scores
from moesubnet.wire.packing import pack_ids, unpack_lists
from moesubnet.wire.rows import StepRows, compact
from moesubnet.wire.step import Ids, StepRequest, Want

ROWS_SCHEMA = "moesubnet-rows/2"
AT_ONCE_BYTES = 2**18  # of answers that are read together; a larger one is by itself
_NONE = np.empty(0, np.float32)
_NO_IDS = np.empty(0, np.uint32)


class Proof(NamedTuple):
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
        _, _, base_lens, reveals, rows, further, *_ = request.shape
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
            "logprobs": compact([r.logprobs for r in self.rows], dtype),
            "draft_logprobs": compact([r.draft_logprobs for r in self.rows], dtype),
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
        [answer] = read_answers([(data, request)], vocab_size)
        if isinstance(answer, WireError):
            raise answer
        return answer


def read_answers(
    given: Sequence[tuple[bytes | bytearray | memoryview, StepRequest]], vocab_size: int
) -> list[StepResponse | WireError]:
    """Some answers, each to its request: read, or what `StepResponse.from_bytes` would raise."""
    read: dict[int, StepResponse | WireError] = {}
    runs: list[list[tuple[int, _Opened]]] = []  # alike, one after the other
    last_kind, left_bytes = None, 0
    for place, (data, request) in enumerate(given):
        try:
            answer = _opened(data, request, vocab_size)
        except WireError as error:
            read[place] = error
            continue
        kind = request.want, answer.values.dtype
        if kind != last_kind or left_bytes < len(data):
            runs.append([])
            last_kind, left_bytes = kind, AT_ONCE_BYTES
        runs[-1].append((place, answer))
        left_bytes -= len(data)
    for run in runs:
        answers = [answer for _, answer in run]
        whole = _read(answers, answers[0].request.want, vocab_size)
        read.update(zip((place for place, _ in run), whole, strict=True))
    return [read[place] for place in range(len(given))]


class _Opened(NamedTuple):
    """An answer whose parts are as many as were asked for, its laws unread: values [rows, V] of
    whole laws, else those [n] of `packed` ids, with tails [rows]."""

    request: StepRequest
    offsets: list[int]  # of its sequences' rows
    scores: Rows
    given: Sequence[int]  # how many tokens each sequence goes on with
    guesses: Ids
    values: NDArray[np.floating]
    packed: NDArray[np.uint8] | None
    tail: Rows | None
    roots: NDArray[np.uint8] | None
    proofs: NDArray[np.uint8] | None


def _opened(data: bytes | bytearray | memoryview, request: StepRequest, vocab_size: int) -> _Opened:
    """Raises FrameError, BadDistribution for the scores of drafts."""
    want, shape = request.want, request.shape
    drafted, answering, shown = shape.drafted, shape.committed, shape.revealed
    limits = frames.Limits(max_frame_bytes=max_answer_bytes(request, vocab_size))
    frame = frames.decode(data, schema=ROWS_SCHEMA, limits=limits)
    listed = want.kind != "full"
    names = _tensors(listed, bool(answering), bool(shown), bool(shape.going_on))
    frame.holds_only(frozenset(), names)
    offsets = frame.tensor("row_offsets", "u32", (len(shape.row_offsets),)).tolist()
    given = _further(offsets, request)
    total, more = offsets[-1], sum(given)
    scores = frame.tensor("draft_logprobs", "f16 f32", (drafted,))
    guesses = frame.tensor("further", "u32", (more,)) if more else _NO_IDS
    if more and int(guesses.max()) >= vocab_size:
        raise FrameError("a token to go on with is outside the vocabulary")
    return _Opened(
        request,
        offsets,
        check_scores(scores) if drafted else _NONE,
        given,
        guesses,
        frame.tensor("logprobs", "f16 f32", (None,) if listed else (total, vocab_size)),
        frame.tensor("ids", "u8", (None,)) if listed else None,
        frame.tensor("tail_mass", "f32", (total,)) if listed else None,
        frame.tensor("roots", "u8", (answering, 32)) if listed and answering else None,
        frame.tensor("proofs", "u8", (shown, proof_bytes(vocab_size))) if shown else None,
    )


def _read(
    answers: Sequence[_Opened], want: Want, vocab_size: int
) -> list[StepResponse | WireError]:
    """All at once; one by one where any is wrong, to tell which."""
    try:
        return [*_responses(answers, want, vocab_size)]
    except WireError as error:
        if len(answers) == 1:
            return [error]
    return [read for answer in answers for read in _read([answer], want, vocab_size)]


class _Laws(NamedTuple):
    """Of all rows of some answers, checked and normalised: logprobs [rows, V], or [n] of ids,
    those of row r from bounds[r] to bounds[r + 1]. told: each row's tail as it came, and the log
    mass that it was divided by."""

    logprobs: Rows
    ids: Ids | None = None
    tails: Rows | None = None
    bounds: NDArray[np.int64] | None = None
    told: Sequence[tuple[float, float]] = ()

    def rows(self, begin: int, end: int) -> tuple[Rows, Ids | None, Rows | None, Any]:
        """As `StepRows` has them."""
        if self.ids is None or self.tails is None or self.bounds is None:
            return _apart(self.logprobs, begin, end), None, None, None
        ends = self.bounds[begin + 1 : end + 1] - self.bounds[begin]
        at = self.bounds[begin], self.bounds[end]
        tails = _apart(self.tails, begin, end)
        return _apart(self.logprobs, *at), _apart(self.ids, *at), tails, ends


def _responses(answers: Sequence[_Opened], want: Want, vocab_size: int) -> list[StepResponse]:
    """Raises FrameError, BadDistribution."""
    rows = [answer.offsets[-1] for answer in answers]
    values = _joined([answer.values for answer in answers])
    if want.kind == "full":
        laws = _Laws(check_dense(values))
    else:
        row, ids, counts = unpack_lists([a.packed for a in answers if a.packed is not None], rows)
        tail = _joined([a.tail for a in answers if a.tail is not None])
        _check_ids(row, ids, len(tail), want, vocab_size)
        if any(len(a.values) != n for a, n in zip(answers, counts, strict=True)):
            raise FrameError("not one log-probability for each listed token")
        logprobs, tails, log_mass = check_listed(row, ids, values, tail)
        bounds = np.searchsorted(row, np.arange(len(tail) + 1))
        told = list(zip(tail.tolist(), log_mass.tolist(), strict=True))
        laws = _Laws(logprobs, ids, tails, bounds, told)
    firsts = [0, *accumulate(rows[:-1])]
    return [_response(a, laws, first, vocab_size) for a, first in zip(answers, firsts, strict=True)]


def _response(answer: _Opened, laws: _Laws, first: int, vocab_size: int) -> StepResponse:
    """first: its first row among all."""
    request = answer.request
    drafts, going_on = [answer.scores], [answer.guesses]
    if len(request.sequences) > 1:
        drafted = [len(step.draft_ids) for step in request.sequences]
        drafts = np.split(answer.scores, np.cumsum(drafted[:-1]))
        going_on = np.split(answer.guesses, np.cumsum(answer.given[:-1]))
    roots = iter(() if answer.roots is None else answer.roots)
    proofs = iter(() if answer.proofs is None else answer.proofs)
    rows = []
    for i, step in enumerate(request.sequences):
        begin, end = first + answer.offsets[i], first + answer.offsets[i + 1]
        logprobs, ids, tails, ends = laws.rows(begin, end)
        bound = None
        if answer.roots is not None and step.rows:
            bound = Commitment(next(roots).tobytes(), *laws.told[end - 1], vocab_size)
        proof = None if step.reveal is None else next(proofs).tobytes()
        more = drafts[i], None, bound, proof, going_on[i]
        rows.append(StepRows(step.first_row, logprobs, ids, tails, ends, *more))
    return StepResponse(tuple(rows))


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _apart(values: NDArray[Any], begin: int, end: int) -> NDArray[Any]:
    """What is kept of one keeps nothing of the others."""
    part = values[begin:end]
    return part if len(part) == len(values) else part.copy()


def max_answer_bytes(request: StepRequest, vocab_size: int) -> int:
    """The largest honest answer: what a client reads before it gives up."""
    shape, bound = request.shape, 0
    if request.want.committed:
        bound = 32 * len(request.sequences) + proof_bytes(vocab_size) * shape.revealed
    width = request.want.width(vocab_size)
    rows = shape.most_rows * (8 * width + 8)  # an id takes four bytes at most
    return 4_096 + rows + 4 * (shape.drafted + shape.going_on) + bound


def _further(offsets: Sequence[int], request: StepRequest) -> Sequence[int]:
    """How many tokens an answer with these row offsets goes on with, by sequence. Raises
    FrameError unless these rows were asked for: one of each drawn token, of which there may be
    fewer."""
    shape = request.shape
    if request.ahead is None:
        if list(offsets) != shape.row_offsets:
            raise FrameError("not the rows that were asked for")
        return shape.further
    sizes = (end - begin for begin, end in pairwise(offsets))
    beyond = [size - rows for size, rows in zip(sizes, shape.rows, strict=True)]
    most = [max(further - 1, 0) for further in shape.further]
    if offsets[0] or not all(0 <= rows <= m for rows, m in zip(beyond, most, strict=True)):
        raise FrameError("not the rows that were asked for, or more than may be drawn")
    return [rows + (further > 0) for rows, further in zip(beyond, shape.further, strict=True)]


@lru_cache
def _tensors(listed: bool, answering: bool, shown: bool, further: bool) -> frozenset[str]:
    """Those of an answer."""
    names = {"row_offsets", "logprobs", "draft_logprobs"}
    names |= ({"ids", "tail_mass"} if listed else set()) | ({"roots"} if answering else set())
    return frozenset(names | ({"proofs"} if shown else set()) | ({"further"} if further else set()))


def _check_ids(row: NDArray[np.int64], ids: Ids, rows: int, want: Want, vocab_size: int) -> None:
    """Raises BadDistribution unless these are as many tokens as were wanted."""
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
