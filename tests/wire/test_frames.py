"""Tensor frames: one encoding for each frame, and nothing but FrameError for anything else."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from moesubnet.errors import FrameError
from moesubnet.wire.frames import DTYPES, Frame, Limits, decode, encode

LIMITS = Limits()
FUZZ_S = 3.0

scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
fields = st.dictionaries(st.text(max_size=8), scalars | st.lists(scalars, max_size=5), max_size=5)
tensors = st.dictionaries(
    st.text(max_size=8),
    st.sampled_from(sorted(DTYPES)).flatmap(
        lambda name: npst.arrays(
            DTYPES[name], npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
        )
    ),
    max_size=4,
)


def decoded(data: bytes, limits: Limits = LIMITS) -> Frame:
    return decode(data, schema="s", limits=limits)


def raw(header: Any, buffers: bytes = b"") -> bytes:
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    prefix = struct.pack("<4sI", b"MOE\x02", len(packed)) + packed
    return prefix + bytes(-len(prefix) % 8) + buffers


@given(fields, tensors)
@example({}, {"": np.empty((0, 3, 5, 5), np.float16)})  # larger than its frame, but for the zero
def test_frames_round_trip(fields: dict[str, Any], tensors: dict[str, Any]) -> None:
    data = encode("s", fields, tensors)
    frame = decoded(data)
    assert frame.fields == fields
    assert list(frame.tensors) == list(tensors)
    for name, tensor in tensors.items():
        assert frame.tensors[name].dtype == tensor.dtype
        assert frame.tensors[name].shape == tensor.shape
        assert frame.tensors[name].tobytes() == tensor.tobytes()
    assert encode("s", frame.fields, frame.tensors) == data


def test_the_golden_frame() -> None:
    """The bytes of the format's description; a change here is a new version of the format."""
    data = encode("s", {"k": 2}, {"a": np.array([1, 2], np.uint32), "b": np.ones(1, np.float16)})
    header = b"\x93\xa1s\x81\xa1k\x02\x92\x94\xa1a\xa3u32\x91\x02\x00\x94\xa1b\xa3f16\x91\x01\x08"
    start = b"MOE\x02" + len(header).to_bytes(4, "little") + header
    assert data == start + bytes(-len(start) % 8) + b"\1\0\0\0\2\0\0\0" + b"\x00\x3c"


def test_frames_with_one_header_share_nothing_that_can_be_changed() -> None:
    """Headers are remembered."""
    first, second = (encode("s", {"n": 1}, {"x": np.full(3, n, np.uint8)}) for n in (1, 2))
    frame = decoded(first)
    frame.fields["n"] = 2
    frame.tensors.clear()
    again = decoded(second)
    assert again.fields == {"n": 1}
    assert again.tensors["x"].tolist() == [2, 2, 2]


def test_big_endian_and_strided_arrays_are_written_little_endian_and_dense() -> None:
    big = np.arange(6, dtype=">u4").reshape(2, 3).T
    assert decoded(encode("s", {}, {"a": big})).tensors["a"].tolist() == big.tolist()


def test_tensors_are_read_only_views_of_the_received_bytes() -> None:
    data = bytearray(encode("s", {}, {"a": np.zeros(4, np.float32)}))
    view = decoded(data).tensors["a"]
    assert not view.flags.writeable
    data[-4:] = np.float32(7).tobytes()
    assert view[3] == 7


@given(st.binary(max_size=300))
def test_random_bytes_are_a_frame_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        decoded(data)
    with pytest.raises(FrameError):
        decoded(raw(data))


@given(fields, tensors, st.data())
def test_a_mutated_frame_is_a_frame_error_or_another_canonical_frame(
    fields: dict[str, Any], tensors: dict[str, Any], data: st.DataObject
) -> None:
    frame = bytearray(encode("s", fields, tensors))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        got = decoded(bytes(frame))
    except FrameError:
        return
    assert encode("s", got.fields, got.tensors) == bytes(frame)


