"""Who sent this: `btauth/1` request signatures and `moesubnet-receipt/1` response receipts.

Requests carry the headers that Bittensor's SDK 11 signs. The verifier is stricter than the
reference one (sr25519 only, canonical values, one value a header) and accepts every official
client. A signature is never an id: sr25519 is randomised, so deduplicate on the signed text.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ParamSpec, TypeVar

import sr25519
from scalecodec.utils.ss58 import ss58_decode

from moesubnet.errors import (
    BadSignature,
    MalformedAuth,
    ReplayedRequest,
    StaleRequest,
    WrongReceiver,
)
from moesubnet.types import Hotkey, Signer
from moesubnet.wire.nonces import MAX_AGE_NS, MAX_SKEW_NS, NonceStore

VERSION = "X-Bittensor-Version"
SENDER = "X-Bittensor-Hotkey"
RECEIVER = "X-Bittensor-Receiver"
NONCE = "X-Bittensor-Nonce"
CRYPTO = "X-Bittensor-Crypto"  # absent means sr25519, the only scheme we speak
SIGNATURE = "X-Bittensor-Signature"
RECEIPT = "X-Moesubnet-Receipt"

_ADDRESS = re.compile(r"[1-9A-HJ-NP-Za-km-z]{47,48}")
_NONCE = re.compile(r"[1-9][0-9]{0,19}")
_SIGNATURE = re.compile(r"0x[0-9a-f]{128}")

OFF_LOOP_BYTES = 2**20

Headers = Mapping[str, str] | Iterable[tuple[str, str]]
_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Claim:
    """What the headers say, well formed but proven by nothing yet."""

    sender: Hotkey
    receiver: Hotkey
    nonce_ns: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Caller:
    """A proven sender. `request_sha256` is of the signed text and names the request."""

    hotkey: Hotkey
    request_sha256: bytes
    nonce_ns: int


def signed_text(
    method: str, target: str, body: bytes, nonce_ns: int, sender: Hotkey, receiver: Hotkey
) -> bytes:
    """The eight lines a request's signature covers. `target`: path and query as on the wire."""
    body_sha256 = hashlib.sha256(body).hexdigest()
    lines = ("btauth/1", "sr25519", method.upper(), target, body_sha256, str(nonce_ns))
    return "\n".join((*lines, sender, receiver)).encode()


def sign_request(
    signer: Signer, method: str, target: str, body: bytes, receiver: Hotkey, nonce_ns: int
) -> dict[str, str]:
    """The headers that prove this request. Use a nonce once, also when the request is repeated."""
    sender = Hotkey(signer.ss58_address)
    text = signed_text(method, target, body, nonce_ns, sender, receiver)
    return {
        VERSION: "1",
        SENDER: sender,
        RECEIVER: receiver,
        NONCE: str(nonce_ns),
        SIGNATURE: "0x" + signer.sign(text).hex(),
    }


def read_claim(headers: Headers, own_hotkey: Hotkey, now_ns: int) -> Claim:
    """The cheap checks, possible before the body is read: shape, receiver, freshness.

    Raises MalformedAuth, WrongReceiver, StaleRequest.
    """
    values = _auth_values(headers)
    if values.get(VERSION) != "1":
        raise MalformedAuth(f"{VERSION} must be 1")
    if CRYPTO in values:
        raise MalformedAuth(f"{CRYPTO} must be absent: only sr25519 is spoken here")
    sender, receiver = values.get(SENDER, ""), values.get(RECEIVER, "")
    nonce, signature = values.get(NONCE, ""), values.get(SIGNATURE, "")
    public_key(Hotkey(sender))
    if not _NONCE.fullmatch(nonce):
        raise MalformedAuth(f"{NONCE} is not a number of nanoseconds")
    if not _SIGNATURE.fullmatch(signature):
        raise MalformedAuth(f"{SIGNATURE} is not 0x and 128 lower-case hex digits")
    if receiver != own_hotkey:
        raise WrongReceiver("signed for another receiver")
    nonce_ns = int(nonce)
    _check_fresh(nonce_ns, now_ns)
    return Claim(Hotkey(sender), own_hotkey, nonce_ns, bytes.fromhex(signature[2:]))


def prove_claim(
    claim: Claim, method: str, target: str, body: bytes, now_ns: int, nonces: NonceStore
) -> Caller:
    """Freshness again (the body may have taken long), then signature, then replay.

    Raises StaleRequest, BadSignature, ReplayedRequest.
    """
    _check_fresh(claim.nonce_ns, now_ns)
    text = signed_text(method, target, body, claim.nonce_ns, claim.sender, claim.receiver)
    check_signature(claim.signature, text, claim.sender)
    if not nonces.add(claim.sender, claim.nonce_ns, now_ns):
        raise ReplayedRequest("this nonce was used before")
    return Caller(claim.sender, hashlib.sha256(text).digest(), claim.nonce_ns)


