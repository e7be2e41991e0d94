"""Requests and receipts: what verifies, and everything near it that must not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from substrateinterface import Keypair

from moesubnet.errors import (
    AuthError,
    BadSignature,
    MalformedAuth,
    ReplayedRequest,
    StaleRequest,
    WrongReceiver,
)
from moesubnet.types import Hotkey
from moesubnet.wire.nonces import NonceStore
from moesubnet.wire.signing import (
    CRYPTO,
    NONCE,
    RECEIVER,
    SENDER,
    SIGNATURE,
    VERSION,
    prove_claim,
    public_key,
    read_claim,
    sign_receipt,
    sign_request,
    signed_text,
    verify_receipt,
)

ALICE, BOB, EVE = (Keypair.create_from_uri(uri) for uri in ("//Alice", "//Bob", "//Eve"))
BOB_HOTKEY = Hotkey(BOB.ss58_address)
NOW_NS = 1_800_000_000_000_000_000
GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "btauth.json").read_text()
)


def signed(
    method: str = "POST", target: str = "/v1/step", body: bytes = b"x", nonce_ns: int = NOW_NS
) -> dict[str, str]:
    return sign_request(ALICE, method, target, body, BOB_HOTKEY, nonce_ns)


def verify(
    headers: Any,
    *,
    method: str = "POST",
    target: str = "/v1/step",
    body: bytes = b"x",
    own_hotkey: Hotkey = BOB_HOTKEY,
    now_ns: int = NOW_NS,
    nonces: NonceStore | None = None,
) -> Any:
    """As a server does: the cheap checks, then, with the body, the others."""
    nonces = NonceStore(started_ns=0) if nonces is None else nonces
    claim = read_claim(headers, own_hotkey, now_ns)
    return prove_claim(claim, method, target, body, now_ns, nonces)


@pytest.mark.parametrize("signature", GOLDEN["signatures"])
def test_the_official_vectors_verify(signature: str) -> None:
    headers = {
        VERSION: "1",
        SENDER: GOLDEN["sender"],
        RECEIVER: GOLDEN["receiver"],
        NONCE: str(GOLDEN["nonce_ns"]),
        SIGNATURE: signature,
    }
    body = GOLDEN["body"].encode()
    assert hashlib.sha256(body).hexdigest() == GOLDEN["body_sha256"]
    caller = verify(
        headers, target=GOLDEN["target"], body=body, now_ns=GOLDEN["nonce_ns"] + 5_000_000_000
    )
    assert caller.hotkey == ALICE.ss58_address == GOLDEN["sender"]
    assert caller.request_sha256.hex() == GOLDEN["signed_text_sha256"]


def test_the_signed_text_is_the_official_one_to_the_byte() -> None:
    text = signed_text(
        "post",
        GOLDEN["target"],
        GOLDEN["body"].encode(),
        GOLDEN["nonce_ns"],
        GOLDEN["sender"],
        GOLDEN["receiver"],
    )
    assert len(text) == GOLDEN["signed_text_bytes"]
    assert hashlib.sha256(text).hexdigest() == GOLDEN["signed_text_sha256"]
    other = text.replace(b"\nsr25519\n", b"\ned25519\n").replace(
        GOLDEN["sender"].encode(), GOLDEN["ed25519"]["sender"].encode()
    )
    assert hashlib.sha256(other).hexdigest() == GOLDEN["ed25519"]["signed_text_sha256"]


def test_a_valid_ed25519_request_is_refused_because_one_scheme_is_enough() -> None:
    headers = {
        VERSION: "1",
        SENDER: GOLDEN["ed25519"]["sender"],
        RECEIVER: GOLDEN["receiver"],
        NONCE: str(GOLDEN["nonce_ns"]),
        CRYPTO: "ed25519",
        SIGNATURE: GOLDEN["ed25519"]["signature"],
    }
    changed = {
        "target": GOLDEN["target"],
        "body": GOLDEN["body"].encode(),
        "now_ns": GOLDEN["nonce_ns"],
    }
    with pytest.raises(MalformedAuth):
        verify(headers, **changed)
    del headers[CRYPTO]
    with pytest.raises(BadSignature):
        verify(headers, **changed)


@given(
    method=st.sampled_from(["GET", "POST", "put"]),
    target=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40),
    body=st.binary(max_size=200),
    nonce_ns=st.integers(NOW_NS - 10_000_000_000, NOW_NS + 2_000_000_000),
)
def test_what_is_signed_verifies(method: str, target: str, body: bytes, nonce_ns: int) -> None:
    headers = sign_request(ALICE, method, "/" + target, body, BOB_HOTKEY, nonce_ns)
    caller = verify(headers, method=method, target="/" + target, body=body)
    assert caller.hotkey == ALICE.ss58_address


@given(data=st.data())
def test_any_flipped_byte_of_any_header_fails(data: st.DataObject) -> None:
    headers = signed()
    name = data.draw(st.sampled_from(sorted(headers)))
    place = data.draw(st.integers(0, len(headers[name]) - 1))
    mask = data.draw(st.integers(1, 127))
    value = headers[name]
    headers[name] = value[:place] + chr(ord(value[place]) ^ mask) + value[place + 1 :]
    with pytest.raises(AuthError):
        verify(headers)


@given(data=st.data(), body=st.binary(min_size=1, max_size=100))
def test_any_flipped_byte_of_body_or_target_fails(data: st.DataObject, body: bytes) -> None:
    target = "/v1/step?a=%20b"
    headers = signed(target=target, body=body)
    place = data.draw(st.integers(0, len(body) - 1))
    flipped = bytearray(body)
    flipped[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadSignature):
        verify(headers, target=target, body=bytes(flipped))
    place = data.draw(st.integers(0, len(target) - 1))
    other = (
        target[:place]
        + chr(ord(target[place]) ^ data.draw(st.integers(1, 31)))
        + target[place + 1 :]
    )
    with pytest.raises(BadSignature):
        verify(headers, target=other, body=body)


def test_the_method_is_bound() -> None:
    with pytest.raises(BadSignature):
        verify(signed(method="GET"))


@pytest.mark.parametrize("name", [VERSION, SENDER, RECEIVER, NONCE, SIGNATURE])
def test_a_missing_empty_or_repeated_header_fails(name: str) -> None:
    headers = signed()
    missing = {key: value for key, value in headers.items() if key != name}
    repeated = CIMultiDict(headers)
    repeated.add(name.lower(), headers[name])
    for bad in (missing, headers | {name: ""}, repeated, [*headers.items(), (name, "1")]):
        with pytest.raises((MalformedAuth, WrongReceiver)):
            verify(bad)


def test_header_names_ignore_case_and_foreign_headers_are_ignored() -> None:
    headers = {key.upper(): value for key, value in signed().items()}
    assert verify(headers | {"X-Bittensor-Drand-Round": "1", "Host": "a"}).hotkey


def _lowercase_only(value: str) -> str:
    return "0x" + value[2:].upper()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (NONCE, lambda v: f"+{v}"),
        (NONCE, lambda v: f" {v}"),
        (NONCE, lambda v: f"0{v}"),
        (NONCE, lambda v: f"{v}\n"),
        (NONCE, lambda v: v[:3] + "_" + v[3:]),
        (NONCE, lambda v: v.replace("1", "١")),  # an Arabic digit one: int() would accept it
        (SIGNATURE, lambda v: v[2:]),
        (SIGNATURE, _lowercase_only),
        (SIGNATURE, lambda v: v + "00"),
        (SIGNATURE, lambda v: "0x"),
        (VERSION, lambda v: "2"),
        (SENDER, lambda v: v + " "),
        (SENDER, lambda v: "0x" + ALICE.public_key.hex()),
        (SENDER, lambda v: Keypair(public_key=ALICE.public_key, ss58_format=0).ss58_address),
    ],
)
def test_other_spellings_of_a_valid_header_are_refused(
    name: str, change: Callable[[str], str]
) -> None:
    headers = signed()
    with pytest.raises(MalformedAuth):
        verify(headers | {name: change(headers[name])})


def test_the_window_is_ten_seconds_back_and_two_forward_to_the_nanosecond() -> None:
    assert verify(signed(nonce_ns=NOW_NS - 10_000_000_000))
    assert verify(signed(nonce_ns=NOW_NS + 2_000_000_000))
    for nonce_ns in (NOW_NS - 10_000_000_001, NOW_NS + 2_000_000_001):
        with pytest.raises(StaleRequest):
            verify(signed(nonce_ns=nonce_ns))


def test_another_receiver_refuses_it() -> None:
    with pytest.raises(WrongReceiver):
        verify(signed(), own_hotkey=Hotkey(EVE.ss58_address))
    relabelled = signed() | {RECEIVER: EVE.ss58_address}
    with pytest.raises(BadSignature):
        verify(relabelled, own_hotkey=Hotkey(EVE.ss58_address))


def test_a_replay_is_refused_even_with_a_fresh_signature_over_the_same_text() -> None:
    nonces = NonceStore(started_ns=0)
    first, second = signed(), signed()
    assert first[SIGNATURE] != second[SIGNATURE]  # sr25519 is randomised
    verify(first, nonces=nonces)
    for again in (first, second):
        with pytest.raises(ReplayedRequest):
            verify(again, nonces=nonces)


def test_a_nonce_is_not_spent_by_a_forger() -> None:
    nonces = NonceStore(started_ns=0)
    forged = signed() | {SIGNATURE: "0x" + EVE.sign(b"").hex()}
    with pytest.raises(BadSignature):
        verify(forged, nonces=nonces)
    assert len(nonces) == 0
    assert verify(signed(), nonces=nonces)


def test_a_signature_over_the_wrapped_text_is_refused() -> None:
    text = signed_text("POST", "/v1/step", b"x", NOW_NS, Hotkey(ALICE.ss58_address), BOB_HOTKEY)
    wrapped = "0x" + ALICE.sign(b"<Bytes>" + text + b"</Bytes>").hex()
    with pytest.raises(BadSignature):
        verify(signed() | {SIGNATURE: wrapped})


@given(data=st.data())
def test_a_receipt_binds_status_request_body_responder_and_caller(data: st.DataObject) -> None:
    alice = Hotkey(ALICE.ss58_address)
    receipt = sign_receipt(BOB, 200, b"q" * 32, b"b" * 32, alice)
    good: list[Any] = [receipt, 200, b"q" * 32, b"b" * 32, BOB_HOTKEY, alice]
    verify_receipt(*good)
    eve = Hotkey(EVE.ss58_address)
    bad = data.draw(
        st.sampled_from([(1, 409), (2, b"r" * 32), (3, b"c" * 32), (4, eve), (4, alice), (5, eve)])
    )
    with pytest.raises(BadSignature):
        verify_receipt(*[bad[1] if i == bad[0] else value for i, value in enumerate(good)])
    digit = data.draw(st.integers(2, 129))
    flipped = receipt[:digit] + ("0" if receipt[digit] != "0" else "1") + receipt[digit + 1 :]
    with pytest.raises(BadSignature):
        verify_receipt(flipped, *good[1:])


@pytest.mark.parametrize("receipt", ["", "0x", "0x" + "0" * 127, "00" * 64, "0x" + "G" * 128])
def test_a_missing_or_malformed_receipt_is_refused(receipt: str) -> None:
    with pytest.raises(MalformedAuth):
        verify_receipt(receipt, 200, bytes(32), bytes(32), BOB_HOTKEY, BOB_HOTKEY)


def test_a_request_signature_is_no_receipt_and_the_other_way_round() -> None:
    with pytest.raises(BadSignature):
        verify_receipt(
            signed()[SIGNATURE], 200, bytes(32), bytes(32), Hotkey(ALICE.ss58_address), BOB_HOTKEY
        )


@given(st.text(max_size=60))
def test_no_text_but_an_address_is_an_address(text: str) -> None:
    with pytest.raises(MalformedAuth):
        public_key(Hotkey(text))


@pytest.mark.parametrize("prefix", [bytes([42]), bytes([0x40 | 42 >> 2, (42 & 3) << 6])])
@pytest.mark.parametrize("key_bytes", [31, 32, 33])
def test_an_address_has_one_spelling(prefix: bytes, key_bytes: int) -> None:
    """The two-byte form of prefix 42 and keys of other lengths have valid checksums, too."""
    payload = prefix + bytes(range(1, key_bytes + 1))
    checksum = hashlib.blake2b(b"SS58PRE" + payload).digest()[:2]
    address = Hotkey(base58.b58encode(payload + checksum).decode())
    if (len(prefix), key_bytes) == (1, 32):
        assert public_key(address) == payload[1:]
    else:
        with pytest.raises(MalformedAuth):
            public_key(address)


def test_an_address_is_its_public_key() -> None:
    assert public_key(BOB_HOTKEY) == BOB.public_key
