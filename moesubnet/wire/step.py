"""What `POST /v1/step` asks: one batch of sequences, some new ids each, and the laws wanted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from moesubnet.errors import FrameError
from moesubnet.wire import frames
from moesubnet.wire.ahead import FIELDS as AHEAD_FIELDS
from moesubnet.wire.ahead import MAX_AHEAD, POINTS, Ahead, ahead_of

STEP_SCHEMA = "moesubnet-step/2"
MAX_FULL_VOCAB = 8_192
NUCLEUS_MASS, NUCLEUS_K = 0.98, 2_048  # how they were chosen: docs/log.md
MAX_FURTHER = 17  # tokens that a responder is asked to go on with (MAX_AHEAD: to draw)
SESSION_PATTERN = r"^[!-~]{1,64}$"
SHORT_TOKENS, SHORT_BATCH_TOKENS = 32, 1_024  # of one sequence, of a call; more is a prompt
_SESSION = re.compile(r"[!-~]{1,64}")
_NO_IDS = np.empty(0, np.uint32)

Ids = NDArray[np.uint32]
Kind = Literal["full", "nucleus", "top_k", "sampled_n"]


def base_hash(ids: Ids) -> bytes:
    """SHA-256 of the little-endian u32 ids; an empty base hashes the empty string."""
    return hashlib.sha256(ids.astype("<u4").tobytes()).digest()


def is_short(tokens: Sequence[int]) -> bool:
    """Which class of work a call is, by what each of its sequences has to read: a step of a text
    that is known, or a prompt. The one never waits for the other's length."""
    return max(tokens, default=0) <= SHORT_TOKENS and sum(tokens) <= SHORT_BATCH_TOKENS


@dataclass(frozen=True, slots=True)
class Want:
    """What each row should hold: every token (`full`), the fewest that hold `mass`, at most k
    (`nucleus`), the `k` likeliest (`top_k`), or `k` drawn from the law (`sampled_n`).

    committed: each sequence's last row comes with the root of a tree over its tail, of which the
    next step may ask one token (`SequenceStep.reveal`); see commitment.py.
    """

    kind: Kind
    k: int = 0  # 0 for full
    mass: float = 1.0  # of nucleus; else 1
    committed: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or (self.k > 0) == (self.kind == "full"):
            raise FrameError("want is full with k = 0, or nucleus, top_k or sampled_n with k > 0")
        if not 0.0 < self.mass <= 1.0 or (self.mass < 1.0 and self.kind != "nucleus"):
            raise FrameError("want's mass is that of a nucleus, above 0 and up to 1")
        if self.committed and not self.lists_likeliest:
            raise FrameError("only rows that list the likeliest tokens are committed")

    @property
    def lists_likeliest(self) -> bool:
        return self.kind in ("nucleus", "top_k")

    def width(self, vocab_size: int) -> int:
        """The most values that a row holds."""
        return min(self.k, vocab_size) or vocab_size


def want_for(vocab_size: int, *, committed: bool = True) -> Want:
    """Whole laws of small vocabularies, else what holds nearly all of them, with a committed tail
    from who is not trusted."""
    if vocab_size <= MAX_FULL_VOCAB:
        return Want("full")
    return Want("nucleus", NUCLEUS_K, NUCLEUS_MASS, committed=committed)


@dataclass(frozen=True, slots=True, eq=False)
class SequenceStep:
    """One sequence of a step: after `base_len` ids hashed in `base_hash` come the given ids.

    Answered are the rows `first_row` … `end`, where row p is the law of token p given ids < p.
    `first` None means after the appended ids: one row for each draft id and one more. `reveal`
    asks what the committed row of a position held for a token id; a step that only asks that has
    no rows, brings no ids, and `first` is end + 1.
    `further` asks how the responder itself would go on after `end`: its likeliest token, so many
    times. The session stays at `end`. Where the request says how to draw (`StepRequest.ahead`) it
    is as many drawn tokens or fewer, one at least, with the row that each is of, and the session
    goes on to the last of these rows, so that it holds all of the tokens but the last.
    `parent` is another session of the same sender, whose first `base_len` ids the session begins
    with, in place of what it held; empty means that it goes on from its own.
    """

    session: str
    base_len: int
    base_hash: bytes
    append_ids: Ids
    draft_ids: Ids = field(default_factory=_NO_IDS.copy)
    first: int | None = None
    reveal: tuple[int, int] | None = None
    parent: str = ""
    further: int = 0

    @property
    def base_session(self) -> str:
        return self.parent or self.session

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

    @property
    def tokens(self) -> int:
        """What an engine has to read for it, at most: ids, and the context token."""
        return self.end - min(self.base_len, self.first_law) + 1


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


