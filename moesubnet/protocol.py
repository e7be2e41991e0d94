"""The bodies on the wire: `/v1/step` and its answer, the expert's card, `/v1/generate`.

Log-probabilities travel as float16 (float32 is accepted). Rounding is monotone, so an honest
value ≤ 0 stays ≤ 0; a token of probability zero is written as LOWEST, the lowest finite float16,
whose exponential is exactly zero, and nothing on the wire is ever infinite.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from moesubnet import frames
from moesubnet.distributions import LOWEST, check_dense, check_listed, check_scores, draw, spread
from moesubnet.errors import FrameError

STEP_SCHEMA = "moesubnet-step/1"
ROWS_SCHEMA = "moesubnet-rows/1"
_SESSION = re.compile(r"[!-~]{1,64}")
_NO_IDS = np.empty(0, np.uint32)

Ids = NDArray[np.uint32]
Rows = NDArray[np.float32]
Kind = Literal["full", "top_k", "sampled_n"]


def base_hash(ids: Ids) -> bytes:
    """SHA-256 of the little-endian u32 ids; an empty base hashes the empty string."""
    return hashlib.sha256(ids.astype("<u4").tobytes()).digest()


@dataclass(frozen=True, slots=True)
class Want:
    """What each row should hold: every token, the `k` likeliest, or `k` drawn from the law."""

    kind: Kind
    k: int = 0  # 0 for full

    def __post_init__(self) -> None:
        if self.kind not in ("full", "top_k", "sampled_n") or (self.k > 0) == (self.kind == "full"):
            raise FrameError("want is full with k = 0, or top_k or sampled_n with k > 0")


@dataclass(frozen=True, slots=True, eq=False)
class SequenceStep:
    """One sequence of a step: after `base_len` ids hashed in `base_hash` come the given ids.

    Answered are the rows `first_row` … `end`, where row p is the law of token p given ids < p.
    `first` None means after the appended ids: one row for each draft id and one more.
    """

    session: str
    base_len: int
    base_hash: bytes
    append_ids: Ids
    draft_ids: Ids = field(default_factory=_NO_IDS.copy)
    first: int | None = None

    @property
    def draft_start(self) -> int:
        return self.base_len + len(self.append_ids)

    @property
    def end(self) -> int:
        return self.draft_start + len(self.draft_ids)

    @property
    def first_row(self) -> int:
        return self.draft_start if self.first is None else self.first

    @property
    def rows(self) -> int:
        return self.end - self.first_row + 1

    @property
    def first_law(self) -> int:
        """The first position whose law the answer needs: a row's or a draft id's."""
        return min(self.first_row, self.draft_start) if len(self.draft_ids) else self.first_row


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What a responder accepts in one step; the first two are the spec's."""

    vocab_size: int
    context_tokens: int
    max_sequences: int = 256
    max_answer_values: int = 2**25  # rows × values a row: 64 MiB of float16

    @property
    def max_body_bytes(self) -> int:
        return min(2**25, 65_536 + self.max_sequences * (48 + 4 * self.context_tokens))


@dataclass(frozen=True, eq=False)
class StepRequest:
    """A batch of sequences, each of another session of the same sender."""

    sequences: tuple[SequenceStep, ...]
    want: Want

    @cached_property
    def row_offsets(self) -> list[int]:
        """[sequences + 1]: sequence i answers the rows row_offsets[i] … row_offsets[i + 1] - 1."""
        return [0, *accumulate(s.rows for s in self.sequences)]

    def to_bytes(self) -> bytes:
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        """Encoded once: the same step usually goes to several experts."""
        spans = [
            (s.base_len, len(s.append_ids), len(s.draft_ids), s.first_row) for s in self.sequences
        ]
        hashes = b"".join(s.base_hash for s in self.sequences)
        ids = [part for s in self.sequences for part in (s.append_ids, s.draft_ids)]
        return frames.encode(
            STEP_SCHEMA,
            {
                "kind": self.want.kind,
                "k": self.want.k,
                "sessions": [s.session for s in self.sequences],
            },
            {
                "spans": np.array(spans, np.uint32).reshape(-1, 4),
                "base_hashes": np.frombuffer(hashes, np.uint8).reshape(-1, 32),
                "ids": np.concatenate([_NO_IDS, *ids]).astype(np.uint32, copy=False),
            },
        )

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, limits: StepLimits) -> StepRequest:
        """Raises FrameError for anything outside the protocol or the limits."""
        frame = frames.decode(
            data, schema=STEP_SCHEMA, limits=frames.Limits(max_frame_bytes=limits.max_body_bytes)
        )
        spans = _tensor(frame, "spans", "u32", (None, 4))
        count = len(spans)
        hashes = _tensor(frame, "base_hashes", "u8", (count, 32))
        ids = _tensor(frame, "ids", "u32", (None,))
        sessions = frames.texts(frame.fields.get("sessions"), count)
        kind, k = frame.fields.get("kind"), frame.fields.get("k")
        _only(frame, {"kind", "k", "sessions"}, {"spans", "base_hashes", "ids"})
        if not (isinstance(kind, str) and type(k) is int):
            raise FrameError("want is malformed")
        want = Want(kind, k)  # type: ignore[arg-type]  # checked by Want itself
        if not 1 <= count <= limits.max_sequences or want.k > limits.vocab_size:
            raise FrameError("too many sequences or too large a k")
        if len(set(sessions)) < count or not all(map(_SESSION.fullmatch, sessions)):
            raise FrameError("a session is repeated or not 1 to 64 printable ASCII characters")
        if len(ids) and int(ids.max()) >= limits.vocab_size:
            raise FrameError("a token id is outside the vocabulary")
        sequences, begin = [], 0
        for session, span, digest in zip(sessions, spans.tolist(), hashes, strict=True):
            base_len, appended, drafted, first = span
            middle, end = begin + appended, begin + appended + drafted
            step = SequenceStep(
                session, base_len, digest.tobytes(), ids[begin:middle], ids[middle:end], first
            )
            # The engine feeds one token (bos) before the sequence, hence the strict inequality.
            if end > len(ids) or step.end >= limits.context_tokens or first > step.end:
                raise FrameError("a sequence is longer than its ids or the context")
            sequences.append(step)
            begin = end
        if begin != len(ids):
            raise FrameError("more ids than the sequences say")
        request = cls(tuple(sequences), want)
        width = want.k or limits.vocab_size
        if request.row_offsets[-1] * width > limits.max_answer_values:
            raise FrameError("the answer would be too large; ask for fewer rows")
        return request


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """One sequence's answer; all log-probabilities are finite, ≤ 0 and normalised.

    first: position of row 0. full: `ids` None, logprobs f32 [rows, V]. Otherwise ids u32
    [rows, k] (distinct for top_k, drawn with replacement for sampled_n), logprobs f32 [rows, k]
    of those ids, tail_mass f32 [rows] of all others together. draft_logprobs f32 [draft].
    """

    first: int
    logprobs: Rows
    ids: Ids | None = None
    tail_mass: Rows | None = None
    draft_logprobs: Rows = field(default_factory=lambda: np.empty(0, np.float32))

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
        return cls(step.first_row, listed, ids, tail, scores)


