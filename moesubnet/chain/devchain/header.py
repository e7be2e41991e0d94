"""Blocks, headers and their digests. Digest items stay encoded; only Aura's are looked into."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

from moesubnet.chain.devchain.scale import Reader, ScaleError, compact, vec

_AURA = b"aura"
_CONSENSUS, _SEAL, _PRE_RUNTIME = 4, 5, 6
_OTHER, _RUNTIME_UPDATED = 0, 8


def blake2_256(data: bytes) -> bytes:
    return blake2b(data, digest_size=32).digest()


@dataclass(frozen=True, slots=True)
class Header:
    """Hashes are 32 bytes."""

    parent_hash: bytes
    number: int
    state_root: bytes
    extrinsics_root: bytes
    digest: tuple[bytes, ...]  # encoded items

    def encode(self) -> bytes:
        """SCALE, as it is hashed."""
        return b"".join(
            (
                self.parent_hash,
                compact(self.number),
                self.state_root,
                self.extrinsics_root,
                compact(len(self.digest)),
                *self.digest,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        return cls.read(Reader(data))

    @classmethod
    def read(cls, r: Reader) -> Header:
        """Off the front of what `r` reads."""
        parent_hash, number = r.take(32), r.compact()
        state_root, extrinsics_root = r.take(32), r.take(32)
        digest = tuple(_digest_item(r) for _ in range(r.compact()))
        return cls(parent_hash, number, state_root, extrinsics_root, digest)

    def hash(self) -> bytes:
        return blake2_256(self.encode())

    def unsealed(self) -> Header:
        """What the author signed."""
        return replace(self, digest=tuple(item for item in self.digest if item[0] != _SEAL))

    def seal(self) -> bytes | None:
        """The author's signature, the last digest item; None where there is none."""
        if not self.digest or self.digest[-1][:5] != bytes((_SEAL,)) + _AURA:
            return None
        return Reader(self.digest[-1], 5).vec()

    def slot(self) -> int | None:
        """The Aura slot that the author claimed; None for genesis."""
        for item in self.digest:
            if item[0] == _PRE_RUNTIME and item[1:5] == _AURA:
                return Reader(Reader(item, 5).vec()).uint(8)
        return None


def slot_item(slot: int) -> bytes:
    """The digest item in which an author claims an Aura slot."""
    return bytes((_PRE_RUNTIME,)) + _AURA + vec(slot.to_bytes(8, "little"))


def seal_item(signature: bytes) -> bytes:
    """The digest item with the author's signature of the unsealed header's hash; always last."""
    return bytes((_SEAL,)) + _AURA + vec(signature)


@dataclass(frozen=True, slots=True)
class Block:
    """`extrinsics` are as submitted: each with its own length in front."""

    hash: bytes
    header: Header
    extrinsics: tuple[bytes, ...]

    @property
    def number(self) -> int:
        return self.header.number

    def encode(self) -> bytes:
        return self.header.encode() + encode_extrinsics(self.extrinsics)

    @classmethod
    def read(cls, r: Reader) -> Block:
        """Off the front of what `r` reads. Raises ScaleError."""
        header = Header.read(r)
        return cls(header.hash(), header, read_extrinsics(r))

    def unsealed(self) -> bytes:
        """The block as `Core_execute_block` takes it."""
        return self.header.unsealed().encode() + encode_extrinsics(self.extrinsics)


def encode_extrinsics(extrinsics: tuple[bytes, ...]) -> bytes:
    return compact(len(extrinsics)) + b"".join(extrinsics)


def decode_extrinsics(data: bytes) -> tuple[bytes, ...]:
    return read_extrinsics(Reader(data))


def read_extrinsics(r: Reader) -> tuple[bytes, ...]:
    return tuple(vec(r.vec()) for _ in range(r.compact()))


def is_extrinsic(data: bytes) -> bool:
    """Whether `data` is bytes behind their own length, as extrinsics are passed around."""
    try:
        return vec(Reader(data).vec()) == data
    except ScaleError:
        return False


def _digest_item(r: Reader) -> bytes:
    start = r.pos
    kind = r.uint(1)
    if kind in (_CONSENSUS, _SEAL, _PRE_RUNTIME):
        r.take(4)
        r.vec()
    elif kind == _OTHER:
        r.vec()
    elif kind != _RUNTIME_UPDATED:
        raise ScaleError(f"digest item of unknown kind {kind}")
    return r.data[start : r.pos]
