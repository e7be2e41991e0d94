"""Experts in this process behind the client's interface, so that panels can be tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from moesubnet.distill.walks import Members
from moesubnet.engine.base import Query
from moesubnet.errors import PeerUnavailable
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import uniform_gate
from moesubnet.types import Hotkey
from moesubnet.wire.panel import Panel
from moesubnet.wire.protocol import StepRequest, StepResponse, StepRows, Want

VOCAB = 20


class BigramEngine:
    """Law of a token given the one before it, the same after equal prefixes."""

    def __init__(self, seed: int, vocab_size: int = VOCAB) -> None:
        logits = np.random.default_rng(seed).normal(0, 2, (vocab_size + 1, vocab_size))
        self._log_p = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)

    def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        return [
            q.answer(self._log_p[np.concatenate([[-1], q.ids])[q.first :]], want) for q in batch
        ]


class LocalClient:
    """`ExpertClient` without a network. `asked` counts steps; `fails` says which do."""

    commits = False

    def __init__(self, hotkey: Hotkey, engine, fails: Callable[[int], bool] = lambda n: False):
        self.hotkey = hotkey
        self.asked = 0
        self._engine = engine
        self._fails = fails
        self._ids: dict[str, np.ndarray] = {}

    async def step(self, request: StepRequest, **_: object) -> StepResponse:
        self.asked += 1
        if self._fails(self.asked):
            raise PeerUnavailable("gone")
        queries = []
        for s in request.sequences:
            base = self._ids.get(s.session, np.empty(0, np.uint32))[: s.base_len]
            self._ids[s.session] = np.concatenate([base, s.append_ids])
            queries.append(Query(s.session, self._ids[s.session], s.first_row))
        return StepResponse(tuple(self._engine.rows(queries, request.want)))

    async def close_sessions(self, sessions: Sequence[str], **_: object) -> None:
        for session in sessions:
            del self._ids[session]


def panel(*clients: LocalClient, vocab_size: int = VOCAB, want: Want | None = None) -> Members:
    by_hotkey = {client.hotkey: client for client in clients}
    asked = Panel(by_hotkey, base_s=30.0, want=want or Want("full"))  # type: ignore[arg-type]
    baseline = Unigram(np.full(vocab_size, -np.log(vocab_size), np.float32))
    return Members(asked, tuple(sorted(by_hotkey)), uniform_gate(), baseline)


@pytest.fixture
def panel_of() -> Callable[..., Members]:
    return panel
