"""A law as an engine, to serve an adversary for real; `live.py` has those that are served so.

class Liar(served.as_engine(lambda spec: liar.Liar(honest_law_of(spec)))): ...

PYTHONPATH=examples moesubnet miner run --engine my_module:Liar --model none …
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from moesubnet.engine.base import Query, check_batch, owner
from moesubnet.errors import EngineError
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.protocol import StepRows, Want

Ids = npt.NDArray[np.uint32]
Law = Callable[[Ids], npt.NDArray[np.floating]]


class LawEngine:
    """A law that has `shown(ids, token)` is asked by that for a place whose token it was sent, and
    one that has `answers(sender, ids)` leaves the calls that it says no to."""

    name = "law"

    def __init__(
        self,
        model: str,
        spec: LoadedSpec,
        law: Law,
        expect: Callable[[Sequence[Ids]], None] = lambda texts: None,
    ) -> None:
        """expect: is told all texts of a batch before the law is asked about them."""
        self.vocab_size = spec.spec.vocab_size
        self.context_tokens = spec.spec.context_tokens
        self.commitment = hashlib.sha256(model.encode()).hexdigest()
        self._law, self._expect = law, expect

    def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        check_batch(batch, self.vocab_size, self.context_tokens)
        answers = getattr(self._law, "answers", lambda sender, ids: True)
        if not all(answers(owner(query.session), query.ids) for query in batch):
            raise EngineError("not for everybody")
        self._expect([query.ids for query in batch])
        return [query.answer(self._laws(query), want) for query in batch]

    def _laws(self, query: Query) -> npt.NDArray[np.float32]:
        ids, shown = query.ids, getattr(self._law, "shown", None)
        laws = [
            self._law(ids[:n]) if shown is None or n == len(ids) else shown(ids[:n], ids[n])
            for n in range(query.first_law, len(ids) + 1)
        ]
        return np.stack(laws).astype(np.float32)

    def forget(self, session: str) -> None: ...


def as_engine(make: Callable[[LoadedSpec], Law]) -> type:
    """A class that `moesubnet miner run --engine` can construct."""

    class Engine(LawEngine):
        def __init__(self, model: str, spec: LoadedSpec, *, threads: int = 1) -> None:
            super().__init__(model, spec, make(spec))

    return Engine
