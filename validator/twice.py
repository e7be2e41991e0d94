"""Asking the same twice: one prefix, in one moment, by two callers; and once more in a later epoch.

The text is never published, and no label of it is ever sent: whoever answers callers differently,
or makes fresh noise, cannot tell these prefixes from others.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np

from moesubnet.errors import AuthError, BadReceipts, ConfigError, PeerError, WireError
from moesubnet.host.paths import own_file
from moesubnet.types import Hotkey
from moesubnet.validator.before import Before
from moesubnet.validator.checks import (
    TWICE_DISTANCE,
    Claim,
    Record,
    Replayed,
    Verdict,
    total_variation,
)
from moesubnet.validator.evidence import MAX_PAIRS, Evidence, Said
from moesubnet.wire.panel import Asked
from moesubnet.wire.protocol import Ids, SequenceStep, StepRequest, base_hash, want_for

HELD_EPOCHS = 8  # after which every other prefix is asked again: who changes slowly shows, too
CLAIM_EPOCHS = 50  # what cards said is kept as long as sheets are
AT_ONCE = 64
FILE = "checks.sqlite3"

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    hotkey TEXT PRIMARY KEY, pairs INTEGER, over INTEGER, below INTEGER, suspicion REAL);
CREATE TABLE IF NOT EXISTS record_drafted (
    hotkey TEXT PRIMARY KEY, pairs INTEGER, over INTEGER, below INTEGER, suspicion REAL);
CREATE TABLE IF NOT EXISTS contradiction (
    id INTEGER PRIMARY KEY, hotkey TEXT, vocab_size INTEGER, one BLOB, other BLOB);
DROP TABLE IF EXISTS held;
CREATE TABLE IF NOT EXISTS prefix (
    id INTEGER PRIMARY KEY, epoch INTEGER, windows TEXT, ids BLOB, answers BLOB);
CREATE TABLE IF NOT EXISTS later (
    hotkey TEXT, epoch INTEGER, again INTEGER, distance REAL);
CREATE TABLE IF NOT EXISTS claim (
    hotkey TEXT, epoch INTEGER, commitment TEXT, url TEXT, PRIMARY KEY (hotkey, epoch, commitment));
CREATE TABLE IF NOT EXISTS replay (
    hotkey TEXT PRIMARY KEY, epoch INTEGER, commitment TEXT, rows INTEGER, ratio REAL,
    verdict TEXT);
"""

_TABLES = {False: "record", True: "record_drafted"}


