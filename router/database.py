"""Where accounts are kept: one SQLite file, or a PostgreSQL server that several routers share.

The statements are the same for both; a transaction holds the rows that it reads `FOR UPDATE`
(SQLite: the whole file) until it ends, so what is decided on a row is written to that row.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from moesubnet.errors import ConfigError, StateUnavailable
from moesubnet.host.paths import own_file

BUSY_TIMEOUT_S = 5.0
_SCHEMA_LOCK = 0x6D6F65  # any number of our own
POSTGRES_SCHEMES = ("postgresql://", "postgres://")

Row = tuple[Any, ...]
Value = str | bytes | int | None


class Transaction(Protocol):
    def run(self, sql: str, *values: Value) -> list[Row]:
        """Rows of one statement, with `?` for values; none where it returns none."""
        ...


class Database(Protocol):
    def transaction(self) -> AbstractContextManager[Transaction]:
        """A context manager with a Transaction, committed at its end and undone by an error.

        Raises StateUnavailable. Thread-safe.
        """
        ...

    def prepare(self, schema: Sequence[str]) -> None:
        """Run statements that make what is missing; safe for many that start at once."""
        ...

    def close(self) -> None: ...


def open_database(state: str | Path) -> Database:
    """`postgresql://…`, or the path of an SQLite file. Raises ConfigError, StateUnavailable."""
    if str(state).startswith(POSTGRES_SCHEMES):
        return Postgres(str(state))
    return Sqlite(Path(state))


class Sqlite:
    """One file in WAL mode; several processes on one machine may share it."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                own_file(path),
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
        except sqlite3.Error as error:
            raise ConfigError(f"cannot keep accounts in {path}: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise StateUnavailable(f"accounts: {error}") from error

    def run(self, sql: str, *values: Value) -> list[Row]:
        return self._connection.execute(sql.replace(" FOR UPDATE", ""), values).fetchall()

    def prepare(self, schema: Sequence[str]) -> None:
        with self.transaction() as transaction:
            for statement in schema:
                transaction.run(statement)

    def close(self) -> None:
        with self._lock:
            self._connection.close()


class Postgres:
    """A pool of connections, each remade when the server has gone."""

    def __init__(self, url: str) -> None:
        try:
            from psycopg_pool import ConnectionPool
        except ImportError as error:
            raise ConfigError(
                "accounts in PostgreSQL need the extra: pip install 'moesubnet[postgres]'"
            ) from error
        self._pool = ConnectionPool(
            url,
            min_size=1,
            max_size=4,
            timeout=BUSY_TIMEOUT_S,
            check=ConnectionPool.check_connection,
            kwargs={"connect_timeout": int(BUSY_TIMEOUT_S)},
            open=True,
        )

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        from psycopg import InterfaceError, OperationalError
        from psycopg_pool import PoolTimeout

        try:
            with self._pool.connection() as connection:
                yield _PostgresTransaction(connection)
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            raise StateUnavailable(f"accounts: {error}") from error

    def prepare(self, schema: Sequence[str]) -> None:
        with self.transaction() as transaction:
            # Even CREATE … IF NOT EXISTS fails when two do it at the same time.
            transaction.run("SELECT pg_advisory_xact_lock(?)", _SCHEMA_LOCK)
            for statement in schema:
                transaction.run(statement)

    def close(self) -> None:
        self._pool.close()


class _PostgresTransaction:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, sql: str, *values: Value) -> list[Row]:
        cursor = self._connection.execute(sql.replace("?", "%s"), values)
        return cursor.fetchall() if cursor.description else []


def columns(count: int) -> str:
    """`?, ?, …`"""
    return ", ".join("?" * count)


def assignments(names: Sequence[str]) -> str:
    """`a = ?, b = ?, …`"""
    return ", ".join(f"{name} = ?" for name in names)
