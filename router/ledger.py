"""Keys, what they hold and what they used, in a database. Blocking: call it from a thread.

A hold belongs to a router that renews it; one that died renews nothing, and its holds are given
back.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moesubnet.errors import ConfigError
from moesubnet.router import receipts, repeats
from moesubnet.router.accounts import (
    Account,
    Cost,
    Limits,
    Refusal,
    hold,
    settle,
    settle_late,
)
from moesubnet.router.database import Database, Transaction, assignments, columns
from moesubnet.router.keys import (
    COLUMNS,
    COUNTERS,
    SCHEMA,
    SECRET_PREFIX,
    Key,
    digest,
    read_key,
    row_of,
)
from moesubnet.router.receipts import Receipt
from moesubnet.router.repeats import Answer, Clash, Repeatable
from moesubnet.types import Hotkey

HOLD_S = 60  # a hold that is not renewed for so long belongs to a router that is gone

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS holds (
        id TEXT PRIMARY KEY, key_id TEXT NOT NULL, tokens BIGINT NOT NULL, rao BIGINT NOT NULL,
        begun_s BIGINT NOT NULL, expires_s BIGINT NOT NULL, lapsed BIGINT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS holds_by_expiry ON holds (expires_s)",
    # What a key's requests used, a row a day and model; and what experts are owed for it.
    """CREATE TABLE IF NOT EXISTS usage (
        key_id TEXT NOT NULL, day BIGINT NOT NULL, model TEXT NOT NULL, requests BIGINT NOT NULL,
        prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL, rao BIGINT NOT NULL,
        PRIMARY KEY (key_id, day, model))""",
    """CREATE TABLE IF NOT EXISTS owed (
        key_id TEXT NOT NULL, day BIGINT NOT NULL, hotkey TEXT NOT NULL, positions BIGINT NOT NULL,
        rao BIGINT NOT NULL, PRIMARY KEY (key_id, day, hotkey))""",
)
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Hold:
    """The price of a running request's largest answer, taken out of its key's budget."""

    id: str
    key_id: str
    cost: Cost
    begun_s: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request used: what its caller pays, and per expert the positions it answered and
    what it is owed for them."""

    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    rao: int = 0
    owed: Mapping[str, tuple[int, int]] | None = None  # hotkey → (positions, rao)
    receipts: Sequence[Receipt] = ()

    @property
    def cost(self) -> Cost:
        return Cost(self.prompt_tokens + self.completion_tokens, self.rao)


