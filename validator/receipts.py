"""What proves a sheet's items: who signed which answer to which question.

An item is one request of one walk, so its question is known from the sheet: the walk's ids up to
the item's position, in the walk's session, of which the expert held `held` tokens. (Drafted ids
are among them: after a draft that is not the text there is no item.) The session's name is a hash
of the validator and a salt, which is published here, so what an expert signed is an answer to this
validator, through whatever router it was asked: nobody else can show it as its own. To an expert
the name looks like any caller's. An item's record adds the nonce and the expert's signature over a
root of hashes, with what leads from this question and answer to that root: what else travelled in
the same lane stays private. From these everybody can repeat the question byte by byte and check
the signature. The sheet holds a hash of each column.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeVar

import msgpack
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from moesubnet.errors import FrameError
from moesubnet.mixture.sheet import MAX_ITEMS, MAX_WALKS, Sheet
from moesubnet.types import Hotkey
from moesubnet.wire.lanes import MAX_RECEIPT_BYTES, receipt_bytes
from moesubnet.wire.protocol import Proof, SequenceStep, StepRequest, base_hash, want_for

RECEIPTS_FORMAT = "moesubnet-receipts/5"
ANSWERS_FORMAT = "moesubnet-answers/1"
MAX_RECEIPTS_BYTES = 2**27
SALT_BYTES = 16
MAX_ANSWERS_BYTES = 2**27  # of one expert: 2,048 items, f32, a vocabulary of 8,192
RECORD = np.dtype(
    [
        ("nonce_ns", "<u8"),
        ("held", "<u4"),
        ("reveal", "<u4"),  # 0: no commitment was asked, 1: one, 2 + p: and position p's leaf
        ("rows", "<u2"),  # that were asked; the item is the last one
        ("further", "<u2"),  # tokens that the expert was asked to go on with
        ("receipt", "u1", MAX_RECEIPT_BYTES),  # zeros after its end
        ("body_sha256", "u1", 32),
    ]
)

_RECORD = struct.Struct(f"<QIIHH{MAX_RECEIPT_BYTES}s32s")  # the same, zeros after a receipt too

Wire = TypeVar("Wire", bound=BaseModel)
Records = npt.NDArray[np.void]  # of RECORD; all zeros for no answer


def records_of(proofs: Iterable[Proof | None]) -> Records:
    """RECORD [proofs]."""
    return np.frombuffer(b"".join(map(_record, proofs)), RECORD)


def _record(proof: Proof | None) -> bytes:
    if proof is None:
        return bytes(RECORD.itemsize)
    shows = 0 if proof.reveals is None else 2 + proof.reveals[0][0] if proof.reveals[0] else 1
    return _RECORD.pack(
        proof.nonce_ns, proof.base_lens[0], shows, proof.rows[0], proof.further[0], proof.receipt,
        hashlib.sha256(proof.body).digest(),
    )  # fmt: skip


def receipt_of(record: np.void) -> bytes:
    """Without the zeros after it. Raises ValueError where something else follows."""
    padded: bytes = record["receipt"].tobytes()
    end = receipt_bytes(padded)
    if any(padded[end:]):
        raise ValueError("a receipt is longer than its tree is high")
    return padded[:end]


def session_name(validator: Hotkey, salt: bytes) -> str:
    """Of a walk's session, at every expert: as random as others' for who does not know the salt."""
    return hashlib.sha256(f"moesubnet-walk/1\n{validator}\n".encode() + salt).hexdigest()[:32]


def column_sha256(records: Records) -> bytes:
    """Of one expert's records, in the order of the sheet's items."""
    return hashlib.sha256(records.tobytes()).digest()


@dataclass(frozen=True, eq=False)
class Receipts:
    """All records of a sheet. records: RECORD [M, n]; salts: one for each walk."""

    vocab_size: int
    salts: tuple[bytes, ...]
    records: Records

    def to_bytes(self) -> bytes:
        return bytes(
            msgpack.packb(
                {
                    "format": RECEIPTS_FORMAT,
                    "vocab_size": self.vocab_size,
                    "salts": list(self.salts),
                    "records": self.records.tobytes(),
                }
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes, sheet: Sheet) -> Receipts:
        """Raises FrameError unless it has the sheet's size."""
        wire = _unpack(_Wire, data, MAX_RECEIPTS_BYTES)
        shape = (len(sheet.walk), len(sheet.hotkeys))
        if len(wire.records) != shape[0] * shape[1] * RECORD.itemsize:
            raise FrameError("the receipts are not one for each item and expert")
        if len(wire.salts) != len(sheet.walks):
            raise FrameError("the receipts do not say whose each walk's session is")
        records = np.frombuffer(wire.records, RECORD).reshape(shape)
        return cls(wire.vocab_size, tuple(wire.salts), records)

    def request(self, sheet: Sheet, item: int, column: int) -> StepRequest:
        """What the expert was asked. Raises ValueError when the record contradicts the walk."""
        walk, position = int(sheet.walk[item]), int(sheet.position[item])
        record = self.records[item, column]
        held, first = int(record["held"]), position - int(record["rows"]) + 1
        if held > position or not 0 <= first <= position:
            raise ValueError("more tokens held than were sent, or not as many rows")
        ids, reveal = sheet.walks[walk], int(record["reveal"])
        shows = reveal - 2
        if shows >= position:
            raise ValueError("a leaf asked before its token was sent")
        step = SequenceStep(
            session_name(sheet.validator, self.salts[walk]),
            held,
            base_hash(ids[:held]),
            ids[held:position],
            first=first,
            reveal=(shows, int(ids[shows])) if shows >= 0 else None,
            further=int(record["further"]),
        )
        return StepRequest((step,), replace(want_for(self.vocab_size), committed=reveal > 0))


def pack_answers(bodies: Sequence[bytes]) -> bytes:
    """One expert's answers as they came, in the order of the sheet's items; empty for none."""
    return bytes(msgpack.packb({"format": ANSWERS_FORMAT, "bodies": list(bodies)}))


def unpack_answers(data: bytes, sheet: Sheet) -> list[bytes]:
    """Raises FrameError."""
    wire = _unpack(_Answers, data, MAX_ANSWERS_BYTES)
    if len(wire.bodies) != len(sheet.walk):
        raise FrameError("the answers are not one for each item")
    return wire.bodies


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    format: Literal["moesubnet-receipts/5"]
    vocab_size: Annotated[int, Field(ge=2, le=1_000_000)]
    salts: Annotated[
        list[Annotated[bytes, Field(min_length=SALT_BYTES, max_length=SALT_BYTES)]],
        Field(max_length=MAX_WALKS),
    ]
    records: bytes


class _Answers(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    format: Literal["moesubnet-answers/1"]
    bodies: list[bytes]


def _unpack(kind: type[Wire], data: bytes, max_bytes: int) -> Wire:
    if len(data) > max_bytes:
        raise FrameError(f"more than {max_bytes} bytes")
    try:
        content = msgpack.unpackb(data, max_array_len=MAX_ITEMS, max_map_len=4, max_ext_len=0)
        found = kind.model_validate(content)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise FrameError(f"not {kind.model_fields['format'].annotation}") from error
    if msgpack.packb(content) != data:  # a key that is repeated, among others
        raise FrameError(f"not a canonical {kind.model_fields['format'].annotation}")
    return found
