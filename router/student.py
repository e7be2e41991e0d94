"""The distilled student, an engine in a child process: a model of its own, and beside each stream
of the mixture a member of it that drafts."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping

import numpy as np

from moesubnet.engine.base import Query
from moesubnet.engine.drafting import Continuation
from moesubnet.engine.worker import EngineProcess
from moesubnet.mixture.draft_length import Pace
from moesubnet.mixture.drafting import Draft, Drawn
from moesubnet.mixture.law import Law, alone, law_of
from moesubnet.router.model import ALONE, Drawing, Forecast, TokenIds
from moesubnet.router.openai_api import JsonObject
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import Proof, StepRows, Want, want_for
from moesubnet.wire.step import MAX_FULL_VOCAB, NUCLEUS_K, NUCLEUS_MASS


class StudentModel:
    """Opens one session per stream over an engine that lives in another process.

    `engine` may be replaced at any time; running streams go on with the new one.
    """

    def __init__(self, engine: EngineProcess, baseline: Law | None = None) -> None:
        """baseline: shapes what its laws leave out of a large vocabulary."""
        self.engine, self.baseline = engine, baseline
        self.pace = Pace()  # of rounds that it drafts for

    def open(self) -> StudentSession:
        return StudentSession(self)

    def beside(self, baseline: Law) -> StudentBeside:
        return StudentBeside(self, baseline)

    def dearest_rao_per_mtoken(self) -> int:
        return 0  # it runs here and nobody else is asked

    def table(self) -> list[JsonObject]:
        return []


class StudentSession:
    """One stream. The engine's cache is keyed by the session and dropped at the end."""

    def __init__(self, model: StudentModel) -> None:
        self._model = model
        self._session = secrets.token_hex(16)
        self._ids: TokenIds = np.empty(0, np.uint32)
        self.waited_s = 0.0

    async def start(self, prompt_ids: TokenIds, drawing: Drawing = ALONE) -> Forecast:
        self._ids = np.asarray(prompt_ids, np.uint32)
        return await self._forecast()

    async def append(self, token_id: int, drawing: Drawing) -> Forecast:
        self._ids = np.append(self._ids, np.uint32(token_id))
        return await self._forecast()

    async def echo(self, prompt_ids: TokenIds) -> AsyncIterator[Forecast]:
        self._ids = np.asarray(prompt_ids, np.uint32)
        for forecast in await self._forecasts(0):
            yield forecast

    def fork(self) -> StudentSession:
        other = StudentSession(self._model)
        other._ids = self._ids
        return other

    def answered(self) -> Mapping[Hotkey, tuple[int, int]]:
        return {}

    def proofs(self) -> Mapping[Hotkey, Proof]:
        return {}

    def close(self, *, is_over: bool = False) -> None:
        self._model.engine.forget(self._session)

    async def _forecast(self) -> Forecast:
        [forecast] = await self._forecasts(len(self._ids))
        return forecast

    async def _forecasts(self, first: int) -> list[Forecast]:
        query = Query(self._session, self._ids, first=first)
        engine = self._model.engine
        since_s = time.monotonic()
        try:
            [rows] = await engine.rows([query], want_for(engine.vocab_size, committed=False))
        finally:
            self.waited_s += time.monotonic() - since_s
        laws = [law_of(rows, row, self._model.baseline) for row in range(rows.count)]
        return [Forecast(alone(law), {}) for law in laws]


class StudentBeside:
    """The student beside one stream of the mixture. Its laws list what holds nearly all of their
    mass, with a tail in the baseline's proportions; small vocabularies are spelled out again,
    because the experts' laws are."""

    def __init__(self, model: StudentModel, baseline: Law) -> None:
        self._model, self._baseline = model, baseline
        self._session = secrets.token_hex(16)
        self.pace = model.pace

    async def laws(self, ids: TokenIds, first: int) -> list[Law]:
        """Those of the positions `first` … len(ids). Raises EngineError."""
        engine = self._model.engine
        (rows,) = await engine.rows([Query(self._session, ids, first)], self._want)
        return self._laws(rows)

    async def draft(
        self, ids: TokenIds, count: int, temperature: float, top_p: float
    ) -> tuple[list[Draft], list[Law]]:
        """Tokens that may follow, and the law of each. Raises EngineError."""
        query = Query(self._session, ids, len(ids))
        asked = Continuation(count, temperature, top_p, secrets.randbits(48))
        drafted, rows = await self._model.engine.draft(query, asked, self._want)
        listed = [law_of(rows, place, self._baseline) for place in range(count)]
        drafts = [
            Draft(token_id, Drawn.of(law.logp, law.ids, temperature, top_p))
            for token_id, law in zip(drafted.tolist(), listed, strict=True)
        ]
        return drafts, self._laws(rows)

    def fork(self) -> StudentBeside:
        return StudentBeside(self._model, self._baseline)

    def close(self) -> None:
        self._model.engine.forget(self._session)

    @property
    def _want(self) -> Want:
        return Want("nucleus", min(NUCLEUS_K, self._model.engine.vocab_size), NUCLEUS_MASS)

    def _laws(self, rows: StepRows) -> list[Law]:
        laws = [law_of(rows, place, self._baseline) for place in range(rows.count)]
        vocab_size = self._model.engine.vocab_size
        if vocab_size > MAX_FULL_VOCAB:
            return laws
        every = np.arange(vocab_size)
        return [Law(law.at(every).astype(np.float32)) for law in laws]
