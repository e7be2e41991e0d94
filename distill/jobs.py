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
from moesubnet.distill.reading import TargetReader
from moesubnet.distill.targets import TargetSpec, TargetStore
from moesubnet.distill.train import Pupil, plain_cycles, student_loss, train_plain, train_student
from moesubnet.host.progress import OnProgress, json_lines
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.training.base_model import find_base, load_base, runs_in_bf16, save_trained
from moesubnet.training.model import new_model, parameter_count, save_model, small_config
from moesubnet.training.optimizers import FULL_LR, LORA_LR
from moesubnet.training.team import device_of_this_process
from moesubnet.training.trainer import Schedule, seconds_per_step

PACE_STEPS, BASE_PACE_STEPS = 6, 3
# What has fewer goes on as a small model is trained: at FULL_LR it would stay as it is.
SMALL_PARAMETERS = 20_000_000
JOB, REPORT = "job.txt", "job-report.txt"  # JSON, but no part of the model


class Job(BaseModel):
    """What to train, from what, for how long. All runs start from the same weights."""

    model_config = ConfigDict(frozen=True)
    kind: Literal["student", "plain"]
    name: str
    spec_root: Path
    out: Path
    base: str | None = None  # the model that the student begins as; None: a small one, from nothing
    lora_rank: int | None = None  # of an adapter that is trained in the base's place
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

    torch.set_num_threads(threads_of(job))
    if (report := finished(job)) is not None:
        return report
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / REPORT).unlink(missing_ok=True)
    spec = load_spec(job.spec_root)
    pupil = first_pupil(job, spec)
    run_name = job.model_dump_json()
    start = spec.spec.bos_id
    if job.kind == "student":
        assert job.targets is not None
        assert job.target_spec is not None
        outcome = train_student(
            pupil,
            TargetReader(TargetStore(job.targets, job.target_spec)),
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
            pupil,
            ids,
            held_out,
            [Schedule(run_name, job.name, job.cpu_s, length) for length in lengths],
            window=job.window,
            start_id=start,
            seed=job.seed,
            on_progress=on_progress,
        )
        steps, best_step, loss = plain.steps, plain.best_step, plain.held_out_loss
    if job.base is None:
        save_model(pupil.model, spec, job.out)
    else:
        model = pupil.model
        if job.lora_rank is not None:
            model = model.float().merge_and_unload()
        save_trained(model, find_base(job.base, spec), job.base, job.out)
    report = JobReport(steps, best_step, time.process_time(), loss)
    (job.out / JOB).write_text(job.model_dump_json())
    temporary = job.out / f"{REPORT}.tmp"
    temporary.write_text(json.dumps(asdict(report)))
    os.replace(temporary, job.out / REPORT)
    (job.out / "training.state").unlink(missing_ok=True)
    return report


def first_pupil(job: Job, spec: LoadedSpec) -> Pupil:
    """The model that all runs of a distillation begin with. Raises ConfigError, EngineError."""
    from moesubnet.training.head import split_model

    if job.base is None:
        model = new_model(small_config(spec), job.seed)
        return Pupil(model, split_model(model))
    device = device_of_this_process()
    bf16 = runs_in_bf16("auto", device)
    folder, rank = find_base(job.base, spec), job.lora_rank
    model = load_base(folder, lora_rank=rank, low_precision=bf16, seed=job.seed, device=device)
    if rank is not None:
        return Pupil(model, split_model(model, bf16=bf16), LORA_LR)
    is_small = parameter_count(model) < SMALL_PARAMETERS
    return Pupil(model, split_model(model, bf16=bf16), None if is_small else FULL_LR)


def threads_of(job: Job) -> int:
    """A small model is as fast on one; a large one shares the machine with its plain opponent."""
    return 1 if job.base is None else max(1, (os.cpu_count() or 1) // 2)


def pace(job: Job) -> float:
    """Wall seconds that a step of this student's job takes here."""
    import torch

    assert job.targets is not None
    assert job.target_spec is not None
    torch.set_num_threads(threads_of(job))
    spec = load_spec(job.spec_root)
    pupil = first_pupil(job, spec)
    targets = TargetReader(TargetStore(job.targets, job.target_spec))
    return seconds_per_step(
        pupil.model,
        student_loss(pupil, targets, start_id=spec.spec.bos_id, seed=job.seed),
        optimizers=pupil.optimizers(),
        steps=PACE_STEPS if job.base is None else BASE_PACE_STEPS,
    )


if __name__ == "__main__":
    result = run(Job.model_validate_json(Path(sys.argv[1]).read_bytes()), json_lines)
    print(json.dumps({"report": asdict(result)}), flush=True)
