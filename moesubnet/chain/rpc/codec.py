"""SCALE decoders as closures, from which `registry` compiles the chain's types.

substrate-interface encodes our calls. Its decoder builds an object per value, which is most of a
second for a metagraph of 256 neurons. Here each type becomes one closure, once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from substrateinterface.utils.ss58 import ss58_decode, ss58_encode

from moesubnet.errors import ChainError

SS58_FORMAT = 42

# (data, offset) → (value, offset after it)
Decoder = Callable[[bytes, int], tuple[Any, int]]

FIXED = {
    "bool": "?",
    "u8": "B",
    "u16": "H",
    "u32": "I",
    "u64": "Q",
    "i8": "b",
    "i16": "h",
    "i32": "i",
    "i64": "q",
}
WIDE = {"u128": 16, "u256": 32, "i128": 16, "i256": 32}


class CodecError(ChainError):
    """Bytes that are not of the type that the chain's metadata gives them."""


@lru_cache(maxsize=65_536)
def address(public_key: bytes) -> str:
    """SS58 address of a 32-byte public key."""
    return str(ss58_encode(public_key, ss58_format=SS58_FORMAT))


@lru_cache(maxsize=65_536)
def public_key(account: str) -> bytes:
    """The 32 bytes behind an SS58 address with prefix 42. Raises CodecError."""
    try:
        key = bytes.fromhex(ss58_decode(account, valid_ss58_format=SS58_FORMAT))
    except (ValueError, IndexError):
        key = b""
    if len(key) != 32:  # the format knows shorter ones too
        raise CodecError(f"{account!r} is not an SS58 address with prefix 42")
    return key


def raw_bytes(width: int) -> Decoder:
    def raw(data: bytes, at: int) -> tuple[Any, int]:
        end = at + width
        if end > len(data):
            raise CodecError(f"{width} bytes wanted at {at} of {len(data)}")
        return data[at:end], end

    return raw


def converted(decode: Decoder, convert: Callable[[Any], Any]) -> Decoder:
    def converted(data: bytes, at: int) -> tuple[Any, int]:
        value, at = decode(data, at)
        return convert(value), at

    return converted


def primitive(name: str) -> Decoder:
    if name in WIDE:
        signed = name.startswith("i")
        return converted(
            raw_bytes(WIDE[name]), lambda raw: int.from_bytes(raw, "little", signed=signed)
        )
    if name == "str":
        return converted(fixed_sequence("B"), lambda raw: raw.decode())
    if name == "char":
        return converted(raw_bytes(4), lambda raw: raw.decode("utf-32-le"))
    layout = struct.Struct("<" + FIXED[name])
    unpack, width = layout.unpack_from, layout.size

    def fixed(data: bytes, at: int) -> tuple[Any, int]:
        return unpack(data, at)[0], at + width

    return fixed


def fixed_sequence(code: str) -> Decoder:
    width = struct.calcsize("<" + code)

    def sequence(data: bytes, at: int) -> tuple[Any, int]:
        count, at = compact(data, at)
        end = at + count * width
        if end > len(data):
            raise CodecError(f"a sequence claims {count} members")
        if code == "B":
            return data[at:end], end
        return struct.unpack_from(f"<{count}{code}", data, at), end

    return sequence


def option(decode: Decoder) -> Decoder:
    def option(data: bytes, at: int) -> tuple[Any, int]:
        return decode(data, at + 1) if data[at] else (None, at + 1)

    return option


def members(decoders: list[Decoder]) -> Decoder:
    def members(data: bytes, at: int) -> tuple[Any, int]:
        values = []
        for decode in decoders:
            value, at = decode(data, at)
            values.append(value)
        return tuple(values), at

    return members


def enum(variants: dict[int, tuple[str, Decoder | None]]) -> Decoder:
    def enum(data: bytes, at: int) -> tuple[Any, int]:
        if data[at] not in variants:
            raise CodecError(f"an enum has no variant {data[at]}")
        name, decode = variants[data[at]]
        if decode is None:
            return name, at + 1
        fields, at = decode(data, at + 1)
        return {name: fields}, at

    return enum


def compact(data: bytes, at: int) -> tuple[int, int]:
    mode = data[at] & 3
    if mode == 0:
        return data[at] >> 2, at + 1
    if mode == 3:
        end = at + 1 + (data[at] >> 2) + 4
        start = at + 1
    else:
        start, end = at, at + (2 if mode == 1 else 4)
    if end > len(data):
        raise CodecError(f"a compact integer at {at} is cut off")
    value = int.from_bytes(data[start:end], "little")
    return (value if mode == 3 else value >> 2), end
