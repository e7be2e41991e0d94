"""transformers without torch's compiler.

Importing any of its models imports `torch._dynamo`, and that Triton's library, to mark a few
functions for who compiles them; so does the first random number on a meta device. Nobody compiles
here, and it takes 95 MB of every miner (benchmarks/results.md).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch

_COMPILER = "torch._dynamo"
_MASKS = f"{_COMPILER}._trace_wrapped_higher_order_op"  # the one part that runs without compiling
_MARKS = ("disable", "allow_in_graph", "assume_constant_result")
T = TypeVar("T")


def without_compiler(load: Callable[[], T]) -> T:
    """What `load` gives, which imports transformers' models. Who needs the compiler after all,
    then or later, gets the real one; then `load` is called again."""
    try:
        with _stand_in():
            return load()
    except (ImportError, AttributeError):
        return load()


@contextmanager
def _stand_in() -> Iterator[None]:
    if _COMPILER in sys.modules or find_spec("torchao"):  # which transformers imports, and it that
        yield
        return
    other: Any = ModuleType(_COMPILER)
    for mark in _MARKS:
        setattr(other, mark, _unmarked)
    sys.modules[_COMPILER] = other
    try:
        other.__path__ = [str(Path(torch.__file__).parent / "_dynamo")]
        importlib.import_module(_MASKS)
        other.__path__ = []  # any other part is an ImportError
        yield
    finally:
        del sys.modules[_COMPILER]


def _unmarked(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Any:
    """A decorator that leaves a function as it is, given it or to be called with it."""
    return function if callable(function) else _unmarked
