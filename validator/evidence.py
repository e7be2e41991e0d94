"""An expert contradicting its own signed answers, in a file that anybody can check. Pure.

The same prefix, asked twice within a minute by calls of their own, whatever else these brought: the
two signed answers are laws that no honest rounding brings so far apart (`checks.TWICE_DISTANCE`).
One such pair may be the accident of a machine; ENOUGH of them are not.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgpack
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from moesubnet.errors import AuthError, BadReceipts, FrameError, WireError
from moesubnet.mixture.law import Law, law_of
from moesubnet.types import Hotkey
from moesubnet.validator.checks import TWICE_DISTANCE, total_variation
from moesubnet.wire.lanes import MAX_RECEIPT_BYTES, RECEIPT_BYTES, salt_of, verify_step
from moesubnet.wire.protocol import StepLimits, StepRequest, StepResponse

EVIDENCE_FORMAT = "moesubnet-evidence/3"
ENOUGH = 3
MAX_PAIRS = 8
MAX_APART_NS = 60 * 10**9
MAX_EVIDENCE_BYTES = 2**24
MAX_CONTEXT_TOKENS = 2**20


class Said(BaseModel):
    """One answer with all that shows it to others: whose question, when, what, and signed. base:
    little-endian u32, the ids that the expert held by then; the request has their hash."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    sender: Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
    nonce_ns: Annotated[int, Field(ge=0, lt=2**63)]
    receipt: Annotated[bytes, Field(min_length=RECEIPT_BYTES, max_length=MAX_RECEIPT_BYTES)]
    request: Annotated[bytes, Field(max_length=2**20)]
    body: Annotated[bytes, Field(max_length=2**22)]
    base: Annotated[bytes, Field(max_length=4 * MAX_CONTEXT_TOKENS)] = b""

    def laws(self, expert: Hotkey, vocab_size: int) -> dict[bytes, Law]:
        """Of each row, by what it was asked for: the ids before it and how the law was wanted.

        Raises BadReceipts unless the expert signed exactly this answer to this question.
        """
        sender = Hotkey(self.sender)
        try:
            asked = StepRequest.from_bytes(self.request, StepLimits(vocab_size, MAX_CONTEXT_TOKENS))
            verify_step(
                self.receipt,
                hashlib.sha256(self.request).digest(),
                200,
                hashlib.sha256(self.body).digest(),
                self.nonce_ns,
                expert,
                sender,
            )
            rows = StepResponse.from_bytes(self.body, asked, vocab_size).rows
        except (AuthError, WireError, ValueError) as error:
            raise BadReceipts(f"an answer that {expert} did not sign: {error}") from None
        step = asked.sequences[0]
        if len(asked.sequences) != 1 or hashlib.sha256(self.base).digest() != step.base_hash:
            raise BadReceipts("not one text, or not the beginning that it was asked by")
        parts = (np.frombuffer(self.base, "<u4"), step.append_ids, step.draft_ids)
        text = np.concatenate(parts).astype("<u4")
        if len(text) != step.end:
            raise BadReceipts("another length than was asked")
        want, first = repr(asked.want).encode(), step.first_row
        return {
            hashlib.sha256(text[:place].tobytes()).digest() + want: law_of(
                rows[0], place - first, None
            )
            for place in range(first, step.end + 1)
        }


class Evidence(BaseModel):
    """`moesubnet validator evidence HOTKEY --out FILE`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    format: Literal["moesubnet-evidence/3"] = "moesubnet-evidence/3"
    expert: Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
    vocab_size: Annotated[int, Field(ge=2, le=2**24)]
    pairs: Annotated[
        list[Annotated[list[Said], Field(min_length=2, max_length=2)]],
        Field(min_length=1, max_length=MAX_PAIRS),
    ]

    def to_bytes(self) -> bytes:
        return bytes(msgpack.packb(self.model_dump()))

    @classmethod
    def from_bytes(cls, data: bytes) -> Evidence:
        """Raises FrameError."""
        if len(data) > MAX_EVIDENCE_BYTES:
            raise FrameError(f"more than {MAX_EVIDENCE_BYTES} bytes")
        try:
            return cls.model_validate(msgpack.unpackb(data, max_ext_len=0))
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise FrameError(f"not {EVIDENCE_FORMAT}") from error

    def distances(self) -> list[float]:
        """Of each pair, 0 to 1. Raises BadReceipts for what does not hold together."""
        expert, seen = Hotkey(self.expert), set[tuple[str, int, bytes]]()
        found = []
        for one, other in self.pairs:
            laws, others = (said.laws(expert, self.vocab_size) for said in (one, other))
            calls = {(s.sender, s.nonce_ns, salt_of(s.receipt)) for s in (one, other)}
            questions = laws.keys() & others.keys()
            if not questions or len(calls) != 2 or calls & seen:
                raise BadReceipts("not two answers to one question, each pair by itself")
            if abs(one.nonce_ns - other.nonce_ns) > MAX_APART_NS:
                raise BadReceipts("more than a minute apart: the expert may have changed")
            seen |= calls
            found.append(max(total_variation(laws[asked], others[asked]) for asked in questions))
        return found

    @property
    def is_proven(self) -> bool:
        """Raises BadReceipts."""
        return sum(distance > TWICE_DISTANCE for distance in self.distances()) >= ENOUGH
