"""What a validator must not forget, in SQLite. Every method is one transaction, on disk when it
returns, so the process may die between any two of them.

Order is what makes that safe: text is marked used before it is sent, an answer is stored before
its label is sent, and a vote is stored with its salt before it is committed on chain.

Steps and sheets are megabytes, so what stores or reads them has a connection of its own, and an
event loop lets a thread do it (`State.apart`).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from moesubnet.errors import ConfigError
from moesubnet.host.paths import held_alone, own_file
from moesubnet.mixture.sheet import Sheet
from moesubnet.types import BlockNumber, Hotkey
from moesubnet.validator.answers import AnswerFiles, kept_epochs
from moesubnet.validator.archive import LAYOUT, SERVED_SHEETS, Archive
from moesubnet.validator.receipts import RECORD, SALT_BYTES, session_name
from moesubnet.validator.records import SENDER, Batch, Merit, Phase, Step, Vote, Window

_FORGET_EARLIER_LAYOUT = f"""
BEGIN;
DROP TABLE IF EXISTS batch; DROP TABLE IF EXISTS step; DROP TABLE IF EXISTS vote;
DROP TABLE IF EXISTS answer;
PRAGMA user_version = {LAYOUT};
COMMIT;
"""
WAIT_S = 60.0  # at most, for the other connection
_P = ParamSpec("_P")
_T = TypeVar("_T")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS owner (name TEXT);
CREATE TABLE IF NOT EXISTS used (
    document BLOB, start INTEGER, spec TEXT, PRIMARY KEY (document, start)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch (
    id INTEGER PRIMARY KEY, epoch INTEGER, hotkeys TEXT, walks BLOB, sessions TEXT, salts BLOB);
CREATE TABLE IF NOT EXISTS step (
    batch INTEGER, position INTEGER, log_q BLOB, log_w BLOB, entropy BLOB, chosen BLOB,
    took_100us BLOB, senders BLOB, records BLOB,
    epoch INTEGER, PRIMARY KEY (batch, position));
DROP TABLE IF EXISTS answer;
CREATE TABLE IF NOT EXISTS score (hotkey TEXT PRIMARY KEY, ema_nano INTEGER);
CREATE TABLE IF NOT EXISTS merit (hotkey TEXT PRIMARY KEY, novelty_ppm INTEGER, since INTEGER);
CREATE TABLE IF NOT EXISTS vote (
    epoch INTEGER PRIMARY KEY, sha256 BLOB UNIQUE, sheet BLOB, salt TEXT, phase TEXT,
    submitted_block INTEGER, reveal_epoch INTEGER, receipts BLOB);
"""


_sheet = lru_cache(maxsize=4)(Sheet.from_bytes)  # those that wait are looked at in each block


def only_one(folder: Path) -> AbstractContextManager[None]:
    """Holds a folder for this process. ConfigError while another does: two would vote twice."""
    return held_alone(folder, f"another validator is running on {folder}")