@dataclass(frozen=True, slots=True, eq=False)
class StepResponse:
    """The rows of each sequence of a StepRequest, in its order.

    receipt: how the responder signed it, then the request's and the body's SHA-256, in hex with
    spaces between; empty until it came over the wire.
    """

    rows: tuple[StepRows, ...]
    receipt: str = ""

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
        _only(frame, set(), names | {"ids", "tail_mass"} if listed else names)
        offsets = _tensor(frame, "row_offsets", "u32", (len(request.row_offsets),))
        if offsets.tolist() != request.row_offsets:
            raise FrameError("not the rows that were asked for")
        logprobs = _tensor(frame, "logprobs", "f16 f32", (total, width))
        scores = check_scores(_tensor(frame, "draft_logprobs", "f16 f32", (drafted,)))
        ids = tail = None
        if listed:
            ids = _tensor(frame, "ids", "u32", (total, width))
            tail = _tensor(frame, "tail_mass", "f32", (total,))
            distinct = request.want.kind == "top_k"
            logprobs, tail = check_listed(ids, logprobs, tail, vocab_size, distinct=distinct)
        else:
            logprobs = check_dense(logprobs)
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
                )
            )
            begin = end
        return cls(tuple(rows))


def max_answer_bytes(request: StepRequest, vocab_size: int) -> int:
    """The largest honest answer: what a client reads before it gives up."""
    width = request.want.k or vocab_size
    drafted = sum(len(s.draft_ids) for s in request.sequences)
    return 4_096 + request.row_offsets[-1] * (8 * width + 8) + 4 * drafted


def _compact(parts: Sequence[Rows], dtype: str) -> NDArray[np.floating]:
    joined = np.concatenate(parts)
    return np.clip(joined, LOWEST, 0.0).astype(frames.DTYPES[dtype])


def _tensor(
    frame: frames.Frame, name: str, dtypes: str, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """A tensor of one of the named dtypes and of this shape (None: any size); else FrameError."""
    tensor = frame.tensors.get(name)
    if tensor is None or tensor.dtype not in [frames.DTYPES[d] for d in dtypes.split()]:
        raise FrameError(f"{name} is missing or not {dtypes}")
    if len(shape) != tensor.ndim or any(
        size is not None and size != got for size, got in zip(shape, tensor.shape, strict=True)
    ):
        raise FrameError(f"{name} has not the shape that follows from the request")
    return tensor


def _only(frame: frames.Frame, fields: set[str], tensors: set[str]) -> None:
    if set(frame.fields) != fields or set(frame.tensors) != tensors:
        raise FrameError("a field or tensor is missing or unknown")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


TokenId = Annotated[int, Field(ge=0, lt=2**32)]


class ExpertCard(_Model):
    """`GET /v1/expert`: what an expert says of itself. Claims, checked elsewhere."""

    hotkey: str = Field(max_length=48)
    spec_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    model_commitment: str = Field(pattern=r"^[0-9a-f]{64}$")
    name: str = Field(max_length=64)
    context_tokens: int = Field(ge=1, le=2**24)
    vocab_size: int = Field(ge=2, le=2**24)
    max_sequences: int = Field(ge=1, le=4_096)
    engine: str = Field(max_length=64)
    version: str = Field(max_length=32)
    price_rao_per_mtoken: int = Field(ge=0, lt=2**63)


class GenerateRequest(_Model):
    """`POST /v1/generate`, JSON; answered as a stream of GenerateChunk lines (ndjson)."""

    prompt_ids: list[TokenId] = Field(max_length=65_536)
    max_tokens: int = Field(ge=1, le=65_536)
    temperature: float = Field(default=1.0, ge=0.0, le=10.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, lt=2**63)


class GenerateChunk(_Model):
    """Some tokens with their log-probabilities; the last chunk says why it ended.

    After it comes one StreamReceipt line.
    """

    ids: list[TokenId] = Field(default=[], max_length=4_096)
    logprobs: list[Annotated[float, Field(le=0.0, allow_inf_nan=False)]] = Field(
        default=[], max_length=4_096
    )
    finish_reason: Literal["stop", "length"] | None = None


class StreamReceipt(_Model):
    """The last line of a stream: a receipt for every byte before this line."""

    receipt: str = Field(max_length=130)
