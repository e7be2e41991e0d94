"""Looking at what a validator has published or keeps: sheets, what proves them, answers.

Reads the state's file and changes nothing, so it may be used beside a validator that writes.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Set
from pathlib import Path

from moesubnet.errors import ConfigError
from moesubnet.mixture.sheet import Sheet
from moesubnet.types import Hotkey
from moesubnet.validator.answers import read_answers
from moesubnet.validator.receipts import pack_answers
from moesubnet.validator.records import Phase

LAYOUT = 12  # raise when a table but `owner`, `used` or `score`, or the sheet's format, changes
SERVED_SHEETS = 50
# Later sheets name a vote that was committed and never revealed: without it their chain would end.
PUBLIC = f"(phase = '{Phase.REVEALED}' OR phase = '{Phase.LOST}' AND reveal_epoch IS NOT NULL)"


class Archive:
    """Belongs to the thread that made it."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db

    @classmethod
    def open(cls, path: Path) -> Archive:
        """A reader of its own. Raises ConfigError when there is nothing that it could read."""
        try:
            db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
            layout = db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise ConfigError(f"cannot read the state {path}: {error}") from error
        if layout != LAYOUT:
            raise ConfigError(f"{path} is another version's: `moesubnet validator run` renews it")
        return cls(path, db)

    @classmethod
    def used_starts(cls, path: Path, cut_by: Set[str]) -> dict[bytes, set[int] | None]:
        """As `State.used_starts`, whoever of `cut_by` cut the windows."""
        used: dict[bytes, set[int] | None] = {}
        with contextlib.closing(cls.open(path)) as archive:
            rows = archive._db.execute("SELECT document, start, spec FROM used").fetchall()
        for document, start, cutter in rows:
            starts = used.setdefault(document, set())
            if cutter not in cut_by:
                used[document] = None
            elif starts is not None:
                starts.add(start)
        return used

    def close(self) -> None:
        self._db.close()

    def is_public(self, sha256: bytes) -> bool:
        """Whether this is one of the last 50 sheets that are revealed, or can be no more."""
        query = f"SELECT sha256 FROM vote WHERE {PUBLIC} ORDER BY epoch DESC LIMIT ?"
        return (sha256,) in self._db.execute(query, (SERVED_SHEETS,)).fetchall()

    def sheet(self, sha256: bytes) -> bytes | None:
        """A sheet's bytes, public or not."""
        row = self._db.execute("SELECT sheet FROM vote WHERE sha256 = ?", (sha256,)).fetchone()
        return bytes(row[0]) if row else None

    def receipts(self, sha256: bytes) -> bytes | None:
        """What proves a sheet, public or not."""
        query = "SELECT receipts FROM vote WHERE sha256 = ?"
        row = self._db.execute(query, (sha256,)).fetchone()
        return bytes(row[0]) if row and row[0] is not None else None

    def answers(self, sha256: bytes, hotkey: Hotkey) -> bytes | None:
        """An expert's answers to a sheet's items while they are kept, public or not."""
        query = "SELECT epoch, sheet FROM vote WHERE sha256 = ?"
        row = self._db.execute(query, (sha256,)).fetchone()
        if row is None:
            return None
        epoch, items = row[0], len(Sheet.from_bytes(row[1]).walk)
        query = (
            "SELECT id, position, json_array_length(sessions), batch.epoch FROM step "
            "JOIN batch ON batch = id WHERE step.epoch = ? ORDER BY id, position"
        )
        rows = self._db.execute(query, (epoch,)).fetchall()
        kept: dict[tuple[int, int], list[bytes]] = {}
        for begun in {row[3] for row in rows}:
            kept |= read_answers(self.path, begun, hotkey)
        if not any((batch, position) in kept for batch, position, _, _ in rows):
            return None
        bodies: list[bytes] = []
        for batch, position, walks, _ in rows:
            bodies += kept.get((batch, position), [b""] * walks)
        return pack_answers(bodies[len(bodies) - items :])  # a sheet has the newest

    def public_sheets(self) -> list[bytes]:
        """Bytes of the last 50 public sheets, the newest first."""
        query = f"SELECT sheet FROM vote WHERE {PUBLIC} ORDER BY epoch DESC LIMIT ?"
        rows = self._db.execute(query, (SERVED_SHEETS,))
        return [bytes(row[0]) for row in rows]

    def newest_answered(self, hotkey: Hotkey) -> bytes | None:
        """Hash of the last closed sheet that an expert's answers are kept for, public or not."""
        query = (
            "SELECT sha256 FROM vote WHERE epoch IN (SELECT epoch FROM step) ORDER BY epoch DESC"
        )
        hashes = (bytes(row[0]) for row in self._db.execute(query).fetchall())
        return next((digest for digest in hashes if self.answers(digest, hotkey)), None)

    def newest_sheets(self, count: int) -> list[Sheet]:
        """The last closed sheets, published or not, the newest first: for their owner's eyes."""
        query = "SELECT sheet FROM vote ORDER BY epoch DESC LIMIT ?"
        return [Sheet.from_bytes(row[0]) for row in self._db.execute(query, (count,))]
