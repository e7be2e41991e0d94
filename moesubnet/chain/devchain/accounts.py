"""The well-known development accounts, whose keys everyone has."""

from __future__ import annotations

from functools import cache
from hashlib import blake2b

import ed25519_zebra
import sr25519

from moesubnet.chain.devchain.hostfns import twox
from moesubnet.chain.devchain.scale import vec
from moesubnet.chain.devchain.trie import Trie

DEV_NAMES = ("Alice", "Bob", "Charlie", "Dave", "Eve", "Ferdie")
# Seed of the public development phrase that //Alice and the others derive from.
_SEED = bytes.fromhex("fac7959dbfe72f052e5a0c3c8d6530f202b02fd8f9f5ca3580ec8deb7797479e")


@cache
def dev_authority_secrets() -> dict[bytes, bytes]:
    """Secrets of the development authorities (ed25519) by public key."""
    secrets = {}
    for name in DEV_NAMES:
        derived = vec(b"Ed25519HDKD") + _SEED + _junction(name)
        secret = blake2b(derived, digest_size=32).digest()
        secrets[bytes(ed25519_zebra.ed_public_from_secret(secret))] = secret
    return secrets


def funded_dev_accounts(state: Trie) -> list[str]:
    """Names of the development accounts (sr25519) that exist in a state."""
    prefix = twox(b"System", 2) + twox(b"Account", 2)
    return [
        name
        for name in DEV_NAMES
        if state.get(prefix + blake2b(_account(name), digest_size=16).digest() + _account(name))
    ]


def _account(name: str) -> bytes:
    public, secret = sr25519.pair_from_seed(_SEED)
    _, derived, _ = sr25519.hard_derive_keypair((_junction(name), public, secret), b"")
    return bytes(derived)


def _junction(name: str) -> bytes:
    return vec(name.encode()).ljust(32, b"\0")
