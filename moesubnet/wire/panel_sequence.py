"""One text that many experts read: how much of it each holds, and what each has bound itself to.

No input or output: `panel` asks, and tells it what came.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from moesubnet.types import Hotkey
from moesubnet.wire.commitment import Commitment
from moesubnet.wire.protocol import Ids, StepRows


@dataclass(frozen=True, slots=True, eq=False)
class _Bound:
    """An expert's committed law of `position`, the ids that it lists, ascending, and the token that
    came."""

    position: int
    commitment: Commitment
    listed: Ids
    token_id: int = -1

    def lists(self, token_id: int) -> bool:
        place = int(self.listed.searchsorted(self.listed.dtype.type(token_id)))
        return place < len(self.listed) and int(self.listed[place]) == token_id

    @property
    def owes(self) -> bool:
        """The token came, and only a leaf can tell what it was given."""
        return self.token_id >= 0


class PanelSequence:
    """One text: a session's name (at most 64 printable ASCII characters) and its ids so far."""

    def __init__(self, session: str, ids: ArrayLike = ()) -> None:
        self.session = session
        self.ids: Ids = np.array(ids, np.uint32)  # replaced, never changed in place
        self._held: dict[Hotkey, int] = {}
        self._bound: dict[Hotkey, _Bound] = {}
        self._said: dict[Hotkey, tuple[int, float]] = {}
        self._parents: dict[Hotkey, str] = {}  # the session by which an expert knows these ids

    def append(self, ids: ArrayLike) -> None:
        """Whoever committed to the law of the first new token and did not list it owes a leaf."""
        new, end = np.asarray(ids, np.uint32), len(self.ids)
        owing = self.unlisted(int(new[0])) if len(new) else set()
        self.ids = np.concatenate([self.ids, new])
        for hotkey, bound in list(self._bound.items()):
            if hotkey in owing:
                self._bound[hotkey] = replace(bound, token_id=int(new[0]))
                self._said[hotkey] = end, bound.commitment.withheld()
            elif len(new) and bound.position == end:
                del self._bound[hotkey]

    def truncate(self, length: int) -> None:
        """Forget all ids from position `length`; the experts roll back at the next call."""
        self.ids = self.ids[:length]
        self._held = {hotkey: min(held, length) for hotkey, held in self._held.items()}
        self._bound = {h: bound for h, bound in self._bound.items() if bound.position < length}
        self._said = {h: said for h, said in self._said.items() if said[0] < length}

    def fork(self, session: str) -> PanelSequence:
        """The same text under another name; experts are told to go on from what they hold."""
        other = PanelSequence(session, self.ids)
        other._held = self._held.copy()
        other._parents = {hotkey: self.parent_at(hotkey) or self.session for hotkey in self._held}
        return other

    def parent_at(self, hotkey: Hotkey) -> str:
        """The session that this expert holds the ids as, where it is not yet this one's."""
        return self._parents.get(hotkey, "") if self.held_by(hotkey) else ""

    def is_open_at(self, hotkey: Hotkey) -> bool:
        return self.held_by(hotkey) > 0 and hotkey not in self._parents

    def held_by(self, hotkey: Hotkey) -> int:
        """How many of the ids this expert is believed to hold."""
        return self._held.get(hotkey, 0)

    def set_held(self, hotkey: Hotkey, length: int) -> None:
        """What the expert holds as this very session."""
        self._held[hotkey] = min(length, len(self.ids))
        self._parents.pop(hotkey, None)

    def set_missing(self, hotkey: Hotkey, length: int) -> None:
        """The expert says that of what we believed it holds only so many ids."""
        if length < self.held_by(hotkey):
            self.set_held(hotkey, 0 if hotkey in self._parents else length)

    def unlisted(self, token_id: int) -> set[Hotkey]:
        """Who is bound to the law of the next token and would owe a leaf if it is this one."""
        end = len(self.ids)
        return {
            hotkey
            for hotkey, bound in self._bound.items()
            if bound.position == end and not bound.lists(token_id)
        }

    def said(self, hotkey: Hotkey) -> tuple[int, float] | None:
        """The last position whose token this expert was bound to and had not listed, with the
        log-probability that its leaf showed, or that of a withheld one as long as none did."""
        return self._said.get(hotkey)

    def owed(self, hotkey: Hotkey) -> tuple[int, int] | None:
        """(position, token id) that this expert has yet to show."""
        bound = self._bound.get(hotkey)
        return (bound.position, bound.token_id) if bound and bound.owes else None

    def give_up(self, hotkeys: Collection[Hotkey]) -> None:
        """What they owe is withheld for good."""
        self._bound = {h: b for h, b in self._bound.items() if h not in hotkeys or not b.owes}

    def settle(self, hotkey: Hotkey, rows: StepRows) -> None:
        """Take what an answer shows and binds to. Raises BadReveal where what was owed is not
        shown; that is final."""
        bound = self._bound.pop(hotkey, None)
        if rows.proof is not None and bound is not None:
            value = bound.commitment.shown(bound.token_id, rows.proof)
            self._said[hotkey] = bound.position, value
        listed = rows.row(-1)[0] if rows.count else None
        if isinstance(rows.bound, Commitment) and listed is not None:
            position = rows.first + rows.count - 1
            self._bound[hotkey] = _Bound(position, rows.bound, listed)