class Shape(NamedTuple):
    """What a request asks, in numbers. row_offsets [sequences + 1]: sequence i answers the rows
    row_offsets[i] … row_offsets[i + 1] - 1, beside those of what it draws; most_rows: with those of
    all that may be drawn. Of each sequence base_lens, reveals (None where no commitment is asked),
    rows and further. Of all together: draft ids, last rows that come committed, leaves to be shown,
    tokens to go on with; tokens, see `StepRequest.tokens`."""

    row_offsets: list[int]
    most_rows: int
    base_lens: tuple[int, ...]
    reveals: tuple[tuple[int, int] | None, ...] | None
    rows: tuple[int, ...]
    further: tuple[int, ...]
    drafted: int
    committed: int
    revealed: int
    going_on: int
    tokens: int
    is_prompt: bool


@dataclass(frozen=True, eq=False)
class StepRequest:
    """A batch of sequences, each of another session of the same sender. ahead: how to draw what
    is asked further; without it that is the likeliest tokens."""

    sequences: tuple[SequenceStep, ...]
    want: Want
    ahead: Ahead | None = None

    @cached_property
    def shape(self) -> Shape:
        """Found once: the same step usually goes to several experts."""
        sequences = self.sequences
        rows = tuple([s.rows for s in sequences])
        further = tuple([s.further for s in sequences])
        read = [s.tokens for s in sequences]
        offsets = [0, *accumulate(rows)]
        drawn = sum([max(more - 1, 0) for more in further]) if self.ahead else 0
        return Shape(
            offsets,
            offsets[-1] + drawn,
            tuple([s.base_len for s in sequences]),
            tuple([s.reveal for s in sequences]) if self.want.committed else None,
            rows,
            further,
            sum([len(s.draft_ids) for s in sequences]),
            sum([count > 0 for count in rows]) * self.want.committed,
            sum([s.reveal is not None for s in sequences]),
            sum(further),
            sum(read) + sum(further),
            not is_short(read),
        )

    @property
    def tokens(self) -> int:
        """Of all sequences, with what was asked further, each a pass of its own."""
        return self.shape.tokens

    @property
    def is_prompt(self) -> bool:
        """Which class of work it is (`is_short`)."""
        return self.shape.is_prompt

    def to_bytes(self) -> bytes:
        return self._encoded

    @cached_property
    def sha256(self) -> bytes:
        """Of its bytes."""
        return hashlib.sha256(self._encoded).digest()

    @cached_property
    def _encoded(self) -> bytes:
        """Encoded once: the same step usually goes to several experts."""
        spans = [
            (s.base_len, len(s.append_ids), len(s.draft_ids), s.first_row) for s in self.sequences
        ]
        hashes = b"".join(s.base_hash for s in self.sequences)
        ids = [part for s in self.sequences for part in (s.append_ids, s.draft_ids)]
        tensors: dict[str, frames.Tensor] = {
            "spans": np.array(spans, np.uint32).reshape(-1, 4),
            "base_hashes": np.frombuffer(hashes, np.uint8).reshape(-1, 32),
            "ids": np.concatenate([_NO_IDS, *ids]).astype(np.uint32, copy=False),
        }
        if self.want.committed:
            asked = [(i, *s.reveal) for i, s in enumerate(self.sequences) if s.reveal]
            tensors["reveals"] = np.array(asked, np.uint32).reshape(-1, 3)
        fields: dict[str, frames.Field] = {
            "kind": self.want.kind,
            "k": self.want.k,
            "mass": self.want.mass,
            "sessions": [s.session for s in self.sequences],
        }
        if any(s.parent for s in self.sequences):
            fields["parents"] = [s.parent for s in self.sequences]
        if any(s.further for s in self.sequences):
            fields["further"] = [s.further for s in self.sequences]
        if self.ahead is not None:
            fields |= self.ahead.fields()
            tensors |= self.ahead.tensors()
        return frames.encode(STEP_SCHEMA, fields, tensors)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, limits: StepLimits) -> StepRequest:
        """Raises FrameError for anything outside the protocol or the limits."""
        frame = frames.decode(
            data, schema=STEP_SCHEMA, limits=frames.Limits(max_frame_bytes=limits.max_body_bytes)
        )
        spans = frame.tensor("spans", "u32", (None, 4))
        count = len(spans)
        hashes = frame.tensor("base_hashes", "u8", (count, 32))
        ids = frame.tensor("ids", "u32", (None,))
        sessions = frame.texts("sessions", count)
        kind, k, mass = (frame.fields.get(name) for name in ("kind", "k", "mass"))
        committed = "reveals" in frame.tensors
        tensors = {"spans", "base_hashes", "ids"} | ({"reveals"} if committed else set())
        parents = _parents(frame, sessions)
        further = _further(frame, count)
        ahead = ahead_of(frame, further)
        optional = {"parents", "further"} & frame.fields.keys()
        if ahead is not None:
            optional, tensors = optional | AHEAD_FIELDS, tensors | {POINTS}
        frame.holds_only({"kind", "k", "mass", "sessions"} | optional, tensors)
        if not (isinstance(kind, str) and type(k) is int and isinstance(mass, float)):
            raise FrameError("want is malformed")
        want = Want(kind, k, mass, committed)  # type: ignore[arg-type]  # checked by Want itself
        reveals = _reveals(frame, count, limits.vocab_size) if committed else {}
        if not 1 <= count <= limits.max_sequences or want.k > limits.vocab_size:
            raise FrameError("too many sequences or too large a k")
        if len(set(sessions)) < count or not all(map(_SESSION.fullmatch, sessions)):
            raise FrameError("a session is repeated or not 1 to 64 printable ASCII characters")
        if len(ids) and int(ids.max()) >= limits.vocab_size:
            raise FrameError("a token id is outside the vocabulary")
        sequences, begin = [], 0
        parts = zip(sessions, parents, further, spans.tolist(), hashes, strict=True)
        for i, (session, parent, more, span, digest) in enumerate(parts):
            base_len, appended, drafted, first = span
            middle, end = begin + appended, begin + appended + drafted
            new, draft, reveal = ids[begin:middle], ids[middle:end], reveals.get(i)
            step = SequenceStep(
                session, base_len, digest.tobytes(), new, draft, first, reveal, parent, more
            )
            # The engine feeds one token (bos) before the sequence, hence the strict inequality.
            last = base_len + 1 if reveal and step.end == base_len else step.end
            longest = step.end + more
            if end > len(ids) or longest >= limits.context_tokens or first > last:
                raise FrameError("a sequence is longer than its ids or the context")
            if more and not step.rows:
                raise FrameError("a step without rows has nothing to go on from")
            sequences.append(step)
            begin = end
        if begin != len(ids):
            raise FrameError("more ids than the sequences say")
        if ahead is not None and kind == "sampled_n":
            raise FrameError("nothing is drawn from rows that are drawn")
        request = cls(tuple(sequences), want, ahead)
        if request.shape.most_rows * want.width(limits.vocab_size) > limits.max_answer_values:
            raise FrameError("the answer would be too large; ask for fewer rows")
        return request


