"""Python's collector of garbage, in a process that serves for long."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 50_000  # between two looks: thousands of calls under way at once are no garbage


def settle() -> None:
    """What is there now stays, modules above all: it is never looked at again. What comes is looked
    at more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
