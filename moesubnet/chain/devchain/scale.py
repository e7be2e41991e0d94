"""The few SCALE codecs the host itself needs; everything else stays opaque bytes."""

from __future__ import annotations

from moesubnet.errors import ChainError


class ScaleError(ChainError):
    """Bytes end early or are not of the expected form."""


def compact(n: int) -> bytes:
    """SCALE compact encoding of 0 ≤ n < 2^536."""
    if n < 0x40:
        return bytes((n << 2,))
    if n < 0x4000:
        return (n << 2 | 1).to_bytes(2, "little")
    if n < 0x4000_0000:
        return (n << 2 | 2).to_bytes(4, "little")
    length = (n.bit_length() + 7) // 8
    return bytes(((length - 4) << 2 | 3,)) + n.to_bytes(length, "little")


def vec(data: bytes) -> bytes:
    """`Vec<u8>`: the length, then the bytes."""
    return compact(len(data)) + data


def option(data: bytes | None) -> bytes:
    """`Option<Vec<u8>>`."""
    return b"\0" if data is None else b"\1" + vec(data)


class Reader:
    """Reads values off the front of `data`. Every short read raises ScaleError."""

    __slots__ = ("data", "pos")

    def __init__(self, data: bytes, pos: int = 0) -> None:
        self.data = data
        self.pos = pos

    def take(self, n: int) -> bytes:
        end = self.pos + n
        if end > len(self.data):
            raise ScaleError(f"{n} bytes wanted at {self.pos}, {len(self.data) - self.pos} left")
        taken = self.data[self.pos : end]
        self.pos = end
        return taken

    def uint(self, n: int) -> int:
        """Little-endian unsigned integer of n bytes."""
        return int.from_bytes(self.take(n), "little")

    def compact(self) -> int:
        first = self.uint(1)
        mode = first & 3
        if mode == 0:
            return first >> 2
        if mode == 3:
            return self.uint((first >> 2) + 4)
        rest = self.uint(1 if mode == 1 else 3)
        return (rest << 8 | first) >> 2

    def vec(self) -> bytes:
        return self.take(self.compact())

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.pos)

    @property
    def at_end(self) -> bool:
        return self.pos == len(self.data)
