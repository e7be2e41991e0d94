"""Lanes: the steps of many streams to one expert in one signed request, each provable by itself.

A lane is made of whole `StepRequest`s. Each is answered by itself, in any order, with a status;
answers that are ready together travel together and have one receipt. Both signatures are over
Merkle roots of salted hashes, so one step can be shown to others without what travelled with it.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from moesubnet.errors import FrameError, MalformedAuth
from moesubnet.types import Hotkey, Signer
from moesubnet.wire import frames, merkle
from moesubnet.wire.signing import sign_lane, verify_lane

LANE_SCHEMA = "moesubnet-lane/1"
ANSWERS_SCHEMA = "moesubnet-lane-answers/1"
LANE_PATH = "/v1/step"
MAX_STEPS = 64
SALT_BYTES = 16
# A step's receipt: its place among so many leaves, salt, signature of the root, path to the root.
_RECEIPT = struct.Struct(f"<HH{SALT_BYTES}s64s")
RECEIPT_BYTES = _RECEIPT.size
MAX_RECEIPT_BYTES = RECEIPT_BYTES + 6 * merkle.HASH_BYTES  # in a tree with MAX_STEPS leaves
LENGTH_BYTES = 4  # before each frame of answers, little-endian


@dataclass(frozen=True, eq=False)
class Lane:
    """The bodies of some steps; a salt each, which only the two who talk know."""

    steps: tuple[bytes, ...]
    salts: tuple[bytes, ...]

    @classmethod
    def of(cls, steps: Sequence[bytes]) -> Lane:
        drawn = secrets.token_bytes(SALT_BYTES * len(steps))
        salts = (drawn[i : i + SALT_BYTES] for i in range(0, len(drawn), SALT_BYTES))
        return cls(tuple(steps), tuple(salts))

    @cached_property
    def hashes(self) -> list[bytes]:
        return [sha256(step).digest() for step in self.steps]

    @cached_property
    def tree(self) -> list[list[bytes]]:
        """Of what is asked."""
        return merkle.levels(list(map(merkle.leaf, self.salts, self.hashes)))

    @property
    def query(self) -> str:
        """Of the request: its signature covers the root, and the body by a hash that tells nothing
        to who does not know the salts."""
        return f"root={self.tree[-1][0].hex()}"

    def to_bytes(self) -> bytes:
        tensors: dict[str, frames.Tensor] = {
            "salts": np.frombuffer(b"".join(self.salts), np.uint8).reshape(-1, SALT_BYTES),
            "sizes": np.array([len(step) for step in self.steps], np.uint32),
            "steps": np.frombuffer(b"".join(self.steps), np.uint8),
        }
        return frames.encode(LANE_SCHEMA, {}, tensors)

    @classmethod
    def from_bytes(cls, data: bytes, query: str) -> Lane:
        """Raises FrameError unless it is a lane with the root that its request names."""
        frame = frames.decode(
            data, schema=LANE_SCHEMA, limits=frames.Limits(max_frame_bytes=len(data))
        )
        sizes = frame.tensor("sizes", "u32", (None,))
        salts = frame.tensor("salts", "u8", (len(sizes), SALT_BYTES))
        body = frame.tensor("steps", "u8", (None,))
        frame.holds_only(set(), {"salts", "sizes", "steps"})
        if not 1 <= len(sizes) <= MAX_STEPS:
            raise FrameError(f"a lane has 1 to {MAX_STEPS} steps")
        lane = cls(tuple(_split(body, sizes.tolist())), tuple(salt.tobytes() for salt in salts))
        if query != lane.query:
            raise FrameError("the query does not name the root of these steps")
        return lane


class Given(NamedTuple):
    """An answer: to which step of the lane, with a status as of HTTP, and a frame or JSON."""

    place: int
    status: int
    body: bytes


def verify_step(
    receipt: bytes,
    step_sha256: bytes,
    status: int,
    body_sha256: bytes,
    nonce_ns: int,
    responder: Hotkey,
    caller: Hotkey,
) -> None:
    """Whether the responder signed this answer to this step of a lane with this nonce.

    Raises MalformedAuth, BadSignature.
    """
    if not RECEIPT_BYTES <= len(receipt) <= MAX_RECEIPT_BYTES:
        raise MalformedAuth("not the receipt of a step")
    place, count, salt, signature = _RECEIPT.unpack_from(receipt)
    hashed = _answer_leaf(salt, step_sha256, status, body_sha256)
    try:
        root = merkle.root_of(hashed, place, count, receipt[RECEIPT_BYTES:])
    except ValueError as error:
        raise MalformedAuth(str(error)) from None
    verify_lane(signature, nonce_ns, root, responder, caller)


def receipt_bytes(receipt: bytes) -> int:
    """How long a receipt is that zeros may follow."""
    place, count = _RECEIPT.unpack_from(receipt)[:2]
    return RECEIPT_BYTES + merkle.path_bytes(place, count)


def salt_of(receipt: bytes) -> bytes:
    """Which question of a caller's this was, where several had one nonce."""
    salt: bytes = _RECEIPT.unpack_from(receipt)[2]
    return salt


