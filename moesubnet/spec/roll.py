"""Going over to the spec that the owner announces, when its epoch begins and not before.

The chain names one spec and the epoch from which it holds: the one after it was published. Whoever
runs fetches and prepares it meanwhile, so that all go over together and nobody restarts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from moesubnet.errors import MoesubnetError, SpecError
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.spec.source import find_spec
from moesubnet.types import Metagraph

RETRY_S = 15.0  # after a spec that could not be fetched or prepared

log = logging.getLogger(__name__)
T = TypeVar("T")


class NextSpec(Generic[T]):
    """Watches for a spec other than `current`. `prepare` makes of it what its user needs; it runs
    in a thread and may raise. `problem` says what keeps us from going over."""

    def __init__(
        self,
        current: LoadedSpec,
        prepare: Callable[[LoadedSpec], T],
        *,
        folder: Path | None,
        allow_private: bool,
    ) -> None:
        self.current = current
        self.problem: str | None = None
        self._prepare = prepare
        self._folder = folder
        self._allow_private = allow_private
        self._announced: Metagraph | None = None  # one that names another spec
        self._making: asyncio.Task[tuple[LoadedSpec, T]] | None = None

    def see(self, metagraph: Metagraph) -> None:
        """Look at the chain; begins to fetch and prepare a spec as soon as one is announced."""
        wanted = metagraph.spec_sha256
        if wanted in (None, self.current.sha256):
            self._forget()
            return
        if self._announced is None or self._announced.spec_sha256 != wanted:
            self._forget()
            log.info("the owner announces spec %s from epoch %s on", wanted, metagraph.spec_epoch)
            self._making = asyncio.create_task(self._make(metagraph))
        self._announced = metagraph

    @property
    def is_ready(self) -> bool:
        """Whether the announced spec is fetched and prepared."""
        return self._making is not None and self._making.done()

    def holds(self, epoch_index: int) -> bool:
        """Whether in this epoch another spec than `current` is the subnet's."""
        return self._announced is not None and epoch_index >= (self._announced.spec_epoch or 0)

    def take(self, epoch_index: int) -> T | None:
        """What was prepared, once, if it holds in this epoch; from then on it is `current`."""
        if self._making is None or not self.is_ready or not self.holds(epoch_index):
            return None
        self.current, prepared = self._making.result()
        self._forget()
        log.info("gone over to spec %s", self.current.sha256)
        return prepared

    def _forget(self) -> None:
        if self._making is not None:
            self._making.cancel()
        self._announced = self._making = self.problem = None

    async def _make(self, metagraph: Metagraph) -> tuple[LoadedSpec, T]:
        """Try until it works."""
        while True:
            try:
                spec = await self._find(metagraph)
                prepared = await asyncio.to_thread(self._prepare, spec)
            except Exception as error:  # whatever it is: who watches the chain must go on
                is_known = isinstance(error, MoesubnetError)
                problem = str(error) if is_known else f"{type(error).__name__}: {error}"
                if self.problem != problem:
                    log.error("cannot go over to the announced spec: %s", problem)
                    log.debug("where it came from", exc_info=error)
                self.problem = problem
                await asyncio.sleep(RETRY_S)
            else:
                self.problem = None
                return spec, prepared

    async def _find(self, metagraph: Metagraph) -> LoadedSpec:
        """From the person's folder, if they have put it there already, or else from the owner."""
        if self._folder is not None:
            try:
                return load_spec(self._folder, metagraph.spec_sha256)
            except SpecError as error:
                log.info("%s; looking where the owner says", error)
        return await find_spec(None, metagraph, allow_private=self._allow_private)
