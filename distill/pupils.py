"""From a job to what is trained, and what it learns from."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from moesubnet.distill.held_out import hold_out
from moesubnet.distill.job import Job
from moesubnet.distill.reading import TargetReader
from moesubnet.distill.targets import TargetStore
from moesubnet.distill.train import MixtureLaws, Pupil, student_loss
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.training.model import new_model, parameter_count, small_config
from moesubnet.training.optimizers import FULL_LR, LORA_LR
from moesubnet.training.plan import Plan, plan_training
from moesubnet.training.trainer import seconds_per_step

PACE_STEPS, BASE_PACE_STEPS = 6, 3
# What has fewer goes on as a small model is trained: at FULL_LR it would stay as it is.
SMALL_PARAMETERS = 20_000_000


def lessons_of(job: Job, spec: LoadedSpec) -> tuple[MixtureLaws, NDArray[np.intp]]:
    """What a student learns from, and windows of the collection that are held out of it."""
    assert job.targets is not None
    assert job.target_spec is not None
    targets = TargetReader(TargetStore(job.targets, job.target_spec))
    windows, held_out = np.arange(len(targets)), np.arange(0)
    if not job.compared:
        windows, held_out = hold_out(targets, job.target_spec.windows - job.target_spec.written)
    return MixtureLaws(targets, windows, spec.spec.bos_id), held_out


def plan_of(job: Job, spec: LoadedSpec, devices: int) -> Plan:
    """Of a job that begins as a model; see `plan_training`."""
    assert job.base is not None
    return plan_training(
        job.base,
        spec,
        lora_rank=job.lora_rank,
        precision=job.precision,
        window=job.window,
        batch=job.batch,
        processes=2 if job.compared else devices,
    )


def first_pupil(job: Job, spec: LoadedSpec, devices: int = 1) -> Pupil:
    """The model that all runs of a distillation begin with. Raises ConfigError, EngineError."""
    from moesubnet.training.head import split_model

    if job.base is None:
        model = new_model(small_config(spec), job.seed)
        return Pupil(model, split_model(model), job.lr, job.batch, min(devices, job.batch))
    plan = plan_of(job, spec, devices)
    model = plan.load(job.seed)
    lr = job.lr
    if job.lora_rank is not None:
        lr = lr or LORA_LR
    elif parameter_count(model) >= SMALL_PARAMETERS:
        lr = lr or FULL_LR
    micro_batches = plan.micro_batches(job.batch, devices)
    return Pupil(model, split_model(model, bf16=plan.bf16), lr, job.batch, micro_batches)


def threads_of(job: Job, devices: int = 1) -> int:
    """A small model is as fast on one; a large one shares the machine with its plain opponent, or
    with the others of its team."""
    if job.base is None:
        return 1
    return max(1, (os.cpu_count() or 1) // (2 if job.compared else devices))


def pace(job: Job, devices: int = 1) -> float:
    """Wall seconds that a step of this student's job takes here, about."""
    import torch

    torch.set_num_threads(threads_of(job, devices))
    spec = load_spec(job.spec_root)
    pupil = first_pupil(job, spec, devices)
    step_s = seconds_per_step(
        pupil.model,
        student_loss(pupil, lessons_of(job, spec)[0], seed=job.seed),
        optimizers=pupil.optimizers(),
        steps=PACE_STEPS if job.base is None else BASE_PACE_STEPS,
        micro_batches=pupil.micro_batches,
    )
    return step_s / devices
