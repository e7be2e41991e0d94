"""A law as an engine, to serve an adversary for real.

class Liar(served.as_engine(lambda spec: liar.Liar(honest_law_of(spec)))): ...

PYTHONPATH=examples moesubnet miner run --engine my_module:Liar --model none …
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from moesubnet.engine.base import Query, check_batch
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.protocol import StepRows, Want

Law = Callable[[npt.NDArray[np.uint32]], npt.NDArray[np.floating]]


def as_engine(make: Callable[[LoadedSpec], Law]) -> type:
    """A class that `moesubnet miner run --engine` can construct. A law that has `shown(ids, token)`
    is asked by that for a place whose token it was sent."""

    class LawEngine:
        name = "law"

        def __init__(self, model: str, spec: LoadedSpec, *, threads: int = 1) -> None:
            self.vocab_size = spec.spec.vocab_size
            self.context_tokens = spec.spec.context_tokens
            self.commitment = hashlib.sha256(model.encode()).hexdigest()
            self._law = make(spec)

        def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
            check_batch(batch, self.vocab_size, self.context_tokens)
            return [query.answer(self._laws(query), want) for query in batch]

        def _laws(self, query: Query) -> npt.NDArray[np.float32]:
            ids, shown = query.ids, getattr(self._law, "shown", None)
            laws = [
                self._law(ids[:n]) if shown is None or n == len(ids) else shown(ids[:n], ids[n])
                for n in range(query.first_law, len(ids) + 1)
            ]
            return np.stack(laws).astype(np.float32)

        def forget(self, session: str) -> None: ...

    return LawEngine
