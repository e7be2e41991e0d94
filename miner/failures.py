"""What a miner says of an engine that fails: its owner has to know, and a log may not overflow."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moesubnet.errors import EngineError

QUIET_S = 10.0  # between two lines
MOST_CHARACTERS = 500

log = logging.getLogger(__name__)


class Failures:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quiet_until_s = -QUIET_S
        self._untold = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """An EngineError that passes is logged, with how many have been since the last line."""
        try:
            yield
        except EngineError as error:
            self._untold += 1
            if self._clock() >= self._quiet_until_s:
                said = str(error)[:MOST_CHARACTERS]
                log.warning("the engine failed, %d calls got no answer: %s", self._untold, said)
                self._quiet_until_s, self._untold = self._clock() + QUIET_S, 0
            raise