@given(tensors, st.integers(0, 400))
def test_a_truncated_or_longer_frame_is_a_frame_error(tensors: dict[str, Any], cut: int) -> None:
    data = encode("s", {}, tensors)
    for bad in (data[: min(cut, len(data) - 1)], data + b"\0", data + bytes(64)):
        with pytest.raises(FrameError):
            decoded(bad)


@pytest.mark.parametrize(
    "shape",
    [
        [2**62, 2],
        [2**32, 2**32],
        [2**63, 2**63, 2**63, 2**63],
        [0, 2**62],
        [2**62, 0],
        [-1],
        [-1, -4],
        [1.0],
        [True],
        ["4"],
        [None],
        [1] * 5,
        4,
        None,
    ],
)
def test_a_lying_shape_is_refused(shape: Any) -> None:
    with pytest.raises(FrameError):
        decoded(raw(["s", {}, [["a", "f32", shape, 0]]], bytes(16)))


def test_an_empty_tensor_cannot_hide_dimensions_that_overflow() -> None:
    side = 2**22
    with pytest.raises(FrameError):
        decoded(raw(["s", {}, [["a", "u8", [0, side, side, side], 0]]], bytes(side)))


@pytest.mark.parametrize(
    "table",
    [
        [["a", "f32", [4], 64]],  # not where it must be
        [["a", "f32", [4], -64]],
        [["a", "f32", [4], 2**64 - 1]],
        [["a", "f32", [4], 0.0]],
        [["a", "f32", [4], False]],
        [["a", "f32", [4], 0], ["b", "f32", [4], 0]],  # overlapping
        [["a", "f32", [2], 0], ["a", "f32", [2], 64]],  # the same name twice
        [["a", "f32", [5], 0]],  # past the end
        [["a", "f32", [3], 0]],  # bytes left over
        [["a", "O", [4], 0]],
        [["a", "object", [4], 0]],
        [["a", ["f32"], [4], 0]],
        [["a", "f32", [4]]],
        [[b"a", "f32", [4], 0]],
        ["a"],
        [None],
        {},
        None,
        [["a", "u8", [], 0]] * 17,
    ],
)
def test_a_lying_table_is_refused(table: Any) -> None:
    with pytest.raises(FrameError):
        decoded(raw(["s", {}, table], bytes(16)))


@pytest.mark.parametrize(
    "fields",
    [
        {"a": {"b": 1}},
        {"a": [[1]]},
        {"a": None},
        {"a": b"x"},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": "x" * 257},
        {"a": [0] * 4_097},
        {str(i): 0 for i in range(4_097)},
        {"a": msgpack.ExtType(5, b"")},
        {"a": msgpack.Timestamp(1)},
        {1: 2},
        [],
        None,
    ],
)
def test_fields_are_flat_scalars_within_limits(fields: Any) -> None:
    header = msgpack.packb(["s", fields, []], strict_types=False)
    with pytest.raises(FrameError):
        decoded(raw(header))


@pytest.mark.parametrize(
    "header",
    [
        b"\x93\xa1s\x80\xdc\x00\x00",  # array16 where a fixarray would do
        b"\x93\xa1s\x82\xa1a\x01\xa1a\x01\x90",  # a key twice
        b"\x93\xa1s\x81\xa1a\xcc\x01\x90",  # uint8 where a fixint would do
        b"\x93\xa1s\x81\xa1a\xca\x3f\x80\x00\x00\x90",  # float32 where we write float64
        b"\x93\xa1s\x80\x90\xc0",  # bytes after the header's value
        b"\x93\xa1s\x81\xa1a\xa1\xff\x90",  # not UTF-8
        b"\x92\xa1s\x80",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 2_000,
        b"\xc1",
        b"",
    ],
)
def test_a_header_has_one_spelling(header: bytes) -> None:
    with pytest.raises(FrameError):
        decoded(raw(header))


