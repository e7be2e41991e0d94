"""The chain on disk: one SQLite file in WAL mode, one transaction per block.

`state` is the newest state, flat. `undo` holds, for each of the last HISTORY_BLOCKS blocks, the
values that it overwrote: walking it backwards gives older states. A process killed at any moment
leaves whole blocks. The file is locked against a second process and confined to one thread.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from moesubnet.chain.devchain.header import Block, Header, decode_extrinsics, encode_extrinsics
from moesubnet.chain.devchain.scale import Reader, option, vec
from moesubnet.chain.devchain.trie import Changes
from moesubnet.errors import ChainError, ConfigError

HISTORY_BLOCKS = 4096
_FORMAT = "1"
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE blocks (
    number INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE,
    header BLOB NOT NULL, extrinsics BLOB NOT NULL
);
CREATE TABLE state (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE undo (number INTEGER PRIMARY KEY, changes BLOB NOT NULL);
"""


class Store:
    """Blocks and state under `directory`, which belongs to one preset and one genesis runtime."""

    def __init__(self, directory: Path, fresh: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "chain.sqlite"
        if fresh and self.path.exists():
            self._open_db().close()  # not while another process has it
            for file in directory.glob(f"{self.path.name}*"):
                file.unlink()
        self._db = self._open_db()

    def _open_db(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, timeout=1.0)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("BEGIN IMMEDIATE")
            if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
            db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            db.close()
            if "locked" in str(error):
                raise ConfigError(f"{self.path} is in use by another process") from error
            raise ConfigError(
                f"{self.path} is not a chain ({error}): delete it, or name another --base-path"
            ) from error
        return db

    def close(self) -> None:
        self._db.close()

    def check(self, preset: str, runtime_sha256: str) -> bool:
        """Whether a chain is stored here; raises ConfigError if it is not of this kind."""
        stored = dict(self._db.execute("SELECT name, value FROM meta"))
        if not stored:
            return False
        wanted = {"format": _FORMAT, "preset": preset, "runtime": runtime_sha256}
        for name, value in wanted.items():
            if stored.get(name) != value:
                raise ConfigError(
                    f"{self.path} holds a chain made with another {name} "
                    f"({stored.get(name, 'none')[:16]}, not {value[:16]}): start over with "
                    "--fresh, or keep it and name another --base-path"
                )
        return True

    def create(self, preset: str, runtime_sha256: str, genesis: Block, state: Changes) -> None:
        """Write block zero into an empty store."""
        meta = {"format": _FORMAT, "preset": preset, "runtime": runtime_sha256}
        with self._transaction():
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            self._insert(genesis, state)

    def append(self, block: Block, changes: Changes, undo: Changes) -> None:
        """Write the next block, what it changed, and what was there before."""
        encoded = b"".join(vec(key) + option(value) for key, value in undo.items())
        with self._transaction():
            self._insert(block, changes)
            self._db.execute("INSERT INTO undo VALUES (?, ?)", (block.number, encoded))
            self._db.execute("DELETE FROM undo WHERE number <= ?", (block.number - HISTORY_BLOCKS,))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. Raises ChainError when the disk does not take it."""
        try:
            self._db.execute("BEGIN")
            yield
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise ChainError(
                f"{self.path} cannot be written ({error}): make room on its disk, start again"
            ) from error
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _insert(self, block: Block, changes: Changes) -> None:
        row = (block.number, block.hash, block.header.encode(), encode_extrinsics(block.extrinsics))
        self._db.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", row)
        self._write(changes)

    def _write(self, changes: Changes) -> None:
        """Apply changes to the flat state."""
        written = [(key, value) for key, value in changes.items() if value is not None]
        self._db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", written)
        deleted = [(key,) for key, value in changes.items() if value is None]
        self._db.executemany("DELETE FROM state WHERE key = ?", deleted)

    def rewind(self, number: int) -> None:
        """Go back to the state after block `number`, whose undo log must reach so far."""
        with self._transaction():
            for above in range(self.head().number, number, -1):
                self._write(self.undo(above) or {})
                self._db.execute("DELETE FROM undo WHERE number = ?", (above,))
                self._db.execute("DELETE FROM blocks WHERE number = ?", (above,))

    def head(self) -> Block:
        return self._one("ORDER BY number DESC LIMIT 1") or _unreachable()

    def block(self, block_hash: bytes) -> Block | None:
        return self._one("WHERE hash = ?", block_hash)

    def block_at(self, number: int) -> Block | None:
        return self._one("WHERE number = ?", number)

    def _one(self, where: str, *values: bytes | int) -> Block | None:
        query = f"SELECT hash, header, extrinsics FROM blocks {where}"
        row = self._db.execute(query, values).fetchone()
        return row and Block(row[0], Header.decode(row[1]), decode_extrinsics(row[2]))

    def state(self) -> Iterator[tuple[bytes, bytes]]:
        """Every pair of the newest state."""
        return self._db.execute("SELECT key, value FROM state")

    def undo(self, number: int) -> Changes | None:
        """Changes that lead from the state after block `number` to the one before it."""
        row = self._db.execute("SELECT changes FROM undo WHERE number = ?", (number,)).fetchone()
        if row is None:
            return None
        reader = Reader(row[0])
        changes: dict[bytes, bytes | None] = {}
        while not reader.at_end:
            key = reader.vec()
            changes[key] = reader.vec() if reader.uint(1) else None
        return changes


def _unreachable() -> Block:
    raise AssertionError("a store that passed `check` has a head")
