"""How a subnet takes votes, and the hash that commits to one."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from hashlib import blake2b
from struct import pack


class VoteScheme(StrEnum):
    """The ways in which votes come on chain."""

    PLAIN = "plain"  # weights, in the open
    HASHED = "hashed"  # their hash, and in a later epoch the weights
    TIMELOCKED = "timelocked"  # encrypted; the chain opens them in a later epoch by itself


def vote_scheme(*, commit_reveal: bool, has_drand: bool) -> VoteScheme:
    """What a subnet takes: a chain that knows drand (subtensor) hides votes with it."""
    if not commit_reveal:
        return VoteScheme.PLAIN
    return VoteScheme.TIMELOCKED if has_drand else VoteScheme.HASHED


def weights_commit_hash(
    hotkey_public_key: bytes,
    netuid: int,
    uids: Sequence[int],
    values: Sequence[int],
    salt: Sequence[int],
    version_key: int,
) -> bytes:
    """BlakeTwo256 over the SCALE encoding of all arguments in order, 32 bytes.

    `uids`, `values` and `salt` are u16; subtensor and our pallet check a reveal against it.
    """
    assert len(hotkey_public_key) == 32, "a public key has 32 bytes"
    encoded = (
        hotkey_public_key
        + pack("<H", netuid)
        + _u16_vector(uids)
        + _u16_vector(values)
        + _u16_vector(salt)
        + pack("<Q", version_key)
    )
    return blake2b(encoded, digest_size=32).digest()


def _u16_vector(words: Sequence[int]) -> bytes:
    count = len(words)
    if count < 1 << 6:
        length = pack("<B", count << 2)
    elif count < 1 << 14:
        length = pack("<H", count << 2 | 1)
    else:
        length = pack("<I", count << 2 | 2)
    return length + pack(f"<{count}H", *words)
