"""Pending storage changes over a trie, with nested transactions.

This is what the runtime sees as storage while it runs. `changes` is the sum of everything not
rolled back; the trie below is never written.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from enum import Enum
from typing import Final

from moesubnet.chain.devchain.scale import Reader, ScaleError, compact
from moesubnet.chain.devchain.trie import Changes, Trie
from moesubnet.errors import ChainError


class OverlayError(ChainError):
    """The runtime closed a storage transaction that it had not opened."""


class _Absent(Enum):
    ABSENT = 0


_ABSENT: Final = _Absent.ABSENT


class Overlay:
    """Storage of one block, call or genesis under construction. None in `changes` is a deletion."""

    __slots__ = ("_journal", "_marks", "_settled", "_sorted", "base", "changes")

    def __init__(self, base: Trie) -> None:
        self.base = base
        self.changes: dict[bytes, bytes | None] = {}
        self._sorted: list[bytes] = []  # the keys of `changes`
        self._journal: list[tuple[bytes, bytes | _Absent | None]] = []  # what was before
        self._marks: list[int] = []  # journal length at the start of each open transaction
        self._settled: tuple[Changes, Trie] | None = None

    def get(self, key: bytes) -> bytes | None:
        value = self.changes.get(key, _ABSENT)
        return self.base.get(key) if value is _ABSENT else value

    def set(self, key: bytes, value: bytes | None) -> None:
        self._settled = None
        before = self.changes.get(key, _ABSENT)
        if self._marks:
            self._journal.append((key, before))
        if before is _ABSENT:
            insort(self._sorted, key)
        self.changes[key] = value

    def append(self, key: bytes, item: bytes) -> None:
        """Push an encoded item onto the SCALE vector at `key`; anything else there is replaced."""
        value = self.get(key)
        if value:
            try:
                reader = Reader(value)
                count = reader.compact()
                self.set(key, b"".join((compact(count + 1), value[reader.pos :], item)))
                return
            except ScaleError:
                pass
        self.set(key, b"\4" + item)

    def next_key(self, key: bytes) -> bytes | None:
        """The smallest key above `key` that has a value."""
        below = self.base.next_key(key)
        i = bisect_right(self._sorted, key)
        while i < len(self._sorted):
            above = self._sorted[i]
            if below is not None and below < above:
                return below
            if self.changes[above] is not None:
                return above
            if above == below:
                below = self.base.next_key(below)
            i += 1
        return below

    def clear_prefix(self, prefix: bytes, limit: int | None) -> tuple[int, bool]:
        """Delete pending keys under `prefix`, and at most `limit` of the trie's.

        Returns how many were visited and whether all are gone.
        """
        visited = 0
        for key in self._pending(prefix):
            if self.changes[key] is not None:
                visited += 1
            self.set(key, None)
        for loops, (key, _) in enumerate(self.base.items(prefix)):
            if loops == limit:
                return visited, False
            if self.changes.get(key, _ABSENT) is not None:
                self.set(key, None)
            visited += 1
        return visited, True

    def _pending(self, prefix: bytes) -> list[bytes]:
        start = end = bisect_left(self._sorted, prefix)
        while end < len(self._sorted) and self._sorted[end].startswith(prefix):
            end += 1
        return self._sorted[start:end]

    def start_transaction(self) -> None:
        self._marks.append(len(self._journal))

    def commit_transaction(self) -> None:
        """Close the innermost transaction; its writes now belong to the one around it."""
        self._close()
        if not self._marks:
            self._journal.clear()

    def rollback_transaction(self) -> None:
        """Close the innermost transaction and undo its writes."""
        mark = self._close()
        self._settled = None
        while len(self._journal) > mark:
            key, before = self._journal.pop()
            if before is _ABSENT:
                del self.changes[key]
                del self._sorted[bisect_left(self._sorted, key)]
            else:
                self.changes[key] = before

    def _close(self) -> int:
        if not self._marks:
            raise OverlayError("no storage transaction is open")
        return self._marks.pop()

    @property
    def depth(self) -> int:
        """Number of open transactions."""
        return len(self._marks)

    def rollback_to(self, depth: int) -> None:
        """Roll back until `depth` transactions are open: a trap leaves the runtime's own open."""
        while self.depth > depth:
            self.rollback_transaction()

    def delta(self) -> Changes:
        """The changes that differ from the trie below."""
        return self._settle()[0]

    def merged(self) -> Trie:
        """The trie with all changes applied."""
        return self._settle()[1]

    def _settle(self) -> tuple[Changes, Trie]:
        """Delta and merged trie, kept until the next write."""
        if self._settled is None:
            get = self.base.get
            delta = {key: value for key, value in self.changes.items() if get(key) != value}
            self._settled = (delta, self.base.update(delta))
        return self._settled
