"""Runtime code: the compressed blob under `:code`, and what its custom sections say."""

from __future__ import annotations

from dataclasses import dataclass

from moesubnet.chain.devchain import blob
from moesubnet.chain.devchain.scale import Reader, ScaleError, compact, vec
from moesubnet.errors import ChainError

CODE_KEY = b":code"


class BadCode(ChainError):
    """The bytes are not a Substrate runtime."""


def decompress(code: bytes) -> bytes:
    """The WASM module in `code`, which may be compressed. Raises BadCode."""
    try:
        return blob.decompress(code)
    except ValueError as error:
        raise BadCode(str(error)) from error


@dataclass(frozen=True, slots=True)
class RuntimeVersion:
    """What `Core_version` answers."""

    spec_name: str
    impl_name: str
    authoring_version: int
    spec_version: int
    impl_version: int
    apis: tuple[tuple[bytes, int], ...]
    transaction_version: int
    system_version: int

    @classmethod
    def decode(cls, data: bytes) -> RuntimeVersion:
        r = Reader(data)
        return cls(
            spec_name=r.vec().decode(),
            impl_name=r.vec().decode(),
            authoring_version=r.uint(4),
            spec_version=r.uint(4),
            impl_version=r.uint(4),
            apis=tuple((r.take(8), r.uint(4)) for _ in range(r.compact())),
            transaction_version=r.uint(4) if not r.at_end else 1,
            system_version=r.uint(1) if not r.at_end else 0,
        )

    def encode(self) -> bytes:
        numbers = (self.authoring_version, self.spec_version, self.impl_version)
        return b"".join(
            (
                vec(self.spec_name.encode()),
                vec(self.impl_name.encode()),
                *(n.to_bytes(4, "little") for n in numbers),
                compact(len(self.apis)),
                *(api + version.to_bytes(4, "little") for api, version in self.apis),
                self.transaction_version.to_bytes(4, "little"),
                bytes((self.system_version,)),
            )
        )

    @property
    def state_version(self) -> int:
        """0 or 1: how the state's root is computed."""
        return min(self.system_version, 1)


def embedded_version(code: bytes) -> RuntimeVersion | None:
    """The version in the code's custom sections, without compiling it; None if it has none."""
    wasm = decompress(code)
    sections = _custom_sections(wasm)
    if "runtime_version" not in sections:
        return None
    version = RuntimeVersion.decode(sections["runtime_version"])
    apis = Reader(sections.get("runtime_apis", b""))
    listed = []
    while not apis.at_end:
        listed.append((apis.take(8), apis.uint(4)))
    return RuntimeVersion(
        version.spec_name,
        version.impl_name,
        version.authoring_version,
        version.spec_version,
        version.impl_version,
        tuple(listed) or version.apis,
        version.transaction_version,
        version.system_version,
    )


def _custom_sections(wasm: bytes) -> dict[str, bytes]:
    if wasm[:8] != b"\0asm\1\0\0\0":
        raise BadCode("not a WASM module")
    reader = Reader(wasm, 8)
    sections = {}
    try:
        while not reader.at_end:
            kind = reader.uint(1)
            body = Reader(reader.take(_leb128(reader)))
            if kind == 0:
                name = body.take(_leb128(body)).decode(errors="replace")
                sections[name] = body.rest()
    except ScaleError as error:
        raise BadCode("the WASM module is cut short") from error
    return sections


def _leb128(reader: Reader) -> int:
    value = 0
    for shift in range(0, 35, 7):
        byte = reader.uint(1)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise BadCode("a length in the WASM module is too long")
