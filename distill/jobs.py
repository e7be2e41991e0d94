"""One training run in a process of its own: `python -m moesubnet.distill.jobs JOB.json`."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from moesubnet.distill.corpus import public_streams
from moesubnet.distill.targets import Targets, TargetSpec, TargetStore
from moesubnet.distill.train import plain_cycles, train_plain, train_student
from moesubnet.spec.content import load_spec
from moesubnet.training.model import new_model, save_model, small_config, start_id
from moesubnet.training.progress import OnProgress, json_lines
from moesubnet.training.trainer import Schedule

JOB, REPORT = "job.txt", "job-report.txt"  # JSON, but no part of the model


class Job(BaseModel):
    """What to train, from what, for how long. All runs start from the same weights."""

    model_config = ConfigDict(frozen=True)
    kind: Literal["student", "plain"]
    name: str
    spec_root: Path
    out: Path
    targets: Path | None = None  # of a student
    target_spec: TargetSpec | None = None
    window: int
    steps: int
    cpu_s: float = 0.0  # of a plain run: one cycle of so many CPU-seconds instead of `steps`
    seed: int


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a run took, as a whole process, and which step's weights it ended up with."""

    steps: int
    best_step: int
    cpu_s: float
    held_out_loss: float | None = None


def finished(job: Job) -> JobReport | None:
    """The report of the very same job, if it was done before."""
    try:
        if (job.out / JOB).read_text() != job.model_dump_json():
            return None
        return JobReport(**json.loads((job.out / REPORT).read_text()))
    except FileNotFoundError:
        return None


def run(job: Job, on_progress: OnProgress) -> JobReport:
    """Train and write the model folder `job.out`. Interrupted student runs continue."""
    import torch

    torch.set_num_threads(1)
    if (report := finished(job)) is not None:
        return report
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / REPORT).unlink(missing_ok=True)
    spec = load_spec(job.spec_root)
    model = new_model(small_config(spec), job.seed)
    run_name = job.model_dump_json()
    start = start_id(spec)
    if job.kind == "student":
        assert job.targets is not None
        assert job.target_spec is not None
        outcome = train_student(
            model,
            Targets.load(TargetStore(job.targets, job.target_spec)),
            Schedule(run_name, job.name, 0.0, job.steps),
            start_id=start,
            seed=job.seed,
            checkpoint=job.out / "training.state",
            on_progress=on_progress,
        )
        steps, best_step, loss = outcome.steps, outcome.steps, None
    else:
        ids, held_out = public_streams(spec, job.window)
        lengths = [1] if job.cpu_s else plain_cycles(job.steps)
        plain = train_plain(
            model,
            ids,
            held_out,
            [Schedule(run_name, job.name, job.cpu_s, length) for length in lengths],
            window=job.window,
            start_id=start,
            seed=job.seed,
            on_progress=on_progress,
        )
        steps, best_step, loss = plain.steps, plain.best_step, plain.held_out_loss
    save_model(model, spec, job.out)
    report = JobReport(steps, best_step, time.process_time(), loss)
    (job.out / JOB).write_text(job.model_dump_json())
    temporary = job.out / f"{REPORT}.tmp"
    temporary.write_text(json.dumps(asdict(report)))
    os.replace(temporary, job.out / REPORT)
    (job.out / "training.state").unlink(missing_ok=True)
    return report


if __name__ == "__main__":
    result = run(Job.model_validate_json(Path(sys.argv[1]).read_bytes()), json_lines)
    print(json.dumps({"report": asdict(result)}), flush=True)