def receipt_text(
    status: int, request_sha256: bytes, body_sha256: bytes, responder: Hotkey, caller: Hotkey
) -> bytes:
    """The six lines a receipt covers. For a stream the body is all that precedes the receipt."""
    lines = (str(status), request_sha256.hex(), body_sha256.hex(), responder, caller)
    return "\n".join(("moesubnet-receipt/1", *lines)).encode()


def sign_receipt(
    signer: Signer, status: int, request_sha256: bytes, body_sha256: bytes, caller: Hotkey
) -> str:
    """The value of X-Moesubnet-Receipt: this responder gave this answer to this request."""
    responder = Hotkey(signer.ss58_address)
    text = receipt_text(status, request_sha256, body_sha256, responder, caller)
    return "0x" + signer.sign(text).hex()


def verify_receipt(
    receipt: str,
    status: int,
    request_sha256: bytes,
    body_sha256: bytes,
    responder: Hotkey,
    caller: Hotkey,
) -> None:
    """Raises MalformedAuth when it is missing or malformed, BadSignature when it is not theirs."""
    if not _SIGNATURE.fullmatch(receipt):
        raise MalformedAuth("the receipt is missing or malformed")
    text = receipt_text(status, request_sha256, body_sha256, responder, caller)
    check_signature(bytes.fromhex(receipt[2:]), text, responder)


def lane_text(nonce_ns: int, root: bytes, responder: Hotkey, caller: Hotkey) -> bytes:
    """The five lines that the receipt of a lane covers; see lanes.py for what the root is of."""
    lines = ("moesubnet-lane-receipt/1", str(nonce_ns), root.hex(), responder, caller)
    return "\n".join(lines).encode()


def sign_lane(signer: Signer, nonce_ns: int, root: bytes, caller: Hotkey) -> bytes:
    """The 64 bytes of a receipt: this responder gave these answers to the request of this nonce."""
    text = lane_text(nonce_ns, root, Hotkey(signer.ss58_address), caller)
    return bytes(signer.sign(text))


def verify_lane(
    receipt: bytes, nonce_ns: int, root: bytes, responder: Hotkey, caller: Hotkey
) -> None:
    """Raises BadSignature when it is not theirs."""
    _check_once(receipt, lane_text(nonce_ns, root, responder, caller), responder)


async def off_loop(size: int, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What `work` returns; in a thread when so many bytes would hold up the event loop."""
    if size < OFF_LOOP_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


async def sha256_of(body: bytes | bytearray) -> bytes:
    return (await off_loop(len(body), hashlib.sha256, body)).digest()


@lru_cache(maxsize=4096)
def public_key(hotkey: Hotkey) -> bytes:
    """The 32 bytes of an address with prefix 42, of which there is one spelling; MalformedAuth."""
    if not _ADDRESS.fullmatch(hotkey):
        raise MalformedAuth("not an SS58 address")
    try:
        key = bytes.fromhex(ss58_decode(hotkey, valid_ss58_format=42))
    except (ValueError, IndexError):
        raise MalformedAuth("not an SS58 address with prefix 42") from None
    if len(key) != 32:
        raise MalformedAuth("not the SS58 address of a key")
    return key


def _auth_values(headers: Headers) -> dict[str, str]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    names = {name.lower(): name for name in (VERSION, SENDER, RECEIVER, NONCE, CRYPTO, SIGNATURE)}
    values: dict[str, str] = {}
    for name, value in pairs:
        known = names.get(name.lower())
        if known is None:
            continue
        if known in values:
            raise MalformedAuth(f"{known} is repeated")
        values[known] = value
    return values


def _check_fresh(nonce_ns: int, now_ns: int) -> None:
    if now_ns - nonce_ns > MAX_AGE_NS:
        raise StaleRequest("older than 10 s: is the sender's clock right?")
    if nonce_ns - now_ns > MAX_SKEW_NS:
        raise StaleRequest("more than 2 s in the future: is the sender's clock right?")


def check_signature(signature: bytes, text: bytes, signer: Hotkey) -> None:
    """Raises BadSignature, MalformedAuth for an address that is none."""
    try:
        valid = sr25519.verify(signature, text, public_key(signer))
    except ValueError:
        valid = False
    if not valid:
        raise BadSignature("the signature does not verify")


@lru_cache(maxsize=1_024)
def _check_once(signature: bytes, text: bytes, signer: Hotkey) -> None:
    """As `check_signature`; what was proven a moment ago is not proven again."""
    check_signature(signature, text, signer)
