"""Several LoRAs over one base in one process: the base is loaded once, each adapter is an engine.

The adapters stay beside the base's weights and are switched between passes, so a pass belongs to
one of them; what sessions hold is never shared between two. One process of two experts therefore
takes the memory of one, and their time adds up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

from moesubnet.engine.base import HoldingEngine, Query
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import Want


class Switch:
    """Which adapter of a peft model works; None for the base alone."""

    def __init__(self, model: Any) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        self._model = model
        wholes = any(isinstance(part, AuxiliaryTrainingWrapper) for part in model.modules())
        # peft looks through all modules at every switch, which takes twice as long
        self._layers = [part for part in model.modules() if isinstance(part, BaseTunerLayer)]
        self._layers = [] if wholes else self._layers
        self._active: int | None = 0
        self.lock = Lock()

    def use(self, adapter: int | None) -> None:
        """Call it with the lock held."""
        if adapter == self._active:
            return
        if adapter is None:
            self._model.disable_adapter_layers()
        else:
            if self._active is None:
                self._model.enable_adapter_layers()
            for layer in self._layers:
                layer.set_adapter([str(adapter)], inference_mode=True)
            if not self._layers:
                self._model.set_adapter(str(adapter))
        self._active = adapter


class AdapterEngine:
    """One adapter's `Engine`; each may be called from a thread of its own."""

    def __init__(
        self,
        shared: HoldingEngine,
        switch: Switch,
        place: int,
        adapter: int | None,
        commitment: str,
    ) -> None:
        self._shared, self._switch, self._place, self._adapter = shared, switch, place, adapter
        self.name, self.commitment = shared.name, commitment
        self.vocab_size, self.context_tokens = shared.vocab_size, shared.context_tokens
        self.caches = shared.caches

    def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        """See `Engine.rows`."""
        mine = [self._mine(query) for query in batch]
        with self._switch.lock:
            self._switch.use(self._adapter)
            return self._shared.rows(mine, want)

    def held(self, query: Query) -> int:
        """See `HoldingEngine`."""
        with self._switch.lock:
            return self._shared.held(self._mine(query))

    def forget(self, session: str) -> None:
        """See `Engine.forget`."""
        with self._switch.lock:
            self._shared.forget(self._session(session))

    def _mine(self, query: Query) -> Query:
        return replace(query, session=self._session(query.session))

    def _session(self, session: str) -> str:
        """A caller of two experts is two owners: keys and values of one fit no other."""
        return f"{self._place}:{session}" if "/" in session else f"{self._place}:/{session}"
