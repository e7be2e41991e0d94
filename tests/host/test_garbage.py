"""The collector goes on collecting what comes after the start."""

from __future__ import annotations

import gc
import weakref

from moesubnet.host.garbage import settle


class Knot:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def test_what_comes_later_is_still_collected() -> None:
    before = gc.get_threshold()
    try:
        settle()
        assert gc.get_freeze_count() > 0
        knot = weakref.ref(Knot())
        gc.collect()
        assert knot() is None
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
