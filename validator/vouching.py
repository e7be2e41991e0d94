"""For whom a validator vouches with its vote: who voted as its sheet says, and whose sheet was
audited and held, both within `VOUCHED_EPOCHS`, and was caught at nothing since then. The chain
hears a vote if more than half of the other voters' stake vouches for it (docs/incentive.md)."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from pathlib import Path

from moesubnet.host.paths import own_file
from moesubnet.types import Hotkey

LOOKS_FILE = "looks.sqlite3"
VOUCHED_EPOCHS = 8  # as long as one look is good for
FRESH_EPOCHS = 4  # whom we looked into so lately need not be drawn
_SCHEMA = """
CREATE TABLE IF NOT EXISTS look (
    hotkey TEXT PRIMARY KEY, voted INTEGER, audited INTEGER, wrong INTEGER);
"""


class Looks:
    """When each other validator was last found right, and wrong, in SQLite beside the state."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(own_file(path))
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def note(
        self,
        epoch: int,
        *,
        voted: Collection[Hotkey] = (),
        audited: Collection[Hotkey] = (),
        wrong: Collection[Hotkey] = (),
    ) -> None:
        """voted: whose vote is its sheet's; audited: whose sheet held; wrong: neither."""
        with self._db:
            for column, hotkeys in (("voted", voted), ("audited", audited), ("wrong", wrong)):
                self._db.executemany(
                    f"INSERT INTO look (hotkey, {column}) VALUES (?, ?) "
                    f"ON CONFLICT (hotkey) DO UPDATE SET {column} = excluded.{column}",
                    [(hotkey, epoch) for hotkey in hotkeys],
                )

    def fresh(self, epoch: int) -> set[Hotkey]:
        """Whose sheets were audited lately."""
        return self._since("audited", epoch - FRESH_EPOCHS)

    def vouched(self, epoch: int) -> set[Hotkey]:
        since = epoch - VOUCHED_EPOCHS
        right = self._since("voted", since) & self._since("audited", since)
        return right - self._since("wrong", since)

    def _since(self, column: str, epoch: int) -> set[Hotkey]:
        rows = self._db.execute(f"SELECT hotkey FROM look WHERE {column} > ?", (epoch,))
        return {Hotkey(hotkey) for (hotkey,) in rows}