class Checkbook:
    """What is remembered of experts' pairs, and of texts of their own (`before`), in SQLite beside
    the state."""

    def __init__(self, path: Path, own_hotkey: Hotkey) -> None:
        """own_hotkey: who asks where no router does."""
        self.own_hotkey = own_hotkey
        self._db = sqlite3.connect(own_file(path), check_same_thread=False)
        self._db.executescript(_SCHEMA)
        self.before = Before(self._db)

    def close(self) -> None:
        self._db.close()

    @classmethod
    def existing(cls, folder: Path) -> Checkbook:
        """To look at. Raises ConfigError."""
        path = folder / FILE
        if not path.exists():
            raise ConfigError(f"{path} does not exist: no validator has asked anything twice here")
        return cls(path, Hotkey(""))

    def records(self, *, drafted: bool = False) -> dict[Hotkey, Record]:
        """Of pairs of two callers; drafted: of those of which one had been shown the token."""
        query = f"SELECT hotkey, pairs, over, below, suspicion FROM {_TABLES[drafted]}"
        rows = self._db.execute(query)
        return {Hotkey(hotkey): Record(*rest) for hotkey, *rest in rows}

    def convicted(self) -> set[Hotkey]:
        """Whom a sequential test calls a cheat, and enough kept pairs show to anybody; and whose
        last replay does, while its card goes on to offer those weights."""
        records = [*self.records().items(), *self.records(drafted=True).items()]
        named = {hotkey for hotkey, record in records if record.verdict == Verdict.CHEAT}
        proven = {h for h in named if (found := self.evidence(h)) is not None and found.is_proven}
        for hotkey, replayed in self.replayed().items():
            said = self.claims(hotkey)[-1:]
            if replayed.verdict == Verdict.CHEAT and any(
                claim.url is not None and claim.commitment == replayed.commitment for claim in said
            ):
                proven.add(hotkey)
        return proven

    def note_claims(self, claims: Mapping[Hotkey, Claim]) -> None:
        """What the cards of experts say of their weights, as they are asked."""
        rows = [(hotkey, c.epoch, c.commitment, c.url) for hotkey, c in claims.items()]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO claim VALUES (?, ?, ?, ?)", rows)
            if rows:
                self._db.execute("DELETE FROM claim WHERE epoch < ?", (rows[0][1] - CLAIM_EPOCHS,))

    def claims(self, hotkey: Hotkey) -> list[Claim]:
        """The newest last."""
        query = "SELECT epoch, commitment, url FROM claim WHERE hotkey = ? ORDER BY rowid"
        return [Claim(*row) for row in self._db.execute(query, (hotkey,))]

    def note_replay(self, hotkey: Hotkey, found: Replayed) -> None:
        """Instead of what an earlier replay found."""
        row = (hotkey, found.epoch, found.commitment, found.rows, found.ratio, found.verdict)
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO replay VALUES (?, ?, ?, ?, ?, ?)", row)

    def replayed(self) -> dict[Hotkey, Replayed]:
        """The last replay of each open expert that was replayed here."""
        query = "SELECT hotkey, epoch, commitment, rows, ratio, verdict FROM replay"
        return {
            Hotkey(hotkey): Replayed(epoch, commitment, rows, ratio, Verdict(verdict))
            for hotkey, epoch, commitment, rows, ratio, verdict in self._db.execute(query)
        }

    def evidence(self, hotkey: Hotkey) -> Evidence | None:
        """The newest contradictions, if there are any."""
        rows = self._db.execute(
            "SELECT vocab_size, one, other FROM contradiction WHERE hotkey = ? "
            "ORDER BY id DESC LIMIT ?",
            (hotkey, MAX_PAIRS),
        ).fetchall()
        if not rows:
            return None
        pairs = [[_said(one), _said(other)] for size, one, other in rows if size == rows[0][0]]
        return Evidence(expert=hotkey, vocab_size=rows[0][0], pairs=pairs)

    def add_pair(
        self, hotkey: Hotkey, vocab_size: int, pair: Sequence[Said], *, drafted: bool = False
    ) -> float:
        """Count two answers to one question; how far they are apart. Raises BadReceipts."""
        [distance] = Evidence(expert=hotkey, vocab_size=vocab_size, pairs=[list(pair)]).distances()
        is_over = distance > TWICE_DISTANCE
        record = self.records(drafted=drafted).get(hotkey, Record()).after(is_over)
        with self._db:
            self._db.execute(
                f"INSERT OR REPLACE INTO {_TABLES[drafted]} VALUES (?, ?, ?, ?, ?)",
                (hotkey, record.pairs, record.over, record.below_in_a_row, record.suspicion),
            )
            if is_over:
                self._db.execute(
                    "INSERT INTO contradiction VALUES (NULL, ?, ?, ?, ?)",
                    (hotkey, vocab_size, *(msgpack.packb(said.model_dump()) for said in pair)),
                )
                self._db.execute(
                    "DELETE FROM contradiction WHERE hotkey = ?1 AND id NOT IN (SELECT id FROM "
                    "contradiction WHERE hotkey = ?1 ORDER BY id DESC LIMIT ?2)",
                    (hotkey, MAX_PAIRS),
                )
        return distance

    def hold(
        self, epoch: int, windows_sha256: str, ids: Ids, answers: Mapping[Hotkey, Said]
    ) -> None:
        packed = msgpack.packb({h: said.model_dump() for h, said in answers.items()})
        with self._db:
            self._db.execute(
                "INSERT INTO prefix VALUES (NULL, ?, ?, ?, ?)",
                (epoch, windows_sha256, np.asarray(ids, "<u4").tobytes(), packed),
            )
            self._db.execute("DELETE FROM prefix WHERE epoch < ?", (epoch - HELD_EPOCHS,))

    def take_held(
        self, epoch: int, windows_sha256: str
    ) -> tuple[int, Ids, dict[Hotkey, Said]] | None:
        """A prefix of an earlier epoch with what was said then; it is not held any more. One of
        two is due in the next epoch, the other one HELD_EPOCHS later. Of another tokenizer the ids
        are another text: who answers that otherwise has not changed."""
        row = self._db.execute(
            "SELECT id, epoch, ids, answers FROM prefix WHERE windows = ? "
            "AND (epoch < ? AND id % 2 = 0 OR epoch <= ?) ORDER BY id LIMIT 1",
            (windows_sha256, epoch, epoch - HELD_EPOCHS),
        ).fetchone()
        if row is None:
            return None
        with self._db:
            self._db.execute("DELETE FROM prefix WHERE id = ?", (row[0],))
        answers = {Hotkey(h): Said(**said) for h, said in msgpack.unpackb(row[3]).items()}
        return row[1], np.frombuffer(row[2], "<u4"), answers

    def note_later(self, hotkey: Hotkey, epoch: int, again: int, distance: float) -> None:
        with self._db:
            self._db.execute(
                "INSERT INTO later VALUES (?, ?, ?, ?)", (hotkey, epoch, again, distance)
            )

    def changes(self, hotkey: Hotkey) -> list[tuple[int, int, float]]:
        """(epoch, epoch again, distance) of what it was asked again, the newest last. A new model
        is allowed: this gates nobody, it says since when an expert is what it is, so how senior."""
        query = "SELECT epoch, again, distance FROM later WHERE hotkey = ? ORDER BY again"
        return self._db.execute(query, (hotkey,)).fetchall()

    def changed_in(self, epoch: int) -> set[Hotkey]:
        """Who answers most prefixes of an earlier epoch otherwise in `epoch` than it did then, and
        had not changed in between."""
        rows = self._db.execute(
            "SELECT again, hotkey, epoch, 2 * sum(distance > ?) > count(*) FROM later "
            "WHERE again BETWEEN ? AND ? GROUP BY again, hotkey, epoch ORDER BY again",
            (TWICE_DISTANCE, epoch - 2 * HELD_EPOCHS, epoch),
        )
        since: dict[Hotkey, int] = {}
        for again, hotkey, then, is_other in rows:
            if is_other and then >= since.get(Hotkey(hotkey), then):
                since[Hotkey(hotkey)] = again
        return {hotkey for hotkey, again in since.items() if again == epoch}