def _reveals(frame: frames.Frame, count: int, vocab_size: int) -> dict[int, tuple[int, int]]:
    """(position, token id) by sequence: ascending, at most one each."""
    reveals = frame.tensor("reveals", "u32", (None, 3))
    rows = reveals[: count + 1].tolist()  # more are never in order
    places = [place for place, _, _ in rows]
    if any(a >= b for a, b in pairwise([*places, count])):
        raise FrameError("reveals are not one for a sequence, in order")
    if any(token >= vocab_size for _, _, token in rows):
        raise FrameError("a token to reveal is outside the vocabulary")
    return {place: (position, token) for place, position, token in rows}


def _further(frame: frames.Frame, count: int) -> Sequence[int]:
    """One a session; the field is there only if any is asked."""
    if "further" not in frame.fields:
        return [0] * count
    further = frame.fields["further"]
    if not isinstance(further, list) or len(further) != count or not any(further):
        raise FrameError("further is not one number for a session, or asks for nothing")
    most = MAX_AHEAD if POINTS in frame.tensors else MAX_FURTHER
    if not all(type(n) is int and 0 <= n <= most for n in further):
        raise FrameError(f"further is not a number of tokens up to {most}")
    return further  # type: ignore[return-value]  # checked just now


def _parents(frame: frames.Frame, sessions: Sequence[str]) -> Sequence[str]:
    """One a session, empty for none; the field is there only if any has one."""
    if "parents" not in frame.fields:
        return [""] * len(sessions)
    parents = frame.texts("parents", len(sessions))
    if not any(parents) or not all(map(_SESSION.fullmatch, filter(None, parents))):
        raise FrameError("a parent is no session's name, or no sequence has one")
    return parents