def pack_answers(
    given: Sequence[Given], lane: Lane, nonce_ns: int, caller: Hotkey, signer: Signer
) -> bytes:
    """Some answers with their receipt, and how long that is."""
    root = _answer_tree(given, lane)[-1][0]
    receipt = sign_lane(signer, nonce_ns, root, caller)
    tensors: dict[str, frames.Tensor] = {
        "answers": np.array([(g.place, g.status, len(g.body)) for g in given], np.uint32),
        "receipt": np.frombuffer(receipt, np.uint8),
        "bodies": np.frombuffer(b"".join(g.body for g in given), np.uint8),
    }
    frame = frames.encode(ANSWERS_SCHEMA, {}, tensors)
    return len(frame).to_bytes(LENGTH_BYTES, "little") + frame


def unpack_answers(
    data: bytes | bytearray | memoryview,
    lane: Lane,
    nonce_ns: int,
    responder: Hotkey,
    caller: Hotkey,
) -> list[tuple[Given, bytes]]:
    """The answers of one frame, each with its own receipt. Raises FrameError, BadSignature."""
    frame = frames.decode(
        data, schema=ANSWERS_SCHEMA, limits=frames.Limits(max_frame_bytes=len(data))
    )
    table = frame.tensor("answers", "u32", (None, 3))
    if not 1 <= len(table) <= len(lane.steps):
        raise FrameError("no answer, or more than were asked for")
    answers = table.tolist()
    receipt = frame.tensor("receipt", "u8", (64,)).tobytes()
    bodies = _split(frame.tensor("bodies", "u8", (None,)), [size for _, _, size in answers])
    frame.holds_only(set(), {"answers", "receipt", "bodies"})
    places = [place for place, _, _ in answers]
    if len(set(places)) < len(places) or max(places) >= len(lane.steps):
        raise FrameError("the answers are not to steps of this lane, one to each")
    if any(status >= 600 for _, status, _ in answers):
        raise FrameError("no status")
    given = [
        Given(place, status, body) for (place, status, _), body in zip(answers, bodies, strict=True)
    ]
    tree = _answer_tree(given, lane)
    verify_lane(receipt, nonce_ns, tree[-1][0], responder, caller)
    return [
        (g, _RECEIPT.pack(i, len(given), lane.salts[g.place], receipt) + merkle.path(tree, i))
        for i, g in enumerate(given)
    ]


def _answer_tree(given: Sequence[Given], lane: Lane) -> list[list[bytes]]:
    return merkle.levels(
        [
            _answer_leaf(
                lane.salts[g.place], lane.hashes[g.place], g.status, sha256(g.body).digest()
            )
            for g in given
        ]
    )


def _answer_leaf(salt: bytes, step_sha256: bytes, status: int, body_sha256: bytes) -> bytes:
    return merkle.leaf(salt, step_sha256, status.to_bytes(2, "little"), body_sha256)


def _split(joined: frames.Tensor, sizes: Sequence[int]) -> list[bytes]:
    """Raises FrameError unless the sizes add up."""
    if sum(sizes) != len(joined):
        raise FrameError("the parts are not as long as they say")
    view, parts, begin = joined.data, [], 0
    for size in sizes:
        parts.append(bytes(view[begin : begin + size]))
        begin += size
    return parts
