"""What is drafted for one stream of the mixture, and the law of its last member beside the
experts'.

The student drafts, and is the last member. Where there is none, or it does not answer, the last
member is the baseline, and the heaviest expert drafts: with its answer come some tokens that it
would go on with. The first of them guesses the token after the block, which is drawn without it;
if that is the one, the others are the next draft."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from moesubnet.errors import EngineError
from moesubnet.mixture.draft_length import MOST_LOST_DRAFTS, DraftLength
from moesubnet.mixture.drafting import Draft
from moesubnet.mixture.gate import BASELINE_MEMBER
from moesubnet.mixture.guessing import Guessing, GuessPace
from moesubnet.mixture.law import Law
from moesubnet.router.ahead import ahead_for
from moesubnet.router.model import STUDENT, Drawing, TokenIds
from moesubnet.router.student import StudentBeside
from moesubnet.wire.ahead import Ahead

PATIENCE_S = 1.0  # with the student, for a draft and once the experts have answered

log = logging.getLogger(__name__)
_Laws = asyncio.Task[list[Law] | None]


class Drafting:
    """A student that fails once is left alone by this stream. Drafts that were not kept come to
    no more than MOST_LOST_DRAFTS for each token that the stream was to write."""

    def __init__(self, student: StudentBeside | None, baseline: Law, unaided: GuessPace) -> None:
        """unaided: of rounds that experts draft for."""
        self._student, self._baseline, self._unaided = student, baseline, unaided
        self._guessing = Guessing(unaided)
        self.length = DraftLength(student.pace.round_s) if student else self._guessing.length
        self._laws: dict[int, Law] = {}  # the student's, by position
        self._spare: int | None = None  # drafts that may still be lost
        self._guess: tuple[int, Sequence[int]] = 0, ()  # an expert's tokens from a position on
        self.ahead = 0  # tokens that an expert was asked to go on with, at most

    def fork(self) -> Drafting:
        """For another stream that goes on from here."""
        student = self._student.fork() if self._student else None
        return Drafting(student, self._baseline, self._unaided)

    async def drafts(self, text_ids: TokenIds, drawing: Drawing) -> Sequence[Draft]:
        """Of the tokens after `text_ids`, whose last one is new; there may be none."""
        most = self.most(drawing)
        if self._student is None:
            return self._guessed(text_ids)[: max(most, 0)]
        count = self.length.choose(most)
        if count == 0:
            return ()
        how = drawing.temperature, drawing.top_p
        try:
            async with asyncio.timeout(PATIENCE_S):
                drafts, laws = await self._student.draft(text_ids, count, *how)
        except (EngineError, TimeoutError) as error:
            self._give_up(str(error) or "it is late")
            return ()
        self._laws = dict(enumerate(laws, len(text_ids)))
        return drafts

    def further(self, drawing: Drawing, drafted: int) -> int:
        """How many tokens the heaviest expert should go on with after the draft."""
        if self._student is not None:
            return 0
        further = self._guessing.further(min(self.most(drawing), drawing.left - drafted - 1))
        self.ahead = max(self.ahead, further)
        return further

    @property
    def rounds(self) -> Counter[tuple[int, bool]]:
        """See `Guessing`."""
        return self._guessing.rounds

    def heard(self, text_ids: TokenIds, further: Sequence[int]) -> None:
        """What it would go on with after these ids, the whole block."""
        self._guess = len(text_ids), further

    def took(self, drafted: int, seconds: float) -> None:
        """How long the round was, drafting included."""
        if self._student is not None:
            self._student.pace.took(drafted, seconds)
        else:
            self._guessing.took(seconds)

    def lost(self, drafts: int) -> None:
        """So many were not kept."""
        self._spare = max(0, (self._spare or 0) - drafts)

    def alone(self, drawing: Drawing, drafted: int, within_s: float) -> Ahead | None:
        """What the one expert that writes should draw after the draft."""
        self.most(drawing)
        return ahead_for(drawing, drafted, (self._spare or 0) - drafted, self.length, within_s)

    def most(self, drawing: Drawing) -> int:
        """How many tokens may be drafted now, whoever drafts them."""
        if drawing.left == 0:
            return 0
        if self._spare is None:
            self._spare = MOST_LOST_DRAFTS * drawing.left
        return min(drawing.left - 1, self._spare)

    def _guessed(self, text_ids: TokenIds) -> list[Draft]:
        at, tokens = self._guess
        if not tokens or at != len(text_ids) - 1:  # a draft was not kept
            return []
        is_right = tokens[0] == int(text_ids[-1])
        self.length.drafted(0.0, kept=is_right)
        return [Draft(token_id) for token_id in tokens[1:]] if is_right else []

    def begin(self, text_ids: TokenIds, first: int) -> _Laws | None:
        """Ask for the student's laws of the positions `first` … len(text_ids), where there is one;
        see `bases`."""
        if self._student is None:
            return None
        return asyncio.create_task(self._read(self._student, text_ids, first))

    async def bases(self, reading: _Laws | None, count: int) -> tuple[str, Sequence[Law]]:
        """What `begin` asked for, once the experts have answered: the last member and its laws."""
        if reading is not None:
            await asyncio.wait([reading], timeout=PATIENCE_S)
            if not reading.done():
                self._give_up("it is late")
            elif laws := reading.result():
                return STUDENT, laws
        return BASELINE_MEMBER, [self._baseline] * count

    def close(self) -> None:
        if self._student is not None:
            self._student.close()

    async def _read(
        self, student: StudentBeside, text_ids: TokenIds, first: int
    ) -> list[Law] | None:
        known, self._laws = self._laws, {}
        laws = []
        while first <= len(text_ids) and first in known:
            laws.append(known[first])
            first += 1
        if first > len(text_ids):
            return laws
        try:
            return laws + await student.laws(np.asarray(text_ids, np.uint32), first)
        except EngineError as error:
            self._give_up(str(error))
            return None

    def _give_up(self, why: str) -> None:
        if self._student is not None:
            log.warning("a stream goes on without the student: %s", why)
            self._student, self.length = None, self._guessing.length
