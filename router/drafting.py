"""What is drafted for one stream of the mixture, and the law of its last member beside the
experts': the student's, or the baseline's where there is none or it does not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np

from moesubnet.errors import EngineError
from moesubnet.mixture.draft_length import DraftLength, Pace
from moesubnet.mixture.drafting import Draft
from moesubnet.mixture.law import Law
from moesubnet.router.model import Drawing, TokenIds
from moesubnet.router.student import StudentBeside

PATIENCE_S = 1.0  # with the student, for a draft and once the experts have answered

log = logging.getLogger(__name__)
_Laws = asyncio.Task[list[Law] | None]


class Drafting:
    """A student that fails once is left alone by this stream. Drafts that were not kept come to
    no more than the tokens that the stream was to write."""

    def __init__(self, student: StudentBeside | None, baseline: Law) -> None:
        self._student, self._baseline = student, baseline
        self._pace = student.pace if student else Pace()
        self.length = DraftLength(self._pace)
        self._laws: dict[int, Law] = {}  # the student's, by position
        self._spare: int | None = None  # drafts that may still be lost

    def fork(self) -> Drafting:
        """For another stream that goes on from here."""
        return Drafting(self._student.fork() if self._student else None, self._baseline)

    async def drafts(self, text_ids: TokenIds, drawing: Drawing) -> Sequence[Draft]:
        """Of the tokens after `text_ids`; there may be none."""
        if self._student is None or drawing.left < 2:
            return ()
        if self._spare is None:
            self._spare = drawing.left
        count = self.length.choose(min(drawing.left - 1, self._spare))
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

    def took(self, drafted: int, seconds: float) -> None:
        """How long the round was, drafting included."""
        self._pace.took(drafted, seconds)

    def lost(self, drafts: int) -> None:
        """So many were not kept."""
        self._spare = max(0, (self._spare or 0) - drafts)

    def begin(self, text_ids: TokenIds, first: int) -> _Laws:
        """Ask for the student's laws of the positions `first` … len(text_ids); see `bases`."""
        return asyncio.create_task(self._read(text_ids, first))

    async def bases(self, reading: _Laws, count: int) -> Sequence[Law]:
        """What `begin` asked for, once the experts have answered: the last member's laws."""
        await asyncio.wait([reading], timeout=PATIENCE_S)
        if not reading.done():
            self._give_up("it is late")
        return (reading.result() if reading.done() else None) or [self._baseline] * count

    def close(self) -> None:
        if self._student is not None:
            self._student.close()

    async def _read(self, text_ids: TokenIds, first: int) -> list[Law] | None:
        if self._student is None:
            return None
        known, self._laws = self._laws, {}
        laws = []
        while first in known:
            laws.append(known[first])
            first += 1
        try:
            return laws + await self._student.laws(np.asarray(text_ids, np.uint32), first)
        except EngineError as error:
            self._give_up(str(error))
            return None

    def _give_up(self, why: str) -> None:
        if self._student is not None:
            log.warning("a stream goes on without the student: %s", why)
            self._student = None
