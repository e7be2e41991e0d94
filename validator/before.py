"""What seniors answered before a newcomer came: against who says from a newcomer's first moment on
what that one says.

Such a cuckoo was never apart from the newcomer on text that both were asked, and whatever it was
asked before it can remember. But what it answered then is in our hands. So every expert that has a
place is asked texts of its own (*kept*): it alone, by the validator itself, token by token as in a
walk; no router sees them, nobody else is asked, and none is ever published. While it is like
experts that came later and answer sooner (`cuckoos.watched`), these texts are asked *again*, of it
and many others, by walks like all others that go into no sheet. Beside what the newcomers answer
now stands what the senior answered then, before it could repeat them.

A newcomer that would make an honest senior seem turned has to answer these texts otherwise than
others. It cannot tell them: it, its friends and their routers see a walk, asked of many, like the
others of the same hours, and that hours are counted together is why waiting for better ones does
not help either (`cuckoos.cuckoos`). A senior knows its own texts again. That helps it little: it is
held by what it said to them then, against sheets of other text.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from moesubnet.mixture.gate import Gate
from moesubnet.mixture.sheet import I32, LOG_Q_FLOOR, LOG_Q_UNANSWERED, MICRO, U32, micro_nats
from moesubnet.types import Hotkey
from moesubnet.validator.records import Step, Window
from moesubnet.validator.weighed import Weighed

KEPT_TEXTS = 16  # of an expert, at most
KEPT_EPOCHS = 50  # as long as sheets: who changes little by little is not held to what it was
SPARED = 4  # of so many experts that lack texts one is asked, in each quarter of an epoch
MOST_ASKED = 4  # experts, in each quarter
MOST_AGAIN = 2  # texts of seniors that are like newcomers, in each quarter

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (
    id INTEGER PRIMARY KEY, hotkey TEXT, epoch INTEGER, windows TEXT, first INTEGER,
    unscored INTEGER, ids BLOB, log_q BLOB);
CREATE TABLE IF NOT EXISTS asked_again (
    hotkey TEXT, epoch INTEGER, again INTEGER, hotkeys TEXT, position BLOB, log_q BLOB,
    log_w BLOB);
"""


@dataclass(frozen=True, eq=False)
class Kept:
    """A text that one expert was asked, in `epoch`. ids, first, unscored: as a window's of T
    tokens; log_q: i32 [T − first] micro-nats of its labels, as in a sheet."""

    hotkey: Hotkey
    epoch: int
    ids: U32
    first: int
    log_q: I32
    unscored: int = 0

    @classmethod
    def of(cls, hotkey: Hotkey, epoch: int, window: Window, steps: Sequence[Step]) -> Kept:
        """steps: of a walk that asked nobody else."""
        log_q = np.full(len(window.ids) - window.first, LOG_Q_UNANSWERED, "<i4")
        for step in steps:
            log_q[step.position - window.first] = step.log_q[0, 0]
        return cls(hotkey, epoch, window.ids, window.first, log_q, window.unscored)


@dataclass(frozen=True, eq=False)
class Again:
    """A kept text of `elder`'s, of `epoch`, asked of all in the epoch `again`; M items as in a
    sheet, one walk. log_q, log_w: i32 [M, n + 1]; the elder's column is what it was then, and
    as far as can be from anybody where it was silent."""

    elder: Hotkey
    epoch: int
    again: int
    hotkeys: tuple[Hotkey, ...]
    position: U32
    log_q: I32
    log_w: I32


