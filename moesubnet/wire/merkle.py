"""Merkle trees over leaves of SHA-256: what is signed as one root can be shown one leaf at a time.

A node hashes 0x01 and its two children; what has no neighbour goes up as it is. So the shape
follows from the number of leaves, and a path says nothing but hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

HASH_BYTES = 32


def leaf(*parts: bytes) -> bytes:
    """The hash of what stands in a leaf; parts are joined, so all but one have a fixed length."""
    return sha256(b"\0" + b"".join(parts)).digest()


def levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All hashes, the leaves first and the root last; at least one leaf."""
    found = [list(leaves)]
    while len(below := found[-1]) > 1:
        pairs = zip(below[::2], below[1::2], strict=False)
        found.append([_node(a, b) for a, b in pairs] + below[len(below) // 2 * 2 :])
    return found


def path(tree: Sequence[Sequence[bytes]], place: int) -> bytes:
    """The neighbours of a leaf and of what is above it, joined; `tree` is of `levels`."""
    found = []
    for level in tree[:-1]:
        if place ^ 1 < len(level):
            found.append(level[place ^ 1])
        place //= 2
    return b"".join(found)


def path_bytes(place: int, count: int) -> int:
    """How long the path of a leaf is in a tree of `count`."""
    found = 0
    while count > 1:
        found += HASH_BYTES * (place ^ 1 < count)
        place, count = place // 2, (count + 1) // 2
    return found


def root_of(hashed: bytes, place: int, count: int, path: bytes) -> bytes:
    """The root of a tree of `count` leaves with this one at `place`.

    Raises ValueError for a place that is none, or a path of another length than this tree's.
    """
    if not 0 <= place < count or len(path) != path_bytes(place, count):
        raise ValueError("no such leaf, or a path of another length")
    used = 0
    while count > 1:
        if place ^ 1 < count:
            beside = path[used : used + HASH_BYTES]
            hashed = _node(beside, hashed) if place & 1 else _node(hashed, beside)
            used += HASH_BYTES
        place, count = place // 2, (count + 1) // 2
    return hashed


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()
