"""Log-probabilities from strangers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.errors import BadDistribution
from moesubnet.wire.distributions import (
    LOWEST,
    check_dense,
    check_listed,
    check_scores,
    draw,
)

RNG = np.random.default_rng(3)


def log_softmax(rows: int, width: int, scale: float = 3.0) -> np.ndarray:
    logits = RNG.normal(scale=scale, size=(rows, width))
    logits -= logits.max(axis=1, keepdims=True)
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def test_lowest_is_exactly_probability_zero_in_every_precision() -> None:
    assert np.float16(LOWEST) == np.finfo(np.float16).min
    for dtype in (np.float16, np.float32, np.float64):
        assert np.exp(dtype(LOWEST)) == 0.0


@given(st.integers(0, 300), st.integers(1, 400), st.sampled_from(["<f2", "<f4"]))
def test_honest_rows_pass_and_sum_to_one(rows: int, width: int, dtype: str) -> None:
    out = check_dense(log_softmax(rows, width).astype(dtype))
    assert out.dtype == np.float32
    assert (out <= 0).all()
    np.testing.assert_allclose(np.exp(out, dtype=np.float64).sum(axis=1), 1.0, atol=1e-5)


@given(st.integers(2, 6_000), st.floats(0.01, 30.0))
def test_rounding_to_float16_never_breaks_an_honest_row(width: int, scale: float) -> None:
    check_dense(np.maximum(log_softmax(2, width, scale), LOWEST).astype("<f2"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e-3, 6e-8])
@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
@pytest.mark.parametrize("place", [(0, 0), (999, 63), (500, 31)])
def test_one_bad_value_anywhere_is_found(bad: float, dtype: str, place: tuple[int, int]) -> None:
    rows = log_softmax(1_000, 64).astype(dtype)
    rows[place] = bad
    with pytest.raises(BadDistribution):
        check_dense(rows)
    with pytest.raises(BadDistribution):
        check_scores(rows)


@pytest.mark.parametrize(
    ("dtype", "mass", "fine"),
    [("<f4", 1.0009, True), ("<f4", 1.0015, False), ("<f2", 1.005, True), ("<f2", 1.03, False)],
)
def test_mass_above_one_is_tolerated_to_a_thousandth_or_a_hundredth(
    dtype: str, mass: float, fine: bool
) -> None:
    rows = np.full((3, 8), np.log(1 / 8))
    rows[1] += np.log(mass)
    if fine:
        out = check_dense(rows.astype(dtype))
        np.testing.assert_allclose(np.exp(out).sum(axis=1), 1.0, atol=1e-6)
    else:
        with pytest.raises(BadDistribution):
            check_dense(rows.astype(dtype))


def test_claiming_every_token_with_certainty_is_refused() -> None:
    with pytest.raises(BadDistribution):
        check_dense(np.zeros((1, 2_048), "<f2"))


def test_a_row_without_mass_is_refused_and_missing_mass_is_scaled_up() -> None:
    with pytest.raises(BadDistribution):
        check_dense(np.full((1, 8), LOWEST, "<f2"))
    out = check_dense(np.log(np.full((1, 4), 0.125, "<f4")))
    np.testing.assert_allclose(np.exp(out), 0.25)


def test_a_certain_token_stays_at_most_one() -> None:
    row = np.full((1, 100), LOWEST, "<f2")
    row[0, 3] = 0.0
    out = check_dense(row)
    assert out[0, 3] == 0.0
    assert np.isfinite(out).all()


def flat(ids: np.ndarray) -> np.ndarray:
    """The row of each id of [rows, k]."""
    return np.repeat(np.arange(len(ids)), ids.shape[1])


def listed(k: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = log_softmax(20, width)
    ids = np.sort(np.argsort(-rows, axis=1)[:, :k], axis=1).astype(np.uint32)
    values = np.take_along_axis(rows, ids.astype(int), axis=1)
    return ids, values, (1 - np.exp(values).sum(axis=1)).clip(0).astype(np.float32)


@given(st.integers(1, 64), st.sampled_from(["<f2", "<f4"]))
def test_listed_rows_and_their_tail_become_a_distribution(k: int, dtype: str) -> None:
    ids, values, tail = listed(k, 64)
    out, out_tail, _ = check_listed(flat(ids), ids.ravel(), values.ravel().astype(dtype), tail)
    mass = np.exp(out).reshape(ids.shape).sum(axis=1) + out_tail
    np.testing.assert_allclose(mass, 1.0, atol=1e-5)
    assert np.isfinite(out).all()


def test_a_token_drawn_twice_counts_once_and_has_one_log_probability() -> None:
    row, ids = np.zeros(3, int), np.array([2, 5, 5], np.uint32)
    values = np.log(np.array([0.2, 0.3, 0.3], np.float32))
    tail = np.array([0.5], np.float32)
    out, out_tail, log_mass = check_listed(row, ids, values, tail)
    np.testing.assert_allclose(np.exp(out), [0.2, 0.3, 0.3], rtol=1e-5)
    assert (out_tail[0], log_mass[0]) == (pytest.approx(0.5), pytest.approx(0.0, abs=1e-6))
    values[2] = np.log(0.1)
    with pytest.raises(BadDistribution):
        check_listed(row, ids, values, tail)


@pytest.mark.parametrize("tail", [-0.1, 1.1, np.nan, np.inf, 0.8])
def test_a_lying_tail_is_refused(tail: float) -> None:
    ids, values = np.array([1], np.uint32), np.log(np.array([0.5], np.float32))
    with pytest.raises(BadDistribution):
        check_listed(np.zeros(1, int), ids, values, np.array([tail], np.float32))


def test_drawn_tokens_follow_the_law_and_never_have_probability_zero() -> None:
    with np.errstate(divide="ignore"):
        row = np.log(np.array([[0.0, 0.5, 0.0, 0.3, 0.2, 0.0]], np.float32))
    drawn = draw(row, 20_000, seed=0, first=5)
    share = np.bincount(drawn[0], minlength=6) / 20_000
    np.testing.assert_allclose(share, [0, 0.5, 0, 0.3, 0.2, 0], atol=0.02)
    assert share[[0, 2, 5]].sum() == 0
