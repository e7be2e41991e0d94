"""How measured costs become the pallet's weights."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

POINTS = list(itertools.product((64, 160, 256), (1, 32, 64)))


@pytest.fixture(scope="module")
def weights() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "weights.py"
    spec = importlib.util.spec_from_file_location("bench_weights", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@given(terms=st.tuples(*[st.integers(0, 1_000_000)] * 4))
def test_counts_that_are_linear_are_found_exactly(weights: Any, terms: tuple[int, ...]) -> None:
    constant, a, b, both = terms
    costs = [constant + a * n + b * v + both * n * v for n, v in POINTS]
    assert weights.fit(POINTS, costs) == list(terms)


@given(costs=st.lists(st.floats(0, 1e9), min_size=len(POINTS), max_size=len(POINTS)))
def test_no_measured_cost_lies_above_the_weight(weights: Any, costs: list[float]) -> None:
    constant, a, b, both = weights.fit(POINTS, costs)
    assert min(constant, a, b, both) >= 0
    for (n, v), cost in zip(POINTS, costs, strict=True):
        assert constant + a * n + b * v + both * n * v >= cost


def test_without_components_the_cost_is_the_constant(weights: Any) -> None:
    assert weights.fit([()], [12.5]) == [13, 0, 0, 0]
