"""The trie has the roots of Substrate's own implementation, and behaves like a dict."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.chain.devchain.scale import Reader, ScaleError, compact, option, vec
from moesubnet.chain.devchain.trie import Trie, ordered_root

# Roots by sp-trie 47 (LayoutV0 and LayoutV1) of maps with short, long, shared and empty keys.
CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "trie.json").read_text()
)

# Few distinct bytes, so that keys collide, nest and share nibbles.
keys = st.lists(st.sampled_from([0x00, 0x01, 0x10, 0x11, 0xFF]), max_size=5).map(bytes)
values = st.one_of(st.binary(max_size=40), st.binary(min_size=30, max_size=34))
maps = st.dictionaries(keys, values, max_size=30)


def textbook_root(pairs: dict[bytes, bytes], version: int) -> bytes:
    """The root by the definition: recursive, over nibble tuples, nothing kept or shared."""

    def blake(data: bytes) -> bytes:
        return blake2b(data, digest_size=32).digest()

    def encode(items: dict[tuple[int, ...], bytes]) -> bytes:
        paths = list(items)
        shared = 0
        while all(len(p) > shared and p[shared] == paths[0][shared] for p in paths):
            shared += 1
        partial, value = paths[0][:shared], items.get(paths[0][:shared])
        below: dict[int, dict[tuple[int, ...], bytes]] = {}
        for path, item in items.items():
            if len(path) > shared:
                below.setdefault(path[shared], {})[path[shared + 1 :]] = item
        hashed = version == 1 and value is not None and len(value) > 32
        if below:
            bits, most = (0x10, 15) if hashed else (0x80 if value is None else 0xC0, 63)
        else:
            bits, most = (0x20, 31) if hashed else (0x40, 63)
        out = bytearray([bits | min(len(partial), most)])
        left = len(partial) - most
        while left >= 0:
            out.append(min(left, 255))
            left -= 255
        padded = partial if len(partial) % 2 == 0 else (0, *partial)
        out += bytes(16 * a + b for a, b in zip(padded[::2], padded[1::2], strict=True))
        if below:
            out += sum(2**i for i in below).to_bytes(2, "little")
        if value is not None:
            out += blake(value) if hashed else compact(len(value)) + value
        for nibble in sorted(below):
            child = encode(below[nibble])
            child = child if len(child) < 32 else blake(child)
            out += compact(len(child)) + child
        return bytes(out)

    if not pairs:
        return blake(b"\0")
    return blake(encode({tuple(n for b in k for n in divmod(b, 16)): v for k, v in pairs.items()}))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_roots_are_those_of_substrate(case: dict[str, Any]) -> None:
    pairs = {bytes.fromhex(key): bytes.fromhex(value) for key, value in case["pairs"]}
    for version in (0, 1):
        assert Trie().update(pairs).root(version).hex() == case[f"root_v{version}"]
        ordered = ordered_root(list(pairs.values()), version)
        assert ordered.hex() == case[f"ordered_v{version}"]


def test_the_empty_trie_has_the_well_known_root() -> None:
    empty = "03170a2e7597b7b7e3d84c05391d139a62b157e78786d8c082f29dcf4c111314"
    assert Trie().root(0).hex() == Trie().root(1).hex() == empty


@given(maps, st.sampled_from([0, 1]))
def test_root_follows_the_definition(pairs: dict[bytes, bytes], version: int) -> None:
    assert Trie().update(pairs).root(version) == textbook_root(pairs, version)


@given(maps, st.lists(st.dictionaries(keys, st.one_of(st.none(), values), max_size=8), max_size=6))
def test_updates_in_steps_end_where_one_update_ends(
    pairs: dict[bytes, bytes], steps: list[dict[bytes, bytes | None]]
) -> None:
    model = dict(pairs)
    trie = Trie().update(pairs)
    for step in steps:
        before, before_root = dict(model), trie.root(1)
        older = trie
        trie = trie.update(step)
        for key, value in step.items():
            model.pop(key, None) if value is None else model.update({key: value})
        assert dict(trie.items()) == model
        assert trie.root(1) == Trie().update(model).root(1)
        assert trie.root(0) == Trie().update(model).root(0)
        assert dict(older.items()) == before  # an older version never changes
        assert older.root(1) == before_root


@given(maps, keys, keys)
def test_reads_and_iteration_are_those_of_a_sorted_dict(
    pairs: dict[bytes, bytes], key: bytes, prefix: bytes
) -> None:
    trie = Trie().update(pairs)
    assert trie.get(key) == pairs.get(key)
    assert trie.next_key(key) == min((k for k in pairs if k > key), default=None)
    below = sorted((k, v) for k, v in pairs.items() if k.startswith(prefix) and k >= key)
    assert list(trie.items(prefix, key)) == below


@given(st.integers(0, 2**536 - 1))
def test_compact_integers_come_back(n: int) -> None:
    encoded = compact(n)
    reader = Reader(encoded + b"rest")
    assert reader.compact() == n
    assert reader.rest() == b"rest"


@pytest.mark.parametrize(
    ("n", "encoded"),
    [
        (0, "00"),
        (63, "fc"),
        (64, "0101"),
        (16383, "fdff"),
        (16384, "02000100"),
        (2**30 - 1, "feffffff"),
        (2**30, "0300000040"),
        (2**64 - 1, "13ffffffffffffffff"),
    ],
)
def test_compact_integers_are_encoded_as_the_specification_says(n: int, encoded: str) -> None:
    assert compact(n).hex() == encoded


@given(st.binary(max_size=100), st.integers(0, 99))
def test_a_cut_vector_is_an_error_and_not_a_short_one(data: bytes, cut: int) -> None:
    encoded = vec(data)
    assert Reader(encoded).vec() == data
    assert option(data) == b"\1" + encoded
    if cut < len(encoded):
        with pytest.raises(ScaleError):
            Reader(encoded[:cut]).vec()