class State:
    """Raises ConfigError when the file is no state of this program."""

    def __init__(self, path: Path) -> None:
        own_file(path)  # it holds text that nobody may know yet
        self._db = sqlite3.connect(path, timeout=WAIT_S)
        self._bulk = sqlite3.connect(path, timeout=WAIT_S, check_same_thread=False)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            for connection in (self._db, self._bulk):
                connection.execute("PRAGMA synchronous = FULL")  # a commit is on disk
            layout = self._db.execute("PRAGMA user_version").fetchone()[0]
            if layout > LAYOUT:
                raise ConfigError(f"{path} was made by a newer version of this program")
            if layout < LAYOUT:
                self._db.executescript(_FORGET_EARLIER_LAYOUT)
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"{path} is not a validator's state: {error}") from error
        self.archive = Archive(path, self._db)
        self._answers = AnswerFiles(path)
        self._used: dict[bytes, set[int]] = {}  # starts by document, whoever cut it
        self._cut_by: dict[bytes, set[str]] = {}  # specs by document
        for document, start, spec in self._db.execute("SELECT document, start, spec FROM used"):
            self._note_used(document, start, spec)

    def claim(self, owner: str, epoch: int) -> None:
        """Tie the state to a chain, subnet and hotkey, now in `epoch`. ConfigError if it cannot be
        theirs: votes would be compared with another chain's epochs."""
        with self._db:
            known = self._db.execute("SELECT name FROM owner").fetchone()
            if known is None:
                self._db.execute("INSERT INTO owner VALUES (?)", (owner,))
        newest = self._db.execute("SELECT coalesce(max(epoch), 0) FROM vote").fetchone()[0]
        if known not in (None, (owner,)) or newest > epoch:
            raise ConfigError(
                "this state was made on another chain, subnet or hotkey, or before the chain "
                "started over: give another --state-dir, and text that was not used there"
            )

    async def apart(self, work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What `work` returns: one of `add_step`, `drop_open`, `open_batches`, `close_epoch` and
        `reopen`, in a thread, in the order in which they are asked for. What has begun comes to its
        end before the next begins, whoever is cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(work, *args, **kwargs))

    def close(self) -> None:
        """When what is under way has ended."""
        self._thread.shutdown()
        self._answers.close()
        self._bulk.close()
        self._db.close()

    # --- text and answers ----------------------------------------------------------------------

    def same_windows(self, spec_sha256: str, tokenizer_sha256: str) -> None:
        """Windows were once remembered by the spec that they were cut under; by its tokenizer they
        stay known when a spec changes that keeps it."""
        with self._db:
            self._db.execute(
                "UPDATE used SET spec = ? WHERE spec = ?", (tokenizer_sha256, spec_sha256)
            )
        for cut_by in self._cut_by.values():
            if spec_sha256 in cut_by:
                cut_by.remove(spec_sha256)
                cut_by.add(tokenizer_sha256)

    def used_starts(self, tokenizer_sha256: str) -> dict[bytes, set[int] | None]:
        """Used starts by document; None for a document cut into windows by another
        tokenizer."""
        ours = {tokenizer_sha256}
        return {
            document: starts if self._cut_by[document] == ours else None
            for document, starts in self._used.items()
        }

    def _note_used(self, document: bytes, start: int, tokenizer_sha256: str) -> None:
        self._used.setdefault(document, set()).add(start)
        self._cut_by.setdefault(document, set()).add(tokenizer_sha256)

    def mark_used(self, windows: Sequence[tuple[bytes, int]], tokenizer_sha256: str) -> None:
        """Use up windows, by document and start, without asking about them."""
        with self._db:
            self._db.executemany(
                "INSERT INTO used VALUES (?, ?, ?)",
                [(document, start, tokenizer_sha256) for document, start in windows],
            )
        for document, start in windows:
            self._note_used(document, start, tokenizer_sha256)

    def start_batch(
        self,
        epoch: int,
        hotkeys: Sequence[Hotkey],
        windows: Sequence[Window],
        tokenizer_sha256: str,
        *,
        validator: Hotkey,
    ) -> Batch:
        """Mark the windows used for ever, and open a batch of the validator's walks over them, all
        of one shape."""
        walks = np.stack([window.ids for window in windows]).astype("<u4")
        salts = tuple(secrets.token_bytes(SALT_BYTES) for _ in windows)
        sessions = tuple(session_name(validator, salt) for salt in salts)
        with self._db:
            self._db.executemany(
                "INSERT INTO used VALUES (?, ?, ?)",
                [(w.document, start, tokenizer_sha256) for w in windows for start in w.starts],
            )
            row = self._db.execute(
                "INSERT INTO batch VALUES (NULL, ?, ?, ?, ?, ?)",
                (
                    epoch,
                    json.dumps(hotkeys),
                    walks.tobytes(),
                    json.dumps(sessions),
                    b"".join(salts),
                ),
            )
        for window in windows:
            for start in window.starts:
                self._note_used(window.document, start, tokenizer_sha256)
        assert row.lastrowid is not None
        first, unscored = windows[0].first, windows[0].unscored
        batch = Batch(row.lastrowid, tuple(hotkeys), walks, first, sessions, (), salts)
        return replace(batch, unscored=unscored)

    def walks_started(self, epoch: int) -> int:
        query = "SELECT coalesce(sum(json_array_length(sessions)), 0) FROM batch WHERE epoch = ?"
        return int(self._db.execute(query, (epoch,)).fetchone()[0])

    def add_step(self, batch: Batch, step: Step) -> bool:
        """Whether it was stored: not if a sheet was closed since the batch began, which may have
        its text. Answers' bodies are kept apart, for fewer epochs; they are written first, so that
        no step is without its evidence."""
        query = (
            "SELECT epoch, EXISTS (SELECT 1 FROM vote WHERE vote.epoch >= batch.epoch) "
            "FROM batch WHERE id = ?"
        )
        epoch, is_closed = self._bulk.execute(query, (batch.id,)).fetchone()
        if is_closed:
            return False
        self._answers.add(epoch, batch, step)
        with self._bulk:
            self._bulk.execute(
                "INSERT INTO step VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
                (
                    batch.id,
                    step.position,
                    step.log_q.astype("<i4").tobytes(),
                    step.log_w.astype("<i4").tobytes(),
                    step.entropy.astype("<i4").tobytes(),
                    step.chosen.tobytes(),
                    step.took_100us.astype("<u2").tobytes(),
                    step.senders.tobytes(),
                    step.records.tobytes(),
                ),
            )
        return True

    def drop_open(self) -> None:
        """Forget what is in no sheet; its text stays used."""
        with self._bulk:
            self._bulk.execute("DELETE FROM step WHERE epoch IS NULL")
            self._bulk.execute("DELETE FROM batch WHERE id NOT IN (SELECT batch FROM step)")

    def open_batches(self, epoch: int = 2**63 - 1) -> list[Batch]:
        """Batches with steps that are in no sheet yet, oldest first, of those begun for the sheet
        of `epoch` or an earlier one."""
        query = (
            "SELECT DISTINCT id, hotkeys, walks, sessions, salts "
            "FROM batch JOIN step ON batch = id "
            "WHERE step.epoch IS NULL AND batch.epoch <= ? ORDER BY id"
        )
        batches = []
        for identity, hotkeys, walks, names, salt in self._bulk.execute(query, (epoch,)).fetchall():
            keys, sessions = json.loads(hotkeys), tuple(json.loads(names))
            ids = np.frombuffer(walks, "<u4").reshape(len(sessions), -1)
            steps = self._open_steps(identity, len(sessions), len(keys))
            salts = tuple(salt[i : i + SALT_BYTES] for i in range(0, len(salt), SALT_BYTES))
            asked, first = tuple(map(Hotkey, keys)), steps[0].position
            batches.append(Batch(identity, asked, ids, first, sessions, steps, salts))
        return batches

    def _open_steps(self, batch_id: int, count: int, n: int) -> tuple[Step, ...]:
        query = (
            "SELECT position, log_q, log_w, entropy, chosen, took_100us, senders, records "
            "FROM step WHERE batch = ? AND epoch IS NULL ORDER BY position"
        )
        rows = self._bulk.execute(query, (batch_id,))
        return tuple(
            Step(
                position,
                np.frombuffer(log_q, "<i4").reshape(count, n + 1),
                np.frombuffer(log_w, "<i4").reshape(count, n + 1),
                np.frombuffer(entropy, "<i4").reshape(count, n),
                np.frombuffer(chosen, np.uint8).reshape(count, n),
                np.frombuffer(took, "<u2").reshape(count, n),
                np.frombuffer(senders, SENDER).reshape(count, n),
                np.frombuffer(records, RECORD).reshape(count, n),
                (),
            )
            for position, log_q, log_w, entropy, chosen, took, senders, records in rows
        )

    def scores(self) -> dict[Hotkey, int]:
        """Moving averages in nano-nats, by hotkey."""
        return {Hotkey(k): v for k, v in self._db.execute("SELECT hotkey, ema_nano FROM score")}

    def merits(self) -> dict[Hotkey, Merit]:
        """By hotkey, of all that were ever measured."""
        rows = self._db.execute("SELECT hotkey, novelty_ppm, since FROM merit")
        return {Hotkey(hotkey): Merit(novelty, since) for hotkey, novelty, since in rows}

    # --- votes ---------------------------------------------------------------------------------

    def close_epoch(
        self,
        sheet: Sheet,
        salt: Sequence[int],
        phase: Phase,
        batches: Sequence[Batch],
        receipts: bytes,
        reveal_period_epochs: int = 1,
    ) -> None:
        """Store the epoch's sheet and its vote, move the averages, and close the `batches` that it
        was made of: `add_step` takes nothing more of what began by then. Of older ones what nobody
        can ask for any more is forgotten."""
        with self._bulk:
            self._bulk.execute(
                "INSERT INTO vote VALUES (?, ?, ?, ?, ?, NULL, NULL, ?)",
                (sheet.epoch, sheet.sha256, sheet.to_bytes(), json.dumps(salt), phase, receipts),
            )
            self._bulk.executemany(
                "INSERT OR REPLACE INTO score VALUES (?, ?)",
                [
                    (hotkey, average)
                    for hotkey, average in zip(sheet.hotkeys, sheet.ema_after, strict=True)
                    if average is not None
                ],
            )
            self._bulk.executemany(
                "INSERT OR REPLACE INTO merit VALUES (?, ?, ?)",
                zip(sheet.hotkeys, sheet.novelty_after, sheet.since, strict=True),
            )
            self._bulk.executemany(
                "UPDATE step SET epoch = ? WHERE batch = ? AND position = ?",
                [(sheet.epoch, b.id, step.position) for b in batches for step in b.steps],
            )
            self._forget(sheet.epoch, reveal_period_epochs)
        # By the sheet that has the step: one whose close was missed is in a later sheet.
        query = "SELECT DISTINCT batch.epoch FROM batch JOIN step ON batch = id"
        self._answers.keep_only({epoch for (epoch,) in self._bulk.execute(query)})

    def reopen(self, vote: Vote) -> None:
        """Undo `close_epoch` of a vote that is not on chain, for the epoch to be closed again."""
        sheet = vote.sheet
        with self._bulk:
            self._bulk.execute("DELETE FROM vote WHERE epoch = ?", (sheet.epoch,))
            self._bulk.execute("UPDATE step SET epoch = NULL WHERE epoch = ?", (sheet.epoch,))
            for hotkey, before in zip(sheet.hotkeys, sheet.ema_before, strict=True):
                self._bulk.execute("DELETE FROM score WHERE hotkey = ?", (hotkey,))
                if before is not None:
                    self._bulk.execute("INSERT INTO score VALUES (?, ?)", (hotkey, before))
            self._bulk.executemany(
                "INSERT OR REPLACE INTO merit VALUES (?, ?, ?)",
                zip(sheet.hotkeys, sheet.novelty_before, sheet.since_before, strict=True),
            )

    def _forget(self, epoch: int, reveal_period_epochs: int) -> None:
        """Used text is remembered for ever. What was committed keeps its period when the subnet's
        becomes shorter."""
        query = "SELECT max(reveal_epoch - epoch) FROM vote WHERE epoch IN (SELECT epoch FROM step)"
        period = max(self._bulk.execute(query).fetchone()[0] or 0, reveal_period_epochs)
        old = epoch - kept_epochs(period)
        long_ago = min(epoch - 2 * SERVED_SHEETS, old)
        for query, before in (
            ("DELETE FROM vote WHERE epoch <= ?", long_ago),
            ("DELETE FROM step WHERE epoch <= ?", old),
            ("DELETE FROM batch WHERE epoch <= ? AND id NOT IN (SELECT batch FROM step)", old),
        ):
            self._bulk.execute(query, (before,))

    def voted(self, epoch: int) -> bool:
        """Whether this epoch's sheet is closed."""
        query = "SELECT 1 FROM vote WHERE epoch = ?"
        return self._db.execute(query, (epoch,)).fetchone() is not None

    def waiting_votes(self) -> list[Vote]:
        """Votes that are neither revealed nor lost, oldest first."""
        return self._votes("phase IN (?, ?)", Phase.PREPARED, Phase.COMMITTED)

    def fresh_votes(self, epoch: int) -> list[Vote]:
        """Votes that were revealed in this epoch or later: a fork may still take that back."""
        return self._votes(
            "phase = ? AND coalesce(reveal_epoch, epoch) >= ?", Phase.REVEALED, epoch
        )

    def _votes(self, condition: str, *values: int | str) -> list[Vote]:
        query = (
            "SELECT sheet, salt, phase, submitted_block, reveal_epoch FROM vote "
            f"WHERE {condition} ORDER BY epoch"
        )
        return [
            Vote(_sheet(sheet), tuple(json.loads(salt)), Phase(phase), block, reveal)
            for sheet, salt, phase, block, reveal in self._db.execute(query, values).fetchall()
        ]

    def note_submitted(self, vote: Vote, block: BlockNumber) -> None:
        """Before sending, so that a restart waits for it instead of sending twice."""
        self._update_vote(vote, submitted_block=block)

    def note_committed(self, vote: Vote, reveal_epoch: int) -> None:
        self._update_vote(vote, phase=Phase.COMMITTED, reveal_epoch=reveal_epoch)

    def note_reverted(self, vote: Vote, block: BlockNumber) -> None:
        """What was on chain is not any more; as if it had been sent again in `block`, because
        nodes bring reverted transactions back by themselves."""
        self._update_vote(vote, phase=Phase.PREPARED, submitted_block=block, reveal_epoch=None)

    def note_phase(self, vote: Vote, phase: Phase) -> None:
        self._update_vote(vote, phase=phase)

    def _update_vote(self, vote: Vote, **columns: int | str | None) -> None:
        assignments = ", ".join(f"{column} = :{column}" for column in columns)
        with self._db:
            self._db.execute(
                f"UPDATE vote SET {assignments} WHERE epoch = :epoch",
                columns | {"epoch": vote.sheet.epoch},
            )

    def previous_sha256(self) -> bytes:
        """Hash of the last committed sheet, revealed yet or not, or of a plain vote's; 32 zeros if
        there is none."""
        query = (
            "SELECT sha256 FROM vote WHERE phase = ? OR reveal_epoch IS NOT NULL "
            "ORDER BY epoch DESC LIMIT 1"
        )
        row = self._db.execute(query, (Phase.REVEALED,)).fetchone()
        return bytes(row[0]) if row else bytes(32)
