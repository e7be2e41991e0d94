"""Requests under an Idempotency-Key, and what was answered to them, kept for a day.

A key's own: `key_id` is a part of every name. What runs inside a transaction here runs under the
lock of that key.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from moesubnet.router.database import Transaction

KEPT_S = 86_400
MAX_REPEATS = 1_000  # answers kept of one key, the newest
# Running while content is NULL.
SCHEMA = """CREATE TABLE IF NOT EXISTS repeats (
    key_id TEXT NOT NULL, name TEXT NOT NULL, request TEXT NOT NULL, hold_id TEXT NOT NULL,
    begun_s BIGINT NOT NULL, content_type TEXT, content TEXT, PRIMARY KEY (key_id, name))"""


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A request under its caller's Idempotency-Key. name, request: SHA-256 of that and of the
    request, in hex."""

    name: str
    request: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, to be repeated."""

    content_type: str
    content: str


class Clash(Enum):
    """Why a request under an Idempotency-Key is not begun."""

    RUNNING = "running"
    OTHER = "other"  # the key was used for another request


def known(
    transaction: Transaction, key_id: str, repeatable: Repeatable, now_s: int
) -> Answer | Clash | None:
    """What became of a request; None if it is new, and then there is a place for it."""
    rows = transaction.run(
        "SELECT request, begun_s, content_type, content, (SELECT COUNT(*) FROM holds "
        "WHERE holds.id = repeats.hold_id AND lapsed = 0) FROM repeats "
        "WHERE key_id = ? AND name = ?",
        key_id,
        repeatable.name,
    )
    for request, begun_s, content_type, content, running in rows:
        is_finished = content is not None
        if begun_s <= now_s - KEPT_S or not (is_finished or running):
            break  # forgotten, or of a router that died
        if request != repeatable.request:
            return Clash.OTHER
        return Answer(content_type, content) if is_finished else Clash.RUNNING
    transaction.run(
        "DELETE FROM repeats WHERE key_id = ? AND (name = ? OR name IN (SELECT name FROM "
        "repeats WHERE key_id = ? ORDER BY begun_s DESC LIMIT 1000 OFFSET ?))",
        key_id,
        repeatable.name,
        key_id,
        MAX_REPEATS - 1,
    )
    return None


def begin(
    transaction: Transaction, key_id: str, repeatable: Repeatable, hold_id: str, now_s: int
) -> None:
    """From now on it is running, for as long as its hold is held."""
    transaction.run(
        "INSERT INTO repeats VALUES (?, ?, ?, ?, ?, NULL, NULL)",
        key_id,
        repeatable.name,
        repeatable.request,
        hold_id,
        now_s,
    )


def end(transaction: Transaction, hold_id: str, answer: Answer | None) -> None:
    """answer: to be repeated; without, it was not finished and may be asked anew."""
    if answer is None:
        transaction.run("DELETE FROM repeats WHERE hold_id = ?", hold_id)
    else:
        transaction.run(
            "UPDATE repeats SET content_type = ?, content = ? WHERE hold_id = ?",
            answer.content_type,
            answer.content,
            hold_id,
        )


def forget(transaction: Transaction, now_s: int) -> None:
    """What is too old to be repeated."""
    transaction.run("DELETE FROM repeats WHERE begun_s <= ?", now_s - KEPT_S)
