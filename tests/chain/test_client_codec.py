"""Decoding: right on what the chain writes, a typed error on anything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalecodec.base import RuntimeConfigurationObject
from scalecodec.type_registry import load_type_registry_preset

from moesubnet.chain.rpc.codec import CodecError, address, public_key
from moesubnet.chain.rpc.registry import Registry
from moesubnet.chain.wallet import keypair_from_uri

ALICE = keypair_from_uri("//Alice")
PRIMITIVES = ("u8", "u16", "u32", "u64", "u128", "i8", "i64", "i128", "bool", "str")
CODEC = RuntimeConfigurationObject()
CODEC.update_type_registry(load_type_registry_preset("core"))


def entry(type_id: int, definition: dict[str, Any], *path: str, **more: Any) -> dict[str, Any]:
    return {"id": type_id, "type": {"path": [*path], "params": [], "def": definition, **more}}


def field(type_id: int, name: str | None = None) -> dict[str, Any]:
    return {"name": name, "type": type_id}


def variant(index: int, name: str, *fields: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "name": name, "fields": [*fields]}


BYTES, WORDS, ACCOUNT, OPTION, PAIR, STRUCT, ENUM, COMPACT, TREE, HASH, ROWS, NEWTYPE = range(
    20, 32
)
TYPES = Registry(
    [
        *(entry(n, {"primitive": name}) for n, name in enumerate(PRIMITIVES)),
        entry(19, {"array": {"len": 32, "type": 0}}),
        entry(BYTES, {"sequence": {"type": 0}}),
        entry(WORDS, {"sequence": {"type": 1}}),
        entry(ACCOUNT, {"composite": {"fields": [field(19)]}}, "sp_core", "crypto", "AccountId32"),
        entry(OPTION, {"variant": {}}, "Option", params=[{"name": "T", "type": 3}]),
        entry(PAIR, {"tuple": [1, ACCOUNT]}),
        entry(STRUCT, {"composite": {"fields": [field(1, "uid"), field(OPTION, "block")]}}),
        entry(
            ENUM,
            {
                "variant": {
                    "variants": [
                        variant(0, "Bare"),
                        variant(4, "One", field(1)),
                        variant(5, "Two", field(1), field(8)),
                        variant(6, "Named", field(1, "uid")),
                    ]
                }
            },
        ),
        entry(COMPACT, {"compact": {"type": 3}}),
        entry(TREE, {"composite": {"fields": [field(32, "children")]}}),
        entry(32, {"sequence": {"type": TREE}}),
        entry(HASH, {"composite": {"fields": [field(19)]}}, "primitive_types", "H256"),
        entry(ROWS, {"sequence": {"type": PAIR}}),
        entry(NEWTYPE, {"composite": {"fields": [field(WORDS)]}}),
    ]
)


@pytest.mark.parametrize(
    ("type_id", "encoded", "value"),
    [
        (BYTES, "0c010203", b"\1\2\3"),
        (WORDS, "0801000200", (1, 2)),
        (NEWTYPE, "0801000200", (1, 2)),
        (ACCOUNT, ALICE.public_key.hex(), ALICE.ss58_address),
        (HASH, "ab" * 32, "0x" + "ab" * 32),
        (OPTION, "00", None),
        (OPTION, "010500000000000000", 5),
        (PAIR, "0700" + ALICE.public_key.hex(), (7, ALICE.ss58_address)),
        (ROWS, "040700" + ALICE.public_key.hex(), ((7, ALICE.ss58_address),)),
        (STRUCT, "070000", {"uid": 7, "block": None}),
        (ENUM, "00", "Bare"),
        (ENUM, "040700", {"One": 7}),
        (ENUM, "05070001", {"Two": (7, True)}),
        (ENUM, "060700", {"Named": {"uid": 7}}),
        (
            TREE,
            "080400" + "00",
            {"children": ({"children": ({"children": ()},)}, {"children": ()})},
        ),
    ],
)
def test_values_look_as_the_registry_says(type_id: int, encoded: str, value: object) -> None:
    assert TYPES.decode(type_id, bytes.fromhex(encoded)) == value


@given(st.integers(0, 2**64 - 1))
def test_compact_integers_are_those_of_the_library(number: int) -> None:
    encoded = CODEC.create_scale_object("Compact<u64>").encode(number)
    assert TYPES.decode(COMPACT, bytes(encoded.data)) == number


@given(st.sampled_from(PRIMITIVES[:8]), st.data())
def test_integers_are_little_endian_of_their_width(name: str, data: st.DataObject) -> None:
    bits, signed = int(name[1:]), name[0] == "i"
    low = -(2 ** (bits - 1)) if signed else 0
    number = data.draw(st.integers(low, low + 2**bits - 1))
    encoded = number.to_bytes(bits // 8, "little", signed=signed)
    assert TYPES.decode(PRIMITIVES.index(name), encoded) == number
    assert TYPES.encode_key(PRIMITIVES.index(name), number) == encoded


@given(st.sampled_from([*range(len(PRIMITIVES)), *range(20, 32)]), st.binary(max_size=80))
def test_any_bytes_are_a_value_or_a_codec_error(type_id: int, data: bytes) -> None:
    try:
        TYPES.decode(type_id, data)
    except CodecError:
        return


@pytest.mark.parametrize("type_id", [BYTES, WORDS, ROWS, TREE])
def test_a_claimed_length_is_checked_before_it_is_allocated(type_id: int) -> None:
    with pytest.raises(CodecError, match="claims"):
        TYPES.decode(type_id, bytes.fromhex("feffffff"))


def test_bytes_left_over_are_an_error() -> None:
    with pytest.raises(CodecError, match="1 bytes too many"):
        TYPES.decode(1, b"\0\0\0")


@given(st.binary(min_size=32, max_size=32))
def test_addresses_go_back_to_their_key(key: bytes) -> None:
    assert public_key(address(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5Grw",
        "0OIl",
        ALICE.ss58_address[:-1] + "Z",
        "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5",  # Alice, with Polkadot's prefix
    ],
)
def test_what_is_no_address_of_ours_is_refused(text: str) -> None:
    with pytest.raises(CodecError):
        public_key(text)
