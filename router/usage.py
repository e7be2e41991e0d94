"""What this router sees of its experts and its users' texts, epoch by epoch, for validators."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from moesubnet.types import Hotkey, Signer
from moesubnet.wire.step import MAX_FURTHER
from moesubnet.wire.usage import LENGTH_KINDS, MAX_ROWS, ROUND_KINDS, Seen, Usage

KEPT_EPOCHS = 4
RATED_CAPACITY = 20_000  # answers that can still be rated

Outcomes = Mapping[tuple[str, str], int]  # (hotkey, valid | late | busy | failed) → how often
# (prompt | more | later | chat | fork | answer | ahead, kind) → of how many texts;
# (round | asked, kind) → of how many rounds
Lengths = Mapping[tuple[str, int], int]


@dataclass
class _Rated:
    """Whose answer: its key, what it paid, its experts' parts; the rating that it gave."""

    key: str
    rao: int
    parts: Mapping[str, float]
    rating: float | None = None


@dataclass
class UsageBook:
    """Counts since the start are cut into epochs: `turn` when a new one has begun."""

    signer: Signer
    netuid: int
    _epoch: int = -1
    _before: Outcomes = field(default_factory=dict)
    _lengths_before: Lengths = field(default_factory=dict)
    _summaries: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    _answers: OrderedDict[str, _Rated] = field(default_factory=OrderedDict)
    _heard: Counter[str] = field(default_factory=Counter)
    _liked: Counter[str] = field(default_factory=Counter)

    def turn(self, epoch: int, outcomes: Outcomes, lengths: Lengths = MappingProxyType({})) -> None:
        """Sign what was seen in the epoch before, if all of it was."""
        if epoch == self._epoch:
            return
        if self._epoch >= 0:
            summary = self._summary(outcomes, lengths)
            self._summaries[self._epoch] = summary.signed(self.signer)
            while len(self._summaries) > KEPT_EPOCHS:
                self._summaries.popitem(last=False)
        self._epoch, self._before = epoch, dict(outcomes)
        self._lengths_before = dict(lengths)
        self._heard.clear()
        self._liked.clear()

    def summary(self, epoch: int) -> bytes | None:
        return self._summaries.get(epoch)

    def _summary(self, outcomes: Outcomes, lengths: Lengths) -> Usage:
        def since(hotkey: str, *kinds: str) -> int:
            return sum(
                max(0, outcomes.get((hotkey, kind), 0) - self._before.get((hotkey, kind), 0))
                for kind in kinds
            )

        def texts(part: str, kinds: int = LENGTH_KINDS) -> list[int]:
            whole = [(part, kind) for kind in range(kinds)]
            return [lengths.get(key, 0) - self._lengths_before.get(key, 0) for key in whole]

        names = sorted({hotkey for hotkey, _ in outcomes} | self._heard.keys())[:MAX_ROWS]
        rows = [
            Seen(
                name,
                since(name, "valid"),
                since(name, "late", "busy"),
                since(name, "failed"),
                self._heard[name],
                self._liked[name],
            )
            for name in names
        ]
        return Usage(
            netuid=self.netuid,
            epoch=self._epoch,
            router=Hotkey(self.signer.ss58_address),
            rows=[row for row in rows if any(row[1:])],
            prompts=texts("prompt"),
            more=texts("more"),
            pauses=texts("later"),
            chats=sum(texts("chat", 1)),
            forks=sum(texts("fork", 1)),
            answers=texts("answer"),
            ahead=texts("ahead", MAX_FURTHER + 1),
            rounds=texts("round", ROUND_KINDS),
            asked=texts("asked", ROUND_KINDS),
        )

    # --- ratings -------------------------------------------------------------------------------

    def answered(self, answer_id: str, key: str, rao: int, parts: Mapping[str, float]) -> None:
        """An answer that `key` may rate. parts: each expert's mean weight in it. Of what was
        refused nobody has any, and it must push out no other."""
        if not parts:
            return
        self._answers[answer_id] = _Rated(key, rao, parts)
        while len(self._answers) > RATED_CAPACITY:
            self._answers.popitem(last=False)

    def has(self, answer_id: str, key: str) -> bool:
        """Whether `key` can rate this answer."""
        answer = self._answers.get(answer_id)
        return answer is not None and answer.key == key

    def rate(self, answer_id: str, key: str, rating: float) -> bool:
        """−1 … 1, by who paid for the answer; again replaces. False: no such answer of this key,
        or too long ago."""
        answer = self._answers.get(answer_id)
        if answer is None or answer.key != key:
            return False
        before, answer.rating = answer.rating, rating
        for hotkey, part in answer.parts.items():
            rao = int(answer.rao * part)
            if before is None:
                self._heard[hotkey] += rao
            change = rating - (before or 0.0)
            self._liked[hotkey] = max(
                -self._heard[hotkey],
                min(self._heard[hotkey], self._liked[hotkey] + int(rao * change)),
            )
        return True
