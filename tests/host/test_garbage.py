"""The collector goes on collecting what comes after the start."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc keeps what is freed; others may not")
def test_what_starting_freed_goes_back_to_the_system() -> None:
    """100 MB in pieces, with one that stays behind them, as a tokenizer's reading leaves them."""
    program = """
import psutil
from moesubnet.host.garbage import settle
held = lambda: psutil.Process().memory_info().rss
pieces = [bytes(2_000) for _ in range(50_000)]
stays = bytes(2_000)
del pieces
before = held()
settle()
print(before - held())
"""
    freed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(freed.stdout) > 50e6
