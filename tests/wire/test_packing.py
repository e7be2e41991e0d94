"""Ids as gaps in few bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.errors import FrameError
from moesubnet.wire.packing import MAX_GAP_BYTES, STRIDE, pack_ids, unpack_ids

listed = st.lists(st.tuples(st.integers(0, 40), st.integers(0, STRIDE - 1)), max_size=200)


@given(listed)
def test_ids_come_back_row_by_row(tokens: list[tuple[int, int]]) -> None:
    ranked = np.array(sorted(tokens), np.int64).reshape(-1, 2)
    data = pack_ids(ranked[:, 0], ranked[:, 1])
    row, ids = unpack_ids(data)
    np.testing.assert_array_equal(row, ranked[:, 0])
    np.testing.assert_array_equal(ids, ranked[:, 1])
    assert len(data) <= 5 * len(tokens)


def test_what_is_packed_in_parts_is_as_if_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    row, ids = np.repeat(np.arange(50), 40), np.sort(rng.integers(0, STRIDE, (50, 40))).ravel()
    whole = pack_ids(row, ids)
    monkeypatch.setattr("moesubnet.wire.packing.AT_ONCE", 7)
    assert pack_ids(row, ids).tobytes() == whole.tobytes()
    for found, expected in zip(unpack_ids(whole), (row, ids), strict=True):
        np.testing.assert_array_equal(found, expected)


@given(st.binary(max_size=60))
def test_whatever_is_read_is_the_one_way_to_write_it(data: bytes) -> None:
    raw = np.frombuffer(data, np.uint8)
    try:
        row, ids = unpack_ids(raw)
    except FrameError:
        return
    keys = row * STRIDE + ids
    assert np.all(np.diff(keys) >= 0)
    assert pack_ids(row, ids).tobytes() == data


@pytest.mark.parametrize(
    "data",
    [
        [0x80],  # goes on behind the end
        [1, 0xFF],
        [0x80, 0x00],  # zero in two bytes
        [0x81, 0x80, 0x00],
        [0x80] * MAX_GAP_BYTES + [1],
        [*([0xFF] * (MAX_GAP_BYTES - 1)), 0x7F] * 20_000,  # the keys would overflow
    ],
)
def test_what_is_never_written_is_refused(data: list[int]) -> None:
    with pytest.raises(FrameError):
        unpack_ids(np.array(data, np.uint8))


def test_the_likeliest_tokens_of_a_model_take_little() -> None:
    assert len(pack_ids(np.zeros(3), np.array([5, 6, 200]))) == 4
    assert len(pack_ids(np.array([0, 1]), np.array([5, 6]))) == 1 + 4
