"""Held-out text: as much of it as there is time for, and how sure that makes a perplexity."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from moesubnet.host.progress import Progress
from moesubnet.training.learner import LEAST_WINDOWS, Learner
from moesubnet.training.measured import Measured, ratio_error, read_of, with_error
from moesubnet.training.team import ALONE, Team


class Windows:
    """Ten windows of ten tokens, of 10, 11, … nats; reading one takes 4 s."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __len__(self) -> int:
        return 10

    def tokens(self, picks: np.ndarray) -> int:
        return 10 * len(picks)

    def loss(self, split: object, picks: np.ndarray) -> torch.Tensor:
        self.now_s += 4.0
        return torch.tensor(float(10 + picks.sum()))


def measure(seconds: float, most: int | None = None, team: Team = ALONE):
    windows, seen = Windows(), list[Progress]()
    learner = Learner(SimpleNamespace(eval=lambda: None), None)  # type: ignore[arg-type]
    limits = {"most": most, "seconds": seconds, "clock": lambda: windows.now_s}
    found = learner.measure(windows, team, "held out", seen.append, **limits)  # type: ignore[arg-type]
    return found, windows.now_s, seen


@pytest.mark.parametrize(
    ("seconds", "most", "read"),
    [(math.inf, None, 10), (math.inf, 3, 3), (24.0, None, 6), (23.9, None, 5), (24.0, 4, 4)],
)
def test_a_measure_reads_what_it_has_time_for(seconds: float, most: int | None, read: int):
    found, took_s, seen = measure(seconds, most)
    assert found.windows == read
    assert found.of == 10
    assert found.mean == pytest.approx(1 + (read - 1) / 20), "of the windows that were read alone"
    assert took_s == 4.0 * read <= seconds
    shown = [progress.fraction for progress in seen]
    assert shown == sorted(shown)
    assert shown[-1] == 1.0


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_two_windows_are_read_however_long_they_take(seconds: float):
    found, _, seen = measure(seconds)
    assert found.windows == LEAST_WINDOWS == 2
    assert found.error is not None
    assert seen[-1].fraction == 1.0


def test_devices_read_windows_side_by_side_and_stop_together():
    class Second(Team):
        """Of two, with the first one's part of each sum known beforehand."""

        def add(self, *values: float) -> list[float]:
            if len(values) == 2:  # whether there is time for more, by the first one's clock
                self.rounds.append(values)
                return [5.0 * len(self.rounds), 0.0]
            half = len(values) // 2
            firsts = [10.0 + n if n % 2 == 0 else 0.0 for n in range(half)]
            tokens = [10.0 if n % 2 == 0 else 0.0 for n in range(half)]
            return [a + b for a, b in zip(values, firsts + tokens, strict=True)]

        rounds: ClassVar[list[tuple[float, ...]]] = []

    found, _, seen = measure(15.0, team=Second(1, 2))
    assert found.nats == (10.0, 11.0, 12.0, 13.0, 14.0, 15.0)
    assert found.tokens == (10.0,) * 6
    assert not seen, "only the first device speaks"


def test_the_error_is_what_drawing_the_windows_again_would_show():
    rng = np.random.default_rng(0)
    tokens = rng.integers(100, 250, 4_000).astype(float)
    nats = tokens * rng.normal(3.0, 0.5, 4_000)
    means, errors = [], []
    for part in np.arange(4_000).reshape(-1, 20):
        found = Measured(tuple(nats[part]), tuple(tokens[part]), 4_000)
        means.append(found.mean)
        errors.append(found.error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_a_gain_is_surer_than_the_perplexities_that_it_is_between():
    before = Measured((100.0, 200.0, 300.0, 160.0), (100.0, 100.0, 100.0, 60.0), 40)
    after = Measured(tuple(0.9 * nats for nats in before.nats), before.tokens, 40)
    gain, error = after.gain_over(before)
    assert gain == pytest.approx(before.mean - after.mean) == pytest.approx(0.1 * before.mean)
    assert error == pytest.approx(0.1 * before.error)
    assert before.perplexity_error == pytest.approx(before.perplexity * before.error)
    assert Measured((1.0,), (1.0,), 1).perplexity_error is None, "of one window nothing is known"
    assert ratio_error([], []) is None


def test_figures_in_words():
    assert with_error(8.101, 0.521) == "8.10 ± 0.52"
    assert with_error(8.101, None) == "8.10"
    assert read_of(6, 32) == "by 6 of 32 windows"
    assert read_of(32, 32) == "by all 32 windows"