def _said(packed: bytes) -> Said:
    return Said(**msgpack.unpackb(packed))


async def ask_twice(
    book: Checkbook,
    ways: Sequence[Mapping[Hotkey, Asked]],
    ids: Ids,
    *,
    epoch: int,
    windows_sha256: str,
    vocab_size: int,
    timeout_s: float,
) -> None:
    """One prefix through two ways at once, and a prefix of an earlier epoch through the first.

    windows_sha256: what made ids of the text, as `Spec.windows_sha256`.
    Only pairs of two proven answers count: whoever is silent, or whose router is, fails nothing
    here.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def ask(way: Mapping[Hotkey, Asked], hotkey: Hotkey, prefix: Ids) -> Said | None:
        client = way.get(hotkey)
        if client is None:
            return None
        async with slots:
            return await _ask(client, prefix, book.own_hotkey, vocab_size, timeout_s)

    hotkeys = sorted(ways[0])
    answers = await asyncio.gather(
        *(asyncio.gather(*(ask(way, hotkey, ids) for way in ways)) for hotkey in hotkeys)
    )
    held: dict[Hotkey, Said] = {}
    for hotkey, pair in zip(hotkeys, answers, strict=True):
        given = [said for said in pair if said is not None]
        if given:
            held[hotkey] = given[0]
        if len(given) == len(ways):
            count(book, hotkey, vocab_size, given)
            await asyncio.sleep(0)  # 2 ms each: walks go on between them, and their clocks
    earlier = book.take_held(epoch, windows_sha256)
    book.hold(epoch, windows_sha256, ids, held)
    if earlier is not None:
        then, prefix, before = earlier
        again = sorted(before.keys() & ways[0].keys())
        answered = await asyncio.gather(*(ask(ways[0], hotkey, prefix) for hotkey in again))
        for hotkey, now in zip(again, answered, strict=True):
            if now is None:
                continue
            try:
                [law], [again_law] = (
                    said.laws(hotkey, vocab_size).values() for said in (before[hotkey], now)
                )
            except BadReceipts:
                continue  # of another vocabulary
            book.note_later(hotkey, then, epoch, total_variation(law, again_law))


def count(
    book: Checkbook,
    hotkey: Hotkey,
    vocab_size: int,
    pair: Sequence[Said],
    *,
    drafted: bool = False,
) -> None:
    """A pair, if it is one; logged where it is apart."""
    try:
        distance = book.add_pair(hotkey, vocab_size, pair, drafted=drafted)
    except BadReceipts as error:
        log.info("pair of=%s not counted: %s", hotkey, error)
        return
    if distance > TWICE_DISTANCE:
        how = ", one of them drafted" if drafted else ""
        log.warning("expert %s answers one prefix in two ways%s, %.3f apart", hotkey, how, distance)


async def _ask(
    client: Asked, prefix: Ids, own_hotkey: Hotkey, vocab_size: int, timeout_s: float
) -> Said | None:
    want = want_for(vocab_size)
    want = replace(want, committed=want.committed and client.commits)
    step = SequenceStep(secrets.token_hex(16), 0, base_hash(prefix[:0]), prefix)
    request = StepRequest((step,), want)
    try:
        proof = (await client.step(request, timeout_s=timeout_s)).proof
    except (PeerError, WireError, AuthError):
        return None
    if proof is None:  # no wire, nothing signed
        return None
    return Said(
        sender=proof.sender or own_hotkey,
        nonce_ns=proof.nonce_ns,
        receipt=bytes(proof.receipt),
        request=request.to_bytes(),
        body=bytes(proof.body),
    )
