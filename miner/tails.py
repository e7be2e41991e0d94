"""The committed tails of open sessions, until the token that comes next asks for one leaf."""

from __future__ import annotations

from moesubnet.miner.fair import FairStore
from moesubnet.types import Hotkey
from moesubnet.wire.commitment import CommittedTail, proof_bytes

BUDGET_BYTES = 256 << 20  # 490 sessions at V = 262,144
SHOWN_BYTES = 16 << 20


class TailTable:
    """Each session's newest tail, and the last leaf that was shown.

    One token of a tail is shown, so that a law is not read leaf by leaf; the same token again to
    who asks again, also after the next tail.
    """

    def __init__(self, vocab_size: int, budget_bytes: int = BUDGET_BYTES) -> None:
        self._not_there = bytes(proof_bytes(vocab_size))
        self.lost = 0  # asked for and not there: each costs this expert an item
        self._tails: FairStore[tuple[int, CommittedTail]] = FairStore(budget_bytes)
        self._shown: FairStore[tuple[tuple[int, int], bytes]] = FairStore(SHOWN_BYTES)

    def keep(self, caller: Hotkey, session: str, position: int, tail: CommittedTail) -> None:
        """Of the law of `position`, the next that the session may be told."""
        self._tails.put(caller, session, (position, tail), tail.nbytes)

    def show(self, caller: Hotkey, session: str, position: int, token_id: int) -> bytes:
        """The proof of a token under the tail of `position`; zeros where there is none."""
        if shown := self._shown.get(caller, session):
            asked, proof = shown
            if asked == (position, token_id):
                return proof
        held = self._tails.get(caller, session)
        if held is None or held[0] != position:
            self.lost += 1
            return self._not_there
        proof = held[1].open(token_id)
        self._tails.pop(caller, session)
        self._shown.put(caller, session, ((position, token_id), proof), len(proof))
        return proof

    def forget(self, caller: Hotkey, session: str) -> None:
        self._tails.pop(caller, session)
        self._shown.pop(caller, session)
