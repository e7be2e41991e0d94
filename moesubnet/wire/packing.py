"""Token ids in few bytes: sorted, as gaps, each in as many bytes as it needs.

The ids of R rows are one ascending sequence of keys, row · 2^24 + id, and a gap is the difference
to the key before (to 0 at first). Gaps are LEB128: seven bits a byte, the lowest first, the high
bit set on all but the last. So a list of ids has one encoding, and its order and where each row
ends are part of it. The likeliest tokens of a model lie close together: at V = 262,144 an id takes
1.4 bytes where 256 are listed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesubnet.errors import FrameError

STRIDE_BITS = 24  # no vocabulary is larger
STRIDE = 2**STRIDE_BITS
MAX_KEY = 2**62
MAX_GAP_BYTES = 7  # 2^49: as many rows as no answer has
AT_ONCE = 1 << 16  # numbers; what is made on the way takes some 60 bytes for each


def pack_ids(row: NDArray[np.integer], ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """row [n], ascending, and ids [n], ascending within each row."""
    gaps = np.diff(row.astype(np.int64) * STRIDE + ids, prepend=0)
    parts = [_packed(gaps[begin : begin + AT_ONCE]) for begin in range(0, len(gaps), AT_ONCE)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint8)


def unpack_ids(data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """row [n] and ids [n], both as `pack_ids` takes them. Raises FrameError for what it never
    writes; nothing else is checked."""
    row, ids, _ = unpack_lists([data])
    return row, ids


def unpack_lists(
    lists: Sequence[NDArray[np.uint8]], rows: Sequence[int] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.uint32], list[int]]:
    """What `pack_ids` wrote for each of some lists, one after the other: row [n], ids [n], and how
    many of them are each list's. rows: how many each has, so that those of the next are counted on
    from there. Raises FrameError as `unpack_ids` does, for more rows than that, and for what goes
    beyond any answer in all lists together."""
    data = lists[0] if len(lists) == 1 else np.concatenate(lists)
    last = np.flatnonzero(data < 0x80)
    if any(len(one) and one[-1] >= 0x80 for one in lists):
        raise FrameError("the packed ids end within a number")
    parts, key = [np.empty(0, np.int64)] if not len(last) else [], 0
    for begin in range(0, len(last), AT_ONCE):
        start = int(last[begin - 1]) + 1 if begin else 0
        ends = last[begin : begin + AT_ONCE] - start
        keys = _sums(data[start : start + int(ends[-1]) + 1])[ends] + key
        key = int(keys[-1])
        if keys.min() < 0 or key >= MAX_KEY:  # a gap is too small to pass over what is below 0
            raise FrameError("the packed ids go beyond any answer")
        parts.append(keys)
    keys = parts[0] if len(parts) == 1 else np.concatenate(parts)
    counts = [len(keys)]
    if len(lists) > 1:
        ends = np.searchsorted(last, np.cumsum([len(one) for one in lists]))
        before = np.concatenate(([0], keys))[ends]  # the sum of all keys' gaps so far
        sizes = np.diff(ends, prepend=0)
        keys = keys - np.repeat(np.concatenate(([0], before[:-1])), sizes)
        counts = sizes.tolist()
    row, ids = keys >> STRIDE_BITS, (keys & STRIDE - 1).astype(np.uint32)
    if rows is not None:
        if bool((row >= np.repeat(rows, counts)).any()):
            raise FrameError("more rows than were asked for")
        if len(lists) > 1:
            row += np.repeat(np.cumsum(rows) - rows, counts)
    return row, ids, counts


def _packed(gaps: NDArray[np.int64]) -> NDArray[np.uint8]:
    sizes = np.ones(len(gaps), np.int64)
    for k in range(1, MAX_GAP_BYTES):
        sizes += gaps >= 1 << 7 * k
    ends = np.cumsum(sizes)
    place = np.arange(sizes.sum()) - np.repeat(ends - sizes, sizes)
    packed = np.repeat(gaps, sizes) >> 7 * place & 0x7F
    packed[place < np.repeat(sizes - 1, sizes)] |= 0x80
    return np.asarray(packed, np.uint8)


def _sums(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """What the bytes of whole numbers add up to, each with all before it."""
    goes_on = data[:-1] >= 0x80
    if bool((goes_on & (data[1:] == 0)).any()):
        raise FrameError("a packed id has more bytes than it needs")
    shift = np.zeros(len(data), np.int64)
    size, all_go_on = 1, goes_on  # whether so many bytes in a row go on
    while bool(all_go_on.any()):
        if size == MAX_GAP_BYTES:
            raise FrameError("a packed id has more bytes than it needs")
        shift[size:] += all_go_on * 7
        all_go_on = all_go_on[:-1] & goes_on[size:]
        size += 1
    return np.cumsum((data & 0x7F) << shift)
