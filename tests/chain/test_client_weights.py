"""Commit hashes are the chain's."""

from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st
from scalecodec.base import RuntimeConfigurationObject
from scalecodec.type_registry import load_type_registry_preset

from moesubnet.chain.wallet import keypair_from_uri
from moesubnet.chain.weights import weights_commit_hash

ALICE = keypair_from_uri("//Alice")
CODEC = RuntimeConfigurationObject()
CODEC.update_type_registry(load_type_registry_preset("core"))
WORDS = st.lists(st.integers(0, 65_535), max_size=80)


def test_the_hash_of_a_known_commit() -> None:
    # blake2b-256 of d43593…a27d 0100 08 0000 0300 08 ffff 3930 0c 0100 0200 0300 0700000000000000
    found = weights_commit_hash(ALICE.public_key, 1, [0, 3], [65_535, 12_345], [1, 2, 3], 7)
    by_hand = bytes.fromhex(
        "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"
        "0100"
        "0800000300"
        "08ffff3930"
        "0c010002000300"
        "0700000000000000"
    )
    assert found == blake2b(by_hand, digest_size=32).digest()
    assert found.hex() == "9dceb4615f4924caec5cda7facc063d33285009d23740dacf2adf18f5a2fbd1e"


@given(WORDS, WORDS, WORDS, st.integers(0, 65_535), st.integers(0, 2**64 - 1))
def test_the_hash_covers_what_a_scale_library_encodes(
    uids: list[int], values: list[int], salt: list[int], netuid: int, version_key: int
) -> None:
    arguments = CODEC.create_scale_object("(H256, u16, Vec<u16>, Vec<u16>, Vec<u16>, u64)").encode(
        ("0x" + ALICE.public_key.hex(), netuid, uids, values, salt, version_key)
    )
    assert (
        weights_commit_hash(ALICE.public_key, netuid, uids, values, salt, version_key)
        == blake2b(bytes(arguments.data), digest_size=32).digest()
    )