def test_padding_must_be_zero() -> None:
    data = bytearray(encode("s", {}, {"a": np.ones(1, np.uint8), "b": np.ones(1, np.uint8)}))
    last = len(data) - 1  # b; a stands eight before it
    for place in (last - 9, last - 7, last - 1):
        bad = bytearray(data)
        assert bad[place] == 0
        bad[place] = 1
        with pytest.raises(FrameError):
            decoded(bytes(bad))


def test_another_schema_or_version_is_refused() -> None:
    data = encode("s", {}, {})
    with pytest.raises(FrameError):
        decode(data, schema="t", limits=LIMITS)
    with pytest.raises(FrameError):
        decoded(data[:3] + b"\x01" + data[4:])


def test_the_frame_and_header_limits_hold() -> None:
    data = encode("s", {}, {"a": np.zeros(100, np.uint8)})
    decoded(data, Limits(max_frame_bytes=len(data)))
    with pytest.raises(FrameError):
        decoded(data, Limits(max_frame_bytes=len(data) - 1))
    with pytest.raises(FrameError):
        decoded(encode("s", {"a": ["x" * 200] * 400}, {}))


def test_a_frame_of_another_version_says_who_has_to_update() -> None:
    newer = bytearray(encode("s", {}, {}))
    newer[3] += 1
    with pytest.raises(FrameError, match=r"of version 3, this is 2: the older .* update moesubnet"):
        decoded(bytes(newer))
    with pytest.raises(FrameError, match="not a frame of moesubnet"):
        decoded(b"<!DOCTYPE html><html>")


def test_claims_cost_no_memory() -> None:
    claims = [
        struct.pack("<4sI", b"MOE\x02", 2**32 - 1) + bytes(60),
        raw(["s", {}, [["a", "f32", [2**31], 0]]]),
        raw(["s", {}, [["a", "f32", [2**28, 4], 0]]], bytes(64)),
        raw(b"\xdd\x7f\xff\xff\xff"),
        raw(b"\x93\xa1s\x80\xdb\x7f\xff\xff\xff"),
        raw(b"\xc6\x7f\xff\xff\xff"),
        raw(b"\x93\xa1s\x80\xdc\x0f\xff" + b"\x80" * 65_000),
    ]
    tracemalloc.start()
    for claim in claims:
        with pytest.raises(FrameError):
            decoded(claim)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_fuzzing_a_real_frame_for_a_while() -> None:
    """Byte flips, splices, cuts and interesting integers; only FrameError may come out."""
    rng = random.Random(7)
    seed_frame = encode(
        "s",
        {"kind": "top_k", "k": 8, "sessions": ["a", "b"]},
        {"ids": np.arange(9, dtype=np.uint32), "x": np.zeros((3, 5), np.float16)},
    )
    numbers = [struct.pack("<Q", n) for n in (0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)]
    end = time.monotonic() + FUZZ_S
    runs = accepted = 0
    while time.monotonic() < end:
        frame = bytearray(seed_frame)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(frame) or 1)
            match rng.randrange(5):
                case 0:
                    frame[place : place + 1] = bytes([rng.randrange(256)])
                case 1:
                    piece = rng.choice(numbers)[: rng.choice((1, 2, 4, 8))]
                    frame[place : place + len(piece)] = piece
                case 2:
                    del frame[place : place + rng.randint(1, 8)]
                case 3:
                    frame[place:place] = rng.randbytes(rng.randint(1, 8))
                case 4:
                    other = rng.randrange(len(frame) or 1)
                    frame[place : place + 8] = frame[other : other + 8]
        runs += 1
        try:
            got = decoded(bytes(frame))
        except FrameError:
            continue
        accepted += 1
        assert encode("s", got.fields, got.tensors) == bytes(frame)
    assert runs > 1_000
    assert accepted < runs
