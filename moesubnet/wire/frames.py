"""Tensor frames: a small msgpack header, then raw little-endian buffers. No pickle, no copies.

    b"MOE\\x02" | u32 header length | header | zeros to 8 | buffer | zeros to 8 | buffer …

The header is `[schema, fields, [[name, dtype, shape, offset], …]]`; offsets count from the first
buffer. There is one encoding of a frame: header in canonical msgpack, buffers in table order, each
at the next multiple of 8, zeros between, nothing after. So overlaps, gaps and smuggled bytes
cannot be expressed. Decoding makes views of the bytes it was given and allocates nothing that a
frame merely claims.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from moesubnet.errors import FrameError

CONTENT_TYPE = "application/x-moesubnet"
MAGIC = b"MOE\x02"
ALIGN = 8
KNOWN_HEADER_BYTES = 256  # of headers that are remembered: nobody fills much memory with them
_PREFIX = struct.Struct("<4sI")

DTYPES = {name: np.dtype(f"<{code}") for name, code in
          {"u8": "u1", "u32": "u4", "u64": "u8", "f16": "f2", "f32": "f4"}.items()}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Scalar = bool | int | float | str
Field = Scalar | list[Scalar]
Tensor = NDArray[np.generic]


class Limits(NamedTuple):
    """What a receiver accepts. A decoded header costs at most ~100 × `max_header_bytes`."""

    max_frame_bytes: int = 64 * 2**20
    max_header_bytes: int = 65_536
    max_items: int = 4_096  # fields, and entries of one list
    max_text_bytes: int = 256
    max_tensors: int = 16
    max_rank: int = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame. The tensors are read-only views of the received bytes."""

    fields: dict[str, Field]
    tensors: dict[str, Tensor]

    def tensor(self, name: str, dtypes: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """A tensor of one of these dtypes ("f16 f32") and this shape (None: any size).

        This and the methods below raise FrameError when the frame is otherwise.
        """
        tensor = self.tensors.get(name)
        if tensor is None or _NAMES[tensor.dtype] not in dtypes:  # no name is a part of another
            raise FrameError(f"{name} is missing or not {dtypes}")
        if shape != tensor.shape and (
            len(shape) != tensor.ndim
            or any(size not in (None, got) for size, got in zip(shape, tensor.shape, strict=True))
        ):
            raise FrameError(f"{name} has another shape than the schema says")
        return tensor

    def texts(self, name: str, count: int) -> list[str]:
        """A field that is a list of exactly `count` strings."""
        entries = self.fields.get(name)
        if not isinstance(entries, list) or len(entries) != count:
            raise FrameError(f"{name} is not a list of {count} strings")
        strings = [entry for entry in entries if isinstance(entry, str)]
        if len(strings) != count:
            raise FrameError(f"{name} is not a list of strings")
        return strings

    def holds_only(self, fields: Set[str], tensors: Set[str]) -> None:
        """All of these and no others."""
        if self.fields.keys() != fields or self.tensors.keys() != tensors:
            raise FrameError("a field or tensor is missing or unknown")


def encode(schema: str, fields: Mapping[str, Field], tensors: Mapping[str, Tensor]) -> bytes:
    """One frame. Tensors of a dtype outside `DTYPES` are our own bug (KeyError)."""
    table: list[list[object]] = []
    parts: list[bytes | memoryview] = []
    end = 0
    for name, tensor in tensors.items():
        little = np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("<"))
        offset = -(-end // ALIGN) * ALIGN
        parts += [bytes(offset - end), little.data]
        table.append([name, _NAMES[little.dtype], list(tensor.shape), offset])
        end = offset + little.nbytes
    header = msgpack.packb([schema, dict(fields), table])
    prefix = _PREFIX.pack(MAGIC, len(header)) + header
    return b"".join([prefix, bytes(-len(prefix) % ALIGN), *parts])


def decode(data: bytes | bytearray | memoryview, *, schema: str, limits: Limits) -> Frame:
    """The frame in `data`, which must be of this schema and use every byte.

    Raises FrameError for anything else; the cost is bounded by `limits` and len(data).
    """
    view = memoryview(data).cast("B").toreadonly()
    if not _PREFIX.size <= len(view) <= limits.max_frame_bytes:
        raise FrameError(f"a frame of {len(view)} bytes")
    magic, header_bytes = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        if magic[:3] == MAGIC[:3]:
            raise FrameError(
                f"a frame of version {magic[3]}, this is {MAGIC[3]}: the older of the two has to "
                "update moesubnet"
            )
        raise FrameError("not a frame of moesubnet")
    if header_bytes > min(limits.max_header_bytes, len(view) - _PREFIX.size):
        raise FrameError(f"a header of {header_bytes} bytes")
    header_end = _PREFIX.size + header_bytes
    read = _known_layout if header_bytes <= KNOWN_HEADER_BYTES else _layout
    fields, places, size = read(bytes(view[_PREFIX.size : header_end]), schema, limits)
    start = header_end + -header_end % ALIGN
    if start + size != len(view):
        raise FrameError("a tensor ends outside its frame, or bytes follow the last one")
    _check_zeros(view, header_end, start)
    tensors: dict[str, Tensor] = {}
    end = start
    for name, dtype, shape, offset, nbytes in places:
        begin = start + offset
        _check_zeros(view, end, begin)
        tensors[name] = np.ndarray(shape, dtype, view, begin)
        end = begin + nbytes
    return Frame(dict(fields), tensors)


_Place = tuple[str, np.dtype[np.generic], tuple[int, ...], int, int]  # name … offset, bytes
_Layout = tuple[dict[str, Field], list[_Place], int]


def _layout(raw: bytes, schema: str, limits: Limits) -> _Layout:
    """What a header says: fields, where its tensors are, and how many bytes they take."""
    fields, table = _header(raw, schema, limits)
    places: list[_Place] = []
    end = 0
    for row in table:
        places.append(_place(end, row, limits))
        end = places[-1][3] + places[-1][4]
    if len({place[0] for place in places}) < len(places):
        raise FrameError("a tensor's name is repeated")
    return fields, places, end


_known_layout = lru_cache(maxsize=256)(_layout)  # answers to questions that are alike have one


def _header(raw: bytes, schema: str, limits: Limits) -> tuple[dict[str, Field], list[object]]:
    try:
        header = msgpack.unpackb(
            raw,
            max_array_len=limits.max_items,
            max_map_len=limits.max_items,
            max_str_len=limits.max_text_bytes,
            max_bin_len=0,
            max_ext_len=0,
        )
        canonical = msgpack.packb(header) == raw
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise FrameError(
            f"the header is not msgpack within limits: {type(error).__name__}"
        ) from None
    if not canonical:
        raise FrameError("the header is not canonical")
    if not (isinstance(header, list) and len(header) == 3):
        raise FrameError("the header is not [schema, fields, tensors]")
    name, fields, table = header
    if name != schema:
        raise FrameError(f"the frame is not a {schema}")
    if not (isinstance(fields, dict) and all(_is_field(k, v) for k, v in fields.items())):
        raise FrameError("a field is neither a scalar nor a list of scalars")
    if not (isinstance(table, list) and len(table) <= limits.max_tensors):
        raise FrameError("the tensor table is malformed or too long")
    return fields, table


def _is_scalar(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | int | str)


def _is_field(key: object, value: object) -> bool:
    entries = value if isinstance(value, list) else [value]
    return isinstance(key, str) and all(map(_is_scalar, entries))


def _place(end: int, row: object, limits: Limits) -> _Place:
    """Of the table's next row, after tensors that end at `end`."""
    if not (isinstance(row, list) and len(row) == 4):
        raise FrameError("a row of the tensor table is malformed")
    name, dtype_name, shape, offset = row
    dtype = DTYPES.get(dtype_name) if isinstance(dtype_name, str) else None
    if dtype is None or not isinstance(name, str):
        raise FrameError("a tensor has an unknown dtype or no name")
    if type(offset) is not int or offset != -(-end // ALIGN) * ALIGN:
        raise FrameError("a tensor is not where it must be")
    if not isinstance(shape, list) or len(shape) > limits.max_rank:
        raise FrameError("a tensor has too many dimensions")
    # Python's integers do not overflow; zero dimensions must not hide huge ones from numpy.
    if not all(type(size) is int and 0 <= size <= limits.max_frame_bytes for size in shape):
        raise FrameError("a tensor's dimension is out of range")
    if math.prod(max(size, 1) for size in shape) > limits.max_frame_bytes:
        raise FrameError("a tensor is larger than a frame may be")
    return name, dtype, tuple(shape), offset, math.prod(shape) * dtype.itemsize


def _check_zeros(view: memoryview, begin: int, stop: int) -> None:
    if begin != stop and bytes(view[begin:stop]).strip(b"\0"):
        raise FrameError("padding is not zero")
