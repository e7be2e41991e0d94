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


def finished(job: Job) -> JobReport | None:
    """The report of the very same job, if it was done before."""
    try:
        if (job.out / JOB).read_text() != job.model_dump_json():
            return None
        return JobReport(**json.loads((job.out / REPORT).read_text()))
    except FileNotFoundError:
        return None