class Before:
    """Both, in the checkbook's SQLite."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.executescript(_SCHEMA)

    def lacking(
        self, experts: Collection[Hotkey], epoch: int, windows_sha256: str, lots: Random
    ) -> list[Hotkey]:
        """Of these who should be asked a text of its own now: those that have least."""
        with self._db:
            self._db.execute("DELETE FROM kept WHERE epoch < ?", (epoch - KEPT_EPOCHS,))
            self._db.execute("DELETE FROM asked_again WHERE again < ?", (epoch - KEPT_EPOCHS,))
        query = "SELECT hotkey, count(*) FROM kept WHERE windows = ? GROUP BY hotkey"
        has = dict(self._db.execute(query, (windows_sha256,)).fetchall())
        lack = [h for h in lots.sample(sorted(experts), len(experts)) if has.get(h, 0) < KEPT_TEXTS]
        count = min(MOST_ASKED, -(-len(lack) // SPARED))
        return sorted(lack, key=lambda hotkey: has.get(hotkey, 0))[:count]

    def keep(self, text: Kept, windows_sha256: str) -> None:
        """windows_sha256: what made ids of the text, as `Spec.windows_sha256`."""
        ids, log_q = text.ids.astype("<u4").tobytes(), text.log_q.astype("<i4").tobytes()
        row = (text.hotkey, text.epoch, windows_sha256, text.first, text.unscored, ids, log_q)
        with self._db:
            self._db.execute("INSERT INTO kept VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row)

    def take(self, hotkey: Hotkey, before: int, windows_sha256: str) -> Kept | None:
        """Its newest text of an epoch before that one; it is not kept any more."""
        row = self._db.execute(
            "SELECT id, epoch, first, unscored, ids, log_q FROM kept "
            "WHERE hotkey = ? AND epoch < ? AND windows = ? ORDER BY id DESC LIMIT 1",
            (hotkey, before, windows_sha256),
        ).fetchone()
        if row is None:
            return None
        with self._db:
            self._db.execute("DELETE FROM kept WHERE id = ?", row[:1])
        ids, log_q = np.frombuffer(row[4], "<u4"), np.frombuffer(row[5], "<i4")
        return Kept(hotkey, row[1], ids, row[2], log_q, row[3])

    def note(self, found: Again) -> None:
        blobs = (found.position.astype("<u4"), found.log_q.astype("<i4"), found.log_w.astype("<i4"))
        row = (found.elder, found.epoch, found.again, json.dumps(found.hotkeys))
        with self._db:
            self._db.execute(
                "INSERT INTO asked_again VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*row, *(blob.tobytes() for blob in blobs)),
            )

    def again(self) -> list[Again]:
        """All that is remembered, the oldest first."""
        rows = self._db.execute("SELECT * FROM asked_again ORDER BY rowid").fetchall()
        return [_read(*row) for row in rows]

    def forget(self, hotkeys: Iterable[Hotkey]) -> None:
        """Who begins anew was another one before."""
        named = [(hotkey,) for hotkey in hotkeys]
        with self._db:
            for table in ("kept", "asked_again"):
                self._db.executemany(f"DELETE FROM {table} WHERE hotkey = ?", named)


def _read(
    hotkey: str, epoch: int, again: int, hotkeys: str, position: bytes, log_q: bytes, log_w: bytes
) -> Again:
    names = tuple(map(Hotkey, json.loads(hotkeys)))
    shape = (-1, len(names) + 1)
    q, w = (np.frombuffer(blob, "<i4").reshape(shape) for blob in (log_q, log_w))
    return Again(Hotkey(hotkey), epoch, again, names, np.frombuffer(position, "<u4"), q, w)


def beside_then(
    text: Kept, hotkeys: Sequence[Hotkey], steps: Sequence[Step], gate: Gate, again: int
) -> Again | None:
    """steps: of the text's walk, asked of `hotkeys`, n of them. The elder is weighed as it would
    be had it answered as it did then."""
    if not steps or text.hotkey not in hotkeys:
        return None
    elder, n = hotkeys.index(text.hotkey), len(hotkeys)
    serving = {h for h, said in zip(hotkeys, steps[0].log_q[0], strict=False) if _answered(said)}
    weighed = Weighed(gate, text.ids[: text.first], hotkeys, serving | {text.hotkey})
    shown, log_w = text.first, np.empty((len(steps), n + 1))
    log_q = np.concatenate([step.log_q for step in steps])
    log_q[:, elder] = [text.log_q[step.position - text.first] for step in steps]
    for k, step in enumerate(steps):
        if step.position > shown:
            weighed.show(text.ids[shown : step.position])
        shown = step.position + 1
        given = _answered(log_q[k])
        said = np.where(given, log_q[k], log_q[k, -1]) / MICRO
        log_w[k] = weighed.log_weights(given | (np.arange(n + 1) == elder))
        weighed.observe(text.ids[step.position], said, given)
    silent = ~_answered(log_q[:, elder])
    log_q[silent, elder] = round(LOG_Q_FLOOR * MICRO)
    position = np.array([step.position for step in steps], "<u4")
    return Again(text.hotkey, text.epoch, again, tuple(hotkeys), position, log_q, micro_nats(log_w))


def _answered(log_q: I32) -> np.ndarray:
    return np.asarray(log_q > LOG_Q_UNANSWERED)


def texts_to_ask(
    before: Before, watched: Mapping[Hotkey, Sequence[int]], windows_sha256: str, lots: Random
) -> list[Kept]:
    """Of seniors that are like newcomers, by lots; watched: as `cuckoos.watched` says."""
    found: list[Kept] = []
    for hotkey in lots.sample(sorted(watched), len(watched)):
        cuts = watched[hotkey]
        for cut in lots.sample(cuts, len(cuts)):
            if len(found) < MOST_AGAIN and (text := before.take(hotkey, cut, windows_sha256)):
                found.append(text)
                break
    return found
