"""What is remembered of the checks on experts, in SQLite beside the state.

One sequential record for each kind of check: what two callers were told at once, what was said of
drafts and of the same places blind, and replays of open weights.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgpack
import numpy as np

from moesubnet.errors import ConfigError
from moesubnet.host.paths import own_file
from moesubnet.types import Hotkey
from moesubnet.validator.before import Before
from moesubnet.validator.checks import TWICE_DISTANCE, Claim, Record, Replayed, Verdict
from moesubnet.validator.evidence import MAX_PAIRS, Evidence, Said
from moesubnet.wire.protocol import Ids

HELD_EPOCHS = 8  # after which every other prefix is asked again: who changes slowly shows, too
CLAIM_EPOCHS = 50  # what cards said is kept as long as sheets are
FILE = "checks.sqlite3"
Check = Literal["callers", "drafts", "replay"]
TABLES: Mapping[Check, str] = {
    "callers": "record",
    "drafts": "record_drafted",
    "replay": "record_replayed",
}

_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    hotkey TEXT PRIMARY KEY, pairs INTEGER, over INTEGER, below INTEGER, suspicion REAL);
CREATE TABLE IF NOT EXISTS record_drafted (
    hotkey TEXT PRIMARY KEY, pairs INTEGER, over INTEGER, below INTEGER, suspicion REAL);
CREATE TABLE IF NOT EXISTS record_replayed (
    hotkey TEXT PRIMARY KEY, pairs INTEGER, over INTEGER, below INTEGER, suspicion REAL,
    commitment TEXT, epoch INTEGER);
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

    def records(self, check: Check = "callers") -> dict[Hotkey, Record]:
        query = f"SELECT hotkey, pairs, over, below, suspicion FROM {TABLES[check]}"
        return {Hotkey(hotkey): Record(*rest) for hotkey, *rest in self._db.execute(query)}

    def told(self, hotkey: Hotkey) -> dict[Check, dict[str, object]]:
        """What each check says of an expert, where it says anything; for programs."""
        found: dict[Check, dict[str, object]] = {}
        for check in TABLES:
            if (record := self.records(check).get(hotkey)) is not None:
                verdict = str(record.verdict)
                found[check] = {"verdict": verdict, "pairs": record.pairs, "apart": record.over}
        return found

    def _add(self, check: Check, hotkey: Hotkey, record: Record) -> None:
        row = (hotkey, record.pairs, record.over, record.below_in_a_row, record.suspicion)
        into = f"{TABLES[check]} (hotkey, pairs, over, below, suspicion)"
        self._db.execute(f"INSERT OR REPLACE INTO {into} VALUES (?, ?, ?, ?, ?)", row)

    def _named(self, *checks: Check) -> set[Hotkey]:
        """Whom a sequential test of these calls a cheat."""
        records = (item for check in checks for item in self.records(check).items())
        return {hotkey for hotkey, record in records if record.verdict == Verdict.CHEAT}

    def convicted(self) -> set[Hotkey]:
        """Whom a sequential test of pairs calls a cheat, and enough kept pairs show to anybody; and
        whom that of replays does, while its card goes on to offer those weights."""
        named = self._named("callers", "drafts")
        proven = {h for h in named if (found := self.evidence(h)) is not None and found.is_proven}
        replayed = self.replayed()
        return proven | {
            hotkey
            for hotkey in self._named("replay")
            if self.offers(hotkey) == replayed[hotkey].commitment
        }

    def offering(self) -> set[Hotkey]:
        """Whose cards offered their weights when cards were last read."""
        query = (
            "SELECT hotkey FROM claim WHERE url IS NOT NULL AND epoch = "
            "(SELECT max(epoch) FROM claim)"
        )
        return {Hotkey(hotkey) for (hotkey,) in self._db.execute(query)}

    def offers(self, hotkey: Hotkey) -> str | None:
        """The commitment of the weights that its card offers now, as far as was read."""
        said = self.claims(hotkey)[-1:]
        return said[0].commitment if said and said[0].url is not None else None

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

    def note_replay(self, hotkey: Hotkey, found: Replayed, over: Sequence[bool] = ()) -> None:
        """Instead of what an earlier replay found. over: which of its groups of answers were too
        far from these weights, none where that says nothing of the expert. Each epoch's answers
        count once, and under other weights the record begins anew."""
        query = "SELECT epoch FROM record_replayed WHERE hotkey = ? AND commitment = ?"
        known = self._db.execute(query, (hotkey, found.commitment)).fetchone()
        record = self.records("replay")[hotkey] if known else Record()
        counted = known[0] if known else -1
        if over and found.epoch > counted:
            counted = found.epoch
            for is_over in over:
                record = record.after(is_over)
        row = (hotkey, found.epoch, found.commitment, found.rows, found.ratio, found.verdict)
        with self._db:
            self._add("replay", hotkey, record)
            self._db.execute(
                "UPDATE record_replayed SET commitment = ?, epoch = ? WHERE hotkey = ?",
                (found.commitment, counted, hotkey),
            )
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
        self, hotkey: Hotkey, vocab_size: int, pair: Sequence[Said], check: Check = "callers"
    ) -> float:
        """Count two answers to one question; how far they are apart. Raises BadReceipts."""
        [distance] = Evidence(expert=hotkey, vocab_size=vocab_size, pairs=[list(pair)]).distances()
        is_over = distance > TWICE_DISTANCE
        record = self.records(check).get(hotkey, Record()).after(is_over)
        with self._db:
            self._add(check, hotkey, record)
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
