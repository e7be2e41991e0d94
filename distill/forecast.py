"""What a distillation was asked for, and what its training will take, before it takes it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moesubnet.distill.corpus import WINDOW
from moesubnet.distill.job import Job
from moesubnet.distill.pupils import pace, plan_of
from moesubnet.distill.train import BATCH_WINDOWS
from moesubnet.errors import ConfigError
from moesubnet.host.memory import trim_memory
from moesubnet.host.paths import write_whole
from moesubnet.spec.content import LoadedSpec
from moesubnet.training.base_model import Precision, check_lora
from moesubnet.training.estimate import disk_bytes, time_in_words
from moesubnet.training.measured import HELD_OUT_SHARE
from moesubnet.training.plan import check_apart, check_disk
from moesubnet.training.team import launched

FEW_STEPS = 300

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person decides. `test`: a folder of <domain>.jsonl, None for no comparison."""

    out: Path
    test: Path | None = None
    student_s: float = 150.0
    min_steps: int = 1
    base: str | None = None  # the model that the student begins as
    lora_rank: int | None = None  # of an adapter that is trained in its place; merged at the end
    epochs: float | None = None  # how often the targets are read, in place of `student_s`
    batch: int = BATCH_WINDOWS
    lr: float | None = None  # None: what usually does
    precision: Precision = "auto"  # of a base
    fresh: bool = False  # train anew; targets are kept
    written_tokens: int = 0  # that the mixture writes, beside the public text
    prefill: bool = False
    samples: bool = False
    window: int = WINDOW
    seed: int = 0

    @property
    def work(self) -> Path:
        """What an interrupted run goes on from."""
        return self.out / "work"


def student_job_of(settings: Settings, spec: LoadedSpec) -> Job:
    """As it was asked for: of how many steps, and from which targets, is known later."""
    return Job(
        kind="student",
        name="student",
        spec_root=spec.root,
        out=settings.work / "student",
        base=settings.base,
        lora_rank=settings.lora_rank,
        precision=settings.precision,
        batch=settings.batch,
        lr=settings.lr,
        compared=settings.test is not None,
        held_out_s=None if settings.epochs is not None else HELD_OUT_SHARE * settings.student_s,
        window=settings.window,
        steps=0,
        seed=settings.seed,
    )


def check(job: Job, spec: LoadedSpec, say: Callable[[str], None]) -> None:
    """What cannot work is said now, and not after hours of collecting."""
    devices = launched()[1]
    if job.lora_rank is not None:
        check_lora(job.base)
    if devices > 1 and job.compared:
        raise ConfigError("--test compares runs of one process each: leave it or the launcher out")
    if job.base is None:
        return
    plan = plan_of(job, spec, devices)
    say(plan.words)
    check_apart(job.out.parents[1], plan.folder)  # where the student goes in the end
    # The student lies in `work` and in `out`; with it, two plain opponents.
    models = 3 if job.compared else 1
    needed_bytes = disk_bytes(plan.size, writes_whole=True) + 4 * models * plan.size.parameters
    check_disk(job.out, needed_bytes)


async def steps_of(job: Job, settings: Settings, work: Path, say: Callable[[str], None]) -> int:
    """How many steps fit into the student's seconds on this machine, or read the targets as often
    as was asked. Their pace is measured once per run."""
    assert job.target_spec is not None
    devices = launched()[1]
    depends = [job.base, job.lora_rank, job.precision, job.batch, job.compared, devices]
    name = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:8]
    path = work / f"pace-{name}.json"
    if not path.exists():
        write_whole(path, json.dumps(await asyncio.to_thread(pace, job, devices)))
        trim_memory()
    step_s, windows = json.loads(path.read_text()), job.target_spec.windows
    if settings.epochs is not None:
        steps = max(1, round(settings.epochs * windows / min(job.batch, windows)))
    else:
        steps = max(settings.min_steps, round(settings.student_s / step_s))
        if steps < FEW_STEPS:
            log.warning(
                "%d steps of %.1f s, for the student's %.0f s: a student takes a few hundred; "
                "give more --student-seconds",
                steps,
                step_s,
                settings.student_s,
            )
    say(time_in_words(steps, windows * job.window, step_s, None))
    return steps
