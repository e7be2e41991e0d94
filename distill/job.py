"""A training run as a value: what it needs to know, and what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from moesubnet.distill.targets import TargetSpec
from moesubnet.distill.train import BATCH_WINDOWS
from moesubnet.training.base_model import Precision
from moesubnet.training.measured import read_of, with_error

JOB, REPORT = "job.txt", "job-report.txt"  # JSON, but no part of the model
STATE = "training.state"


class Job(BaseModel):
    """What to train, from what, for how long. All runs start from the same weights."""

    model_config = ConfigDict(frozen=True)
    kind: Literal["student", "plain"]
    name: str
    spec_root: Path
    out: Path
    base: str | None = None  # the model that the student begins as; None: a small one, from nothing
    lora_rank: int | None = None  # of an adapter that is trained in the base's place
    precision: Precision = "auto"  # of a base
    batch: int = BATCH_WINDOWS  # windows of a step, over all devices
    lr: float | None = None  # None: what usually does
    compared: bool = True  # a plain opponent is trained beside it; else text is held out
    targets: Path | None = None  # of a student
    target_spec: TargetSpec | None = None
    window: int
    steps: int
    cpu_s: float = 0.0  # of a plain run: one cycle of so many CPU-seconds instead of `steps`
    held_out_s: float | None = None  # at most, for each measure of text held out; None: no end
    seed: int


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a run took, as whole processes, and which step's weights it ended up with.

    held_out_loss: of a plain run. Perplexities: of a student that is not compared, on text that it
    has not learnt from, and the mixture's on it, which is what it can hope for; else None.
    """

    steps: int
    best_step: int
    cpu_s: float
    held_out_loss: float | None = None
    perplexity_before: float | None = None
    perplexity_after: float | None = None
    perplexity_mixture: float | None = None
    error_before: float | None = None  # standard errors, by windows
    error_after: float | None = None
    held_out_windows: int = 0  # that were read
    held_out_of: int = 0  # of so many

    @property
    def held_out_words(self) -> str:
        assert self.perplexity_before is not None
        assert self.perplexity_after is not None
        return (
            f"held-out perplexity {with_error(self.perplexity_before, self.error_before)} before, "
            f"{with_error(self.perplexity_after, self.error_after)} after; the mixture's "
            f"{self.perplexity_mixture:.2f}, {read_of(self.held_out_windows, self.held_out_of)}"
        )


def finished(job: Job) -> JobReport | None:
    """The report of the very same job, if it was done before."""
    try:
        if (job.out / JOB).read_text() != job.model_dump_json():
            return None
        return JobReport(**json.loads((job.out / REPORT).read_text()))
    except FileNotFoundError:
        return None
