"""A key, and the row of the database in which it stands.

A secret is shown once, when its key is made; what stands there is only its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from moesubnet.router.accounts import Account, Limits
from moesubnet.router.database import Row

SECRET_PREFIX = "sk-moe-"

COUNTERS = [field.name for field in fields(Account) if field.name != "limits"]
LIMITS = [field.name for field in fields(Limits)]
COLUMNS = ["id", "name", "models", "created_s", "expires_s", "revoked_s", *LIMITS, *COUNTERS]

SCHEMA = f"""CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE, models TEXT,
    created_s BIGINT NOT NULL, expires_s BIGINT, revoked_s BIGINT,
    {", ".join(f"{name} BIGINT" for name in LIMITS)},
    {", ".join(f"{name} BIGINT NOT NULL" for name in COUNTERS)})"""


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret. models: None for all."""

    id: str
    name: str
    models: tuple[str, ...] | None
    created_s: int
    expires_s: int | None
    revoked_s: int | None
    account: Account

    def is_valid(self, now_s: int) -> bool:
        return self.revoked_s is None and (self.expires_s is None or now_s < self.expires_s)


def models_column(models: Sequence[str] | None) -> str | None:
    return None if models is None else json.dumps(list(models))


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def row_of(key: Key) -> list[str | int | None]:
    models = models_column(key.models)
    counters = [getattr(key.account, name) for name in COUNTERS]
    head = [key.id, key.name, models, key.created_s, key.expires_s, key.revoked_s]
    return [*head, *astuple(key.account.limits), *counters]


def read_key(row: Row) -> Key:
    key_id, name, models, created_s, expires_s, revoked_s, *rest = row
    limits = Limits(*rest[: len(LIMITS)])
    return Key(
        key_id,
        name,
        None if models is None else tuple(json.loads(models)),
        created_s,
        expires_s,
        revoked_s,
        Account(limits, *rest[len(LIMITS) :]),
    )
