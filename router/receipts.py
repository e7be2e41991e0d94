"""What shows to others that an expert gave the answers that it is owed for: of every request and
expert the last answer's receipt, with what it is owed for all of them.

The last question of a text names a hash of all that came before it, so whoever has the question
shows by the receipt how long a text the expert followed. (Drafts that were not kept are no part of
it: that they were answered is the router's word.) Kept are hashes only, no text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields

from moesubnet.router.database import Transaction, columns
from moesubnet.types import Hotkey
from moesubnet.wire.lanes import verify_step
from moesubnet.wire.protocol import Proof

KEPT_S = 30 * 86_400
OK = 200  # of a step


@dataclass(frozen=True, slots=True)
class Receipt:
    """positions, rao: of one text, answered and owed. Hashes and `receipt` in hex; see
    `lanes.verify_step`."""

    hotkey: Hotkey
    positions: int
    rao: int
    nonce_ns: int
    step_sha256: str
    body_sha256: str
    receipt: str

    @classmethod
    def of(cls, hotkey: Hotkey, positions: int, rao: int, proof: Proof) -> Receipt:
        step, body = (hashlib.sha256(part).hexdigest() for part in (proof.step, proof.body))
        return cls(hotkey, positions, rao, proof.nonce_ns, step, body, proof.receipt.hex())

    def verify(self, router: Hotkey) -> None:
        """Raises MalformedAuth, BadSignature unless the expert signed an answer to this router."""
        step, body, receipt = map(bytes.fromhex, (self.step_sha256, self.body_sha256, self.receipt))
        verify_step(receipt, step, OK, body, self.nonce_ns, self.hotkey, router)


_NAMES = ", ".join(field.name for field in fields(Receipt))
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS receipts (
        hold_id TEXT NOT NULL, router TEXT NOT NULL, at_s BIGINT NOT NULL, hotkey TEXT NOT NULL,
        positions BIGINT NOT NULL, rao BIGINT NOT NULL, nonce_ns BIGINT NOT NULL,
        step_sha256 TEXT NOT NULL, body_sha256 TEXT NOT NULL, receipt TEXT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS receipts_by_time ON receipts (at_s)",
)


def keep(
    transaction: Transaction, hold_id: str, router: Hotkey, now_s: int, receipt: Receipt
) -> None:
    transaction.run(
        f"INSERT INTO receipts (hold_id, router, at_s, {_NAMES}) VALUES ({columns(10)})",
        hold_id,
        router,
        now_s,
        *astuple(receipt),
    )


def kept(transaction: Transaction) -> list[Mapping[str, str | int]]:
    """Oldest first: the receipts with when they came, for which request and to which router."""
    rows = transaction.run(
        f"SELECT at_s, hold_id, router, {_NAMES} FROM receipts ORDER BY at_s, hold_id, hotkey"
    )
    return [
        {"at_s": at_s, "request": hold_id, "router": router} | asdict(Receipt(*rest))
        for at_s, hold_id, router, *rest in rows
    ]


def forget(transaction: Transaction, now_s: int) -> None:
    """What is older than KEPT_S: of that the sums remain."""
    transaction.run("DELETE FROM receipts WHERE at_s <= ?", now_s - KEPT_S)
