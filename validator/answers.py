"""Experts' answers as they came, a file for each epoch: kilobytes a law, needed for a few epochs.

Whole files are removed at once. As rows of one large table they took seconds to delete.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Set
from pathlib import Path

import msgpack

from moesubnet.host.paths import own_file
from moesubnet.types import Hotkey
from moesubnet.validator.records import Batch, Step

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answer (
    batch INTEGER, position INTEGER, hotkey TEXT, bodies BLOB,
    PRIMARY KEY (batch, position, hotkey)) WITHOUT ROWID;
"""


def kept_epochs(reveal_period_epochs: int) -> int:
    """How long answers are kept, in epochs from their sheet's: it is revealed one period later;
    what audits find then stands in sheets that are revealed another one later, and is looked into
    by all in the epoch after that. A law is kilobytes, its record 328 bytes."""
    return 2 * reveal_period_epochs + 2


def answers_path(state_path: Path, epoch: int) -> Path:
    """Where the answers to an epoch's batches are kept."""
    return state_path.with_name(f"answers-{epoch}.sqlite3")


class AnswerFiles:
    """The writer's side, for one thread after the other."""

    def __init__(self, state_path: Path) -> None:
        self._state_path = state_path
        self._epoch = -1
        self._db: sqlite3.Connection | None = None

    def add(self, epoch: int, batch: Batch, step: Step) -> None:
        """On disk when it returns."""
        with self._opened(epoch) as db:
            db.executemany(
                "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?)",
                [
                    (batch.id, step.position, hotkey, msgpack.packb(bodies))
                    for hotkey, bodies in zip(batch.hotkeys, step.bodies, strict=True)
                ],
            )

    def keep_only(self, epochs: Set[int]) -> None:
        """Remove the files of all other epochs."""
        for path in self._state_path.parent.glob("answers-*.sqlite3"):
            number = path.stem.removeprefix("answers-")
            if number.isdecimal() and int(number) not in epochs:
                if int(number) == self._epoch:
                    self.close()
                for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                    name.unlink(missing_ok=True)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db, self._epoch = None, -1

    def _opened(self, epoch: int) -> sqlite3.Connection:
        if self._db is None or epoch != self._epoch:
            self.close()
            path = own_file(answers_path(self._state_path, epoch))
            self._db = sqlite3.connect(path, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
            self._epoch = epoch
        return self._db


def read_answers(
    state_path: Path, epoch: int, hotkey: Hotkey
) -> dict[tuple[int, int], list[bytes]]:
    """By (batch, position) an expert's bodies, one for each walk; empty where none are kept."""
    path = answers_path(state_path, epoch)
    with contextlib.suppress(sqlite3.OperationalError):  # removed, or never made
        reader = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        with contextlib.closing(reader) as db:
            rows = db.execute(
                "SELECT batch, position, bodies FROM answer WHERE hotkey = ?", (hotkey,)
            )
            return {(batch, position): msgpack.unpackb(raw) for batch, position, raw in rows}
    return {}