class Ledger:
    """All methods raise StateUnavailable while the database does not answer."""

    def __init__(self, database: Database, router: Hotkey = Hotkey("")) -> None:  # noqa: B008
        """router: whom experts answer here; nobody, where only the books are read."""
        self._database, self._router = database, router
        database.prepare((SCHEMA, repeats.SCHEMA, *receipts.SCHEMA, *_SCHEMA))

    def close(self) -> None:
        self._database.close()

    # -- keys --------------------------------------------------------------------------------

    def new_key(
        self,
        name: str,
        now_s: int,
        *,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        models: Sequence[str] | None = None,
        expires_s: int | None = None,
    ) -> tuple[Key, str]:
        """A key and its secret, which is never shown again. Raises ConfigError for a name that
        is taken."""
        secret = SECRET_PREFIX + secrets.token_urlsafe(32)
        key = Key(
            f"key-{secrets.token_hex(6)}",
            name,
            None if models is None else tuple(models),
            now_s,
            expires_s,
            None,
            Account(limits, period_from_s=now_s),
        )
        with self._database.transaction() as transaction:
            if transaction.run("SELECT id FROM keys WHERE name = ?", name):
                raise ConfigError(f"there is a key named {name!r}; revoke it or take another name")
            row = row_of(key)
            transaction.run(
                f"INSERT INTO keys (digest, {', '.join(COLUMNS)}) VALUES ({columns(len(row) + 1)})",
                digest(secret),
                *row,
            )
        return key, secret

    def keys(self) -> list[Key]:
        with self._database.transaction() as transaction:
            rows = transaction.run(f"SELECT {', '.join(COLUMNS)} FROM keys ORDER BY created_s, id")
        return [read_key(row) for row in rows]

    def key_named(self, name: str) -> Key:
        """By name or id. Raises ConfigError."""
        with self._database.transaction() as transaction:
            return self._named(transaction, name)

    def has_keys(self) -> bool:
        """Whether a key was ever made here, revoked ones included."""
        with self._database.transaction() as transaction:
            return bool(transaction.run("SELECT 1 FROM keys LIMIT 1"))

    def key_of(self, secret: str) -> Key | None:
        """Whose secret it is, revoked and expired keys included."""
        with self._database.transaction() as transaction:
            rows = transaction.run(
                f"SELECT {', '.join(COLUMNS)} FROM keys WHERE digest = ?", digest(secret)
            )
        return read_key(rows[0]) if rows else None

    def limit(self, name: str, changes: Mapping[str, str | int | None]) -> Key:
        """Change some of a key's columns, from its next request on. Raises ConfigError."""
        with self._database.transaction() as transaction:
            key = self._named(transaction, name)
            if changes:
                transaction.run(
                    f"UPDATE keys SET {assignments(list(changes))} WHERE id = ?",
                    *changes.values(),
                    key.id,
                )
            return self._named(transaction, key.id)

    def revoke(self, name: str, now_s: int) -> Key:
        """From now on the key opens nothing; what runs is finished. Raises ConfigError."""
        with self._database.transaction() as transaction:
            key = self._named(transaction, name)
            transaction.run(
                "UPDATE keys SET revoked_s = ? WHERE id = ? AND revoked_s IS NULL", now_s, key.id
            )
            return self._named(transaction, key.id)

    # -- requests ----------------------------------------------------------------------------

    def hold(
        self, key_id: str, cost: Cost, now_s: int, repeatable: Repeatable | None = None
    ) -> tuple[Hold | Refusal | Answer | Clash, Account]:
        """Take the price of a request's largest answer out of its key's budget, or say why not.

        repeatable: what was answered to it already takes nothing.
        """
        with self._database.transaction() as transaction:
            key = self._locked(transaction, key_id)
            if repeatable is not None:
                known = repeats.known(transaction, key_id, repeatable, now_s)
                if known is not None:
                    return known, key.account.at(now_s)
            outcome = hold(key.account, cost, now_s)
            if isinstance(outcome, Refusal):
                return outcome, key.account.at(now_s)
            self._save(transaction, key_id, outcome)
            held = Hold(secrets.token_hex(16), key_id, cost, now_s)
            transaction.run(
                f"INSERT INTO holds VALUES ({columns(7)})",
                held.id,
                key_id,
                cost.tokens,
                cost.rao,
                now_s,
                now_s + HOLD_S,
                0,
            )
            if repeatable is not None:
                repeats.begin(transaction, key_id, repeatable, held.id, now_s)
            return held, outcome

    def renew(self, hold_ids: Sequence[str], now_s: int) -> None:
        """These requests are still running."""
        with self._database.transaction() as transaction:
            for hold_id in hold_ids:
                transaction.run(
                    "UPDATE holds SET expires_s = ? WHERE id = ? AND lapsed = 0",
                    now_s + HOLD_S,
                    hold_id,
                )

    def settle(self, held: Hold, used: Usage, now_s: int, answer: Answer | None = None) -> None:
        """Give the hold back and write down what was used. Safe to repeat until it succeeds.

        answer: kept for whoever asks again under its Idempotency-Key; without, it was not finished
        and may be asked anew.
        """
        with self._database.transaction() as transaction:
            key = self._locked(transaction, held.key_id)
            rows = transaction.run("DELETE FROM holds WHERE id = ? RETURNING lapsed", held.id)
            if not rows:
                return  # an earlier try has done it
            repeats.end(transaction, held.id, answer)
            rao = used.rao
            if rows[0][0]:
                account, paid = settle_late(key.account, used.cost, now_s)
                rao = paid.rao
            else:
                account = settle(key.account, held.cost, used.cost, now_s, begun_s=held.begun_s)
            self._save(transaction, key.id, account)
            day = now_s // DAY_S
            _add(
                transaction,
                "usage",
                (held.key_id, day, used.model),
                ("key_id", "day", "model"),
                requests=1,
                prompt_tokens=used.prompt_tokens,
                completion_tokens=used.completion_tokens,
                rao=rao,
            )
            for hotkey, (positions, owed_rao) in sorted((used.owed or {}).items()):
                _add(
                    transaction,
                    "owed",
                    (held.key_id, day, hotkey),
                    ("key_id", "day", "hotkey"),
                    positions=positions,
                    rao=owed_rao,
                )
            for receipt in used.receipts:
                receipts.keep(transaction, held.id, self._router, now_s, receipt)

    def give_back_expired(self, now_s: int) -> int:
        """Release the holds that nobody renews any more; how many.

        Their rows stay for a day, so that a router that was only cut off can still settle.
        """
        with self._database.transaction() as transaction:
            rows = transaction.run(
                "SELECT id, key_id FROM holds WHERE expires_s <= ? AND lapsed = 0 "
                "ORDER BY key_id, id LIMIT 1000",
                now_s,
            )
            given_back = 0
            for hold_id, key_id in rows:
                key = self._locked(transaction, key_id)
                lapsed = transaction.run(
                    "UPDATE holds SET lapsed = 1 WHERE id = ? AND expires_s <= ? AND lapsed = 0 "
                    "RETURNING tokens, rao, begun_s",
                    hold_id,
                    now_s,
                )
                for tokens, rao, begun_s in lapsed:  # none: renewed or settled a moment ago
                    account = settle(key.account, Cost(tokens, rao), Cost(), now_s, begun_s=begun_s)
                    self._save(transaction, key.id, account)
                given_back += len(lapsed)
            transaction.run("DELETE FROM holds WHERE expires_s <= ?", now_s - DAY_S)
            repeats.forget(transaction, now_s)
            receipts.forget(transaction, now_s)
            return given_back

    # -- reports -----------------------------------------------------------------------------

    def usage(self, key_id: str) -> list[tuple[int, Usage, int]]:
        """(day, usage, requests) of a key by day and model, newest first."""
        with self._database.transaction() as transaction:
            rows = transaction.run(
                "SELECT day, model, requests, prompt_tokens, completion_tokens, rao FROM usage "
                "WHERE key_id = ? ORDER BY day DESC, model",
                key_id,
            )
        return [
            (int(day), Usage(model, int(prompt), int(completion), int(rao)), int(requests))
            for day, model, requests, prompt, completion, rao in rows
        ]

    def owed(self, key_id: str | None = None) -> dict[str, tuple[int, int]]:
        """What each expert answered and is owed in all, or for one key: hotkey → (positions,
        rao)."""
        where, values = ("", ()) if key_id is None else (" WHERE key_id = ?", (key_id,))
        with self._database.transaction() as transaction:
            rows = transaction.run(
                f"SELECT hotkey, SUM(positions), SUM(rao) FROM owed{where} GROUP BY 1", *values
            )
        return {hotkey: (int(positions), int(rao)) for hotkey, positions, rao in rows}

    def receipts(self) -> list[Mapping[str, str | int]]:
        """Of what is owed, as far as they are kept; see `receipts.kept`."""
        with self._database.transaction() as transaction:
            return receipts.kept(transaction)

    # ----------------------------------------------------------------------------------------

    def _named(self, transaction: Transaction, name: str) -> Key:
        rows = transaction.run(
            f"SELECT {', '.join(COLUMNS)} FROM keys WHERE name = ? OR id = ?", name, name
        )
        if not rows:
            raise ConfigError(f"no key {name!r}: `moesubnet router key list` shows them")
        return read_key(rows[0])

    def _locked(self, transaction: Transaction, key_id: str) -> Key:
        rows = transaction.run(
            f"SELECT {', '.join(COLUMNS)} FROM keys WHERE id = ? FOR UPDATE", key_id
        )
        return read_key(rows[0])

    def _save(self, transaction: Transaction, key_id: str, account: Account) -> None:
        values = [getattr(account, name) for name in COUNTERS]
        transaction.run(f"UPDATE keys SET {assignments(COUNTERS)} WHERE id = ?", *values, key_id)


def _add(
    transaction: Transaction,
    table: str,
    key: tuple[str | int, ...],
    key_names: tuple[str, ...],
    **amounts: int,
) -> None:
    """Add to a row's sums; the row comes to be with the first."""
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in amounts)
    transaction.run(
        f"INSERT INTO {table} ({', '.join((*key_names, *amounts))}) "
        f"VALUES ({columns(len(key) + len(amounts))}) "
        f"ON CONFLICT ({', '.join(key_names)}) DO UPDATE SET {sums}",
        *key,
        *amounts.values(),
    )
