"""The training loop: schedule, resuming, and what a window is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from moesubnet.errors import ConfigError
from moesubnet.spec.content import LoadedSpec
from moesubnet.training.dataset import cold_windows, random_windows, stream
from moesubnet.training.head import split_model
from moesubnet.training.model import new_model, small_config
from moesubnet.training.trainer import (
    Schedule,
    held_out_loss,
    learning_rate,
    next_token_loss,
    progress_fraction,
    train,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def tiny(spec: LoadedSpec, seed: int = 0):
    return new_model(small_config(spec, hidden=24, layers=1, heads=2), seed)


def batches(model, step: int):
    rng = np.random.default_rng(step)
    windows = rng.integers(0, 20, (4, 16)).cumsum(1) % 20
    return next_token_loss(split_model(model), windows), windows.size


def test_windows_begin_with_the_start_token_and_continue_the_text():
    ids = np.arange(1, 101, dtype=np.uint32)
    windows = random_windows(ids, 50, 8, 0, np.random.default_rng(0))
    assert (windows[:, 0] == 0).all()
    assert (np.diff(windows[:, 1:], axis=1) == 1).all()
    assert windows.max() <= 100
    assert {1, 94} <= set(windows[:, 1].tolist()) | {1, 94}
    assert cold_windows(ids, 30).tolist() == ids[:90].reshape(3, 30).tolist()
    assert stream([ids[:2], ids[2:3]], 0).tolist() == [0, 1, 2, 0, 3]


def test_a_run_ends_when_both_seconds_and_steps_are_spent():
    schedule = Schedule("r", "t", budget_s=10.0, min_steps=5)
    assert progress_fraction(5, 1.0, schedule) == pytest.approx(0.1)
    assert progress_fraction(1, 50.0, schedule) == pytest.approx(0.2)
    assert progress_fraction(5, 10.0, schedule) == 1.0
    assert progress_fraction(7, 0.0, Schedule("r", "t", 0.0, 7)) == 1.0
    whole = Schedule("r", "t", budget_s=100.0, min_steps=1, max_steps=8)
    assert progress_fraction(4, 10.0, whole) == 0.5
    assert progress_fraction(4, 80.0, whole) == 0.8


def test_the_learning_rate_warms_up_and_falls_to_almost_nothing():
    schedule = Schedule("r", "t", 0.0, 1, peak_lr=1.0)
    assert learning_rate(0, 0.0, schedule) < 0.1
    assert learning_rate(100, 0.0, schedule) == pytest.approx(1.0)
    assert learning_rate(100, 0.5, schedule) == pytest.approx(0.51)
    assert learning_rate(100, 1.0, schedule) == pytest.approx(0.02)


def test_training_learns(tiny_spec: LoadedSpec):
    model = tiny(tiny_spec)
    before = next_token_loss(split_model(model), np.arange(16)[None] % 20).item()
    outcome = train(model, batches, Schedule("r", "t", 0.0, 60))
    assert outcome.steps == 60
    assert outcome.loss < before - 1.0


def test_a_killed_run_continues_exactly_where_it_stopped(tiny_spec: LoadedSpec, tmp_path: Path):
    seconds = iter(range(0, 10_000, 30))  # so that every step is followed by a checkpoint

    def clock() -> float:
        return float(next(seconds))

    schedule = Schedule("run", "t", 0.0, 12)
    unbroken = tiny(tiny_spec)
    train(unbroken, batches, schedule)

    class Killed(Exception):
        pass

    def kill(step: int, elapsed_s: float) -> None:
        if step == 7:
            raise Killed

    state = tmp_path / "training.state"
    with pytest.raises(Killed):
        train(tiny(tiny_spec), batches, schedule, checkpoint=state, after_step=kill, clock=clock)
    resumed = tiny(tiny_spec, seed=5)  # its own weights must not matter
    outcome = train(resumed, batches, schedule, checkpoint=state, clock=clock)
    assert outcome.steps == 12
    for name, value in unbroken.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value)
    with pytest.raises(ConfigError, match="--fresh"):
        train(tiny(tiny_spec), batches, Schedule("else", "t", 0.0, 12), checkpoint=state)


def test_held_out_loss_counts_every_token_of_a_cold_window(tiny_spec: LoadedSpec):
    model = tiny(tiny_spec)
    windows = np.random.default_rng(0).integers(0, 300, (5, 9)).astype(np.uint32)
    started = np.concatenate([np.zeros((5, 1)), windows], axis=1).astype(np.int64)
    with torch.inference_mode():
        logp = model(input_ids=torch.from_numpy(started)).logits.log_softmax(-1)[:, :-1]
    expected = -logp.gather(-1, torch.from_numpy(started[:, 1:, None])).mean().item()
    split = split_model(model)
    assert held_out_loss(split, windows, 0, batch=2) == pytest.approx(expected, abs=1e-5)
    assert math.isnan(held_out_loss(split, windows[:0], 0))
