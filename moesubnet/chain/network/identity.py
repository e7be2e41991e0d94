"""Who a node is: its three keys, as files that the node reads.

A validator signs blocks with its Aura key and finality votes with its GRANDPA key; both stand in
its keystore. Its network key names it among peers. All are ed25519.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from nacl.signing import SigningKey

SEED_BYTES = 32
AURA, GRANDPA = b"aura", b"gran"  # key types of a Substrate keystore
NODE_KEY_FILE = "node-key"

# libp2p's peer id of an ed25519 key: a multihash (identity, 36 bytes) of its protobuf.
_PEER_ID_PREFIX = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))


@dataclass(frozen=True, slots=True)
class Identity:
    """Seeds of a node, 32 bytes each."""

    aura: bytes
    grandpa: bytes
    network: bytes

    @classmethod
    def new(cls) -> Identity:
        return cls(*(secrets.token_bytes(SEED_BYTES) for _ in range(3)))

    @property
    def peer_id(self) -> str:
        """What others put after `/p2p/` to reach this node and no other."""
        import base58

        return base58.b58encode(_PEER_ID_PREFIX + public_key(self.network)).decode()

    def save(self, base_path: Path, chain_id: str) -> None:
        """Write keystore and network key below a node's base path, readable by its user alone."""
        keystore = _keystore(base_path, chain_id)
        keystore.mkdir(parents=True, exist_ok=True, mode=0o700)
        for kind, seed in ((AURA, self.aura), (GRANDPA, self.grandpa)):
            name = (kind + public_key(seed)).hex()
            _write_private(keystore / name, json.dumps(f"0x{seed.hex()}"))
        _write_private(base_path / NODE_KEY_FILE, self.network.hex())


def public_key(seed: bytes) -> bytes:
    """The ed25519 public key of a seed, 32 bytes."""
    return bytes(SigningKey(seed).verify_key)


def _keystore(base_path: Path, chain_id: str) -> Path:
    return base_path / "chains" / chain_id / "keystore"


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
