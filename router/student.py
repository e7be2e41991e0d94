"""The distilled student as a model: one local engine in a child process, no network."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping

import numpy as np

from moesubnet.engine.base import Query
from moesubnet.engine.worker import EngineProcess
from moesubnet.mixture.law import alone, law_of
from moesubnet.router.model import Forecast, TokenIds
from moesubnet.router.openai_api import JsonObject
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import want_for


class StudentModel:
    """Opens one session per stream over an engine that lives in another process.

    `engine` may be replaced at any time; running streams go on with the new one.
    """

    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine

    def open(self) -> StudentSession:
        return StudentSession(self)

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

    async def start(self, prompt_ids: TokenIds) -> Forecast:
        self._ids = np.asarray(prompt_ids, np.uint32)
        return await self._forecast()

    async def append(self, token_id: int, temperature: float) -> Forecast:
        self._ids = np.append(self._ids, np.uint32(token_id))
        return await self._forecast()

    def fork(self) -> StudentSession:
        other = StudentSession(self._model)
        other._ids = self._ids
        return other

    def answered(self) -> Mapping[Hotkey, tuple[int, int]]:
        return {}

    def close(self) -> None:
        self._model.engine.forget(self._session)

    async def _forecast(self) -> Forecast:
        query = Query(self._session, self._ids, first=len(self._ids))
        engine = self._model.engine
        since_s = time.monotonic()
        try:
            [rows] = await engine.rows([query], want_for(engine.vocab_size, committed=False))
        finally:
            self.waited_s += time.monotonic() - since_s
        return Forecast(alone(law_of(rows, -1, None)), {})
