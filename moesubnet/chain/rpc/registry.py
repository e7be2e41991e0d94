"""The chain's own types: decoders and storage keys compiled from its metadata.

How values look: integers and booleans as themselves; `AccountId32` as an SS58 address; `H256` as
`0x…`; bytes as `bytes`; `Option` as the value or None; sequences, arrays and tuples as tuples;
structs as dicts; a bare enum variant as its name, one with fields as `{name: fields}`. Structs and
variants of a single unnamed field are that field.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from moesubnet.chain.rpc import codec


class Registry:
    """The types of one runtime. `types` is the portable registry of its metadata."""

    def __init__(self, types: Sequence[Mapping[str, Any]]) -> None:
        self._types = {entry["id"]: entry["type"] for entry in types}
        self._decoders: dict[int, codec.Decoder] = {}

    def decode(self, type_id: int, data: bytes) -> Any:
        """The value that the whole of `data` encodes. Raises codec.CodecError."""
        value, end = self.read(type_id, data, 0)
        if end != len(data):
            raise codec.CodecError(
                f"{len(data) - end} bytes too many for a value of type {type_id}"
            )
        return value

    def decode_named(self, path: Sequence[str], data: bytes) -> Any:
        """As `decode`, for the type of that path: ("sp_runtime", "DispatchError")."""
        for type_id, entry in self._types.items():
            if entry["path"] == list(path):
                return self.decode(type_id, data)
        raise codec.CodecError(f"this chain has no type {'::'.join(path)}")

    def read(self, type_id: int, data: bytes, at: int) -> tuple[Any, int]:
        """The value at an offset, and the offset after it. Raises codec.CodecError."""
        try:
            return self._decoder(type_id)(data, at)
        except (struct.error, IndexError, UnicodeDecodeError, RecursionError) as error:
            raise codec.CodecError(f"malformed value of type {type_id}: {error}") from error

    def encode_key(self, type_id: int, value: object) -> bytes:
        """A storage key's part: an integer, an address or raw bytes, or a tuple of those."""
        kind, body = self._definition(type_id)
        if kind == "primitive" and isinstance(value, int):
            width = codec.WIDE.get(body) or struct.calcsize(codec.FIXED[body])
            return value.to_bytes(width, "little", signed=body.startswith("i"))
        if kind == "tuple" and isinstance(value, tuple):
            return b"".join(self.encode_key(t, v) for t, v in zip(body, value, strict=True))
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return codec.public_key(value)
        if kind == "composite" and len(body["fields"]) == 1:
            return self.encode_key(body["fields"][0]["type"], value)
        raise codec.CodecError(f"{value!r} cannot be a key of type {type_id}")

    def tuple_members(self, type_id: int) -> tuple[int, ...]:
        """The types of a tuple's members."""
        kind, body = self._definition(type_id)
        if kind != "tuple":
            raise codec.CodecError(f"type {type_id} is not a tuple")
        return tuple(body)

    def _definition(self, type_id: int) -> tuple[str, Any]:
        ((kind, body),) = self._types[type_id]["def"].items()
        return kind, body

    def _decoder(self, type_id: int) -> codec.Decoder:
        if type_id not in self._decoders:
            # What a recursive type finds while it is being compiled.
            self._decoders[type_id] = lambda data, at: self._decoders[type_id](data, at)
            self._decoders[type_id] = self._compile(type_id)
        return self._decoders[type_id]

    def _compile(self, type_id: int) -> codec.Decoder:
        kind, body = self._definition(type_id)
        path = self._types[type_id]["path"]
        if path == ["sp_core", "crypto", "AccountId32"]:
            return codec.converted(codec.raw_bytes(32), codec.address)
        if path == ["primitive_types", "H256"]:
            return codec.converted(codec.raw_bytes(32), lambda raw: "0x" + raw.hex())
        if path == ["Option"]:
            return codec.option(self._decoder(self._types[type_id]["params"][0]["type"]))
        if kind == "primitive":
            return codec.primitive(body)
        if kind == "compact":
            return codec.compact
        if kind == "sequence":
            return self._sequence(body["type"])
        if kind == "array":
            return self._array(body["type"], body["len"])
        if kind == "tuple":
            return codec.members([self._decoder(member) for member in body])
        if kind == "composite":
            return self._fields(body["fields"])
        if kind == "variant":
            variants = {
                variant["index"]: (
                    variant["name"],
                    self._fields(variant["fields"]) if variant["fields"] else None,
                )
                for variant in body["variants"]
            }
            return codec.enum(variants)
        raise codec.CodecError(f"type {type_id} is a {kind}, which nothing here reads")

    def _sequence(self, member: int) -> codec.Decoder:
        code = self._fixed_code(member)
        if code is not None:
            return codec.fixed_sequence(code)
        decode = self._decoder(member)

        def sequence(data: bytes, at: int) -> tuple[Any, int]:
            count, at = codec.compact(data, at)
            if count > len(data) - at:
                raise codec.CodecError(f"a sequence claims {count} members")
            values = []
            for _ in range(count):
                value, at = decode(data, at)
                values.append(value)
            return tuple(values), at

        return sequence

    def _array(self, member: int, count: int) -> codec.Decoder:
        if self._fixed_code(member) == "B":
            return codec.raw_bytes(count)
        return codec.members([self._decoder(member)] * count)

    def _fields(self, fields: Sequence[Mapping[str, Any]]) -> codec.Decoder:
        decoders = [self._decoder(field["type"]) for field in fields]
        names = [field["name"] for field in fields]
        if names == [None]:
            return decoders[0]
        if None in names:
            return codec.members(decoders)

        def composite(data: bytes, at: int) -> tuple[Any, int]:
            values = {}
            for name, decode in zip(names, decoders, strict=True):
                values[name], at = decode(data, at)
            return values, at

        return composite

    def _fixed_code(self, type_id: int) -> str | None:
        kind, body = self._definition(type_id)
        return codec.FIXED.get(body) if kind == "primitive" else None
