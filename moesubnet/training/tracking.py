"""Losses for TensorBoard or Weights & Biases, for who has them installed and asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from moesubnet.errors import ConfigError
from moesubnet.host.progress import OnProgress, Progress
from moesubnet.training.team import launched

Write = Callable[[str, float, int], None]  # name, value, number of the report


@contextmanager
def tracked(tool: str | None, out: Path, on_progress: OnProgress) -> Iterator[OnProgress]:
    """`on_progress`, which also writes losses and tokens/s for `tool`: `tensorboard` (to
    `out`/runs) or `wandb` (a run named as the folder), if this is the first device. Raises
    ConfigError where it is missing, or wants to know who we are."""
    if tool is None or launched()[0] != 0:
        yield on_progress
        return
    write, close = _open(tool, out)
    reports = 0

    def show(progress: Progress) -> None:
        nonlocal reports
        on_progress(progress)
        if progress.loss is not None:
            reports += 1
            write(f"{progress.task}/loss", progress.loss, reports)
            write(f"{progress.task}/tokens_per_s", progress.tokens_per_s or 0.0, reports)

    try:
        yield show
    finally:
        close()


def _open(tool: str, out: Path) -> tuple[Write, Callable[[], None]]:
    try:
        if tool == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(out / "runs")
            return writer.add_scalar, writer.close
        if tool == "wandb":
            import wandb

            try:
                run = wandb.init(project="moesubnet", name=out.name, dir=str(out))
            except wandb.Error as error:
                raise ConfigError(f"wandb: {error} (or set WANDB_MODE=offline)") from error
            return (lambda name, value, step: run.log({name: value}, step=step)), run.finish
    except ImportError as error:
        raise ConfigError(f"{tool} is not installed: pip install {tool}") from error
    raise ConfigError(f"--track {tool} is neither tensorboard nor wandb")
