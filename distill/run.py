"""A distillation from end to end: targets, student, the plain runs to compare with, the table.

Everything is kept under `<out>/work`, so an interrupted run goes on where it stopped; the
finished student, its report and its manifest stand in `<out>` itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from moesubnet.distill.collect import begun_windows, collect, shard_windows
from moesubnet.distill.compare import compare, train_apart
from moesubnet.distill.corpus import public_windows, test_windows
from moesubnet.distill.costs import CpuMeter
from moesubnet.distill.evaluate import STUDENT, Margin, Row, verdicts
from moesubnet.distill.forecast import Settings, check, steps_of, student_job_of
from moesubnet.distill.job import JOB, STATE, Job, JobReport
from moesubnet.distill.job import REPORT as JOB_REPORT
from moesubnet.distill.manifest import REPORT, Manifest, model_files, name_of, write_manifest
from moesubnet.distill.targets import TargetSpec, TargetStore, target_form
from moesubnet.distill.walks import Members
from moesubnet.host.paths import write_whole
from moesubnet.host.progress import OnProgress, ignore
from moesubnet.mixture.gate import GATE_FORMAT, Gate
from moesubnet.spec.content import LoadedSpec
from moesubnet.training.base_model import find_base
from moesubnet.types import Axon, Hotkey


@dataclass(frozen=True, slots=True)
class Teacher:
    """The experts as met: who they are, where they listen, and the gate over them."""

    members: Members
    commitments: dict[Hotkey, str]
    axons: dict[Hotkey, Axon]


@dataclass(frozen=True, slots=True)
class Collected:
    """The targets, and what they took: CPU-seconds of all processes, and wall seconds."""

    store: TargetStore
    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """What came out. Losses are nats per token of the final test; `*_cpu_s` are CPU-seconds."""

    student_sha256: str
    student: JobReport
    plain_equal_steps: JobReport | None
    plain_equal_cpu: JobReport | None  # beyond the steps of the former
    tokens: int  # with targets
    kept_mass: float
    collect_cpu_s: float
    collect_s: float
    elapsed_s: float
    rows: list[Row]
    verdicts: dict[str, bool]
    margins: dict[str, Margin]  # nats per token by which they hold, and its standard error


async def distill(
    spec: LoadedSpec,
    teacher: Teacher,
    settings: Settings,
    on_progress: OnProgress = ignore,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """See the module. Behind `torchrun` the first process calls this, and all train. `say` is
    told beforehand what training will take. Raises MoesubnetError."""
    started_s = time.monotonic()
    student_job = student_job_of(settings, spec)
    await asyncio.to_thread(check, student_job, spec, say)
    tests = None if settings.test is None else test_windows(spec, settings.test, settings.window)
    work = settings.work
    work.mkdir(parents=True, exist_ok=True)
    if settings.fresh:
        for name in (JOB, JOB_REPORT, STATE):
            (work / "student" / name).unlink(missing_ok=True)
    teacher = _with_kept_gate(teacher, work)
    collected = await _collect(spec, teacher, settings, work, on_progress)
    store = collected.store
    student_job = student_job.model_copy(update={"targets": store.root, "target_spec": store.spec})
    steps = await steps_of(student_job, settings, work, say)
    student_job = student_job.model_copy(update={"steps": steps})
    equal_steps = more = None
    rows: list[Row] = []
    margins: dict[str, Margin] = {}
    if tests is None:
        student = await train_apart(student_job, on_progress)
    else:
        result = await compare(
            spec,
            teacher.members,
            tests,
            student_job,
            collected.cpu_s,
            on_progress,
        )
        student, equal_steps, more = result.student, result.equal_steps, result.more
        rows, margins = result.rows, result.margins
    report = Report(
        student_sha256=_publish(spec, teacher, settings, student_job, rows),
        student=student,
        plain_equal_steps=equal_steps,
        plain_equal_cpu=more,
        tokens=collected.store.spec.windows * settings.window,
        kept_mass=await asyncio.to_thread(collected.store.kept_mass),
        collect_cpu_s=collected.cpu_s,
        collect_s=collected.wall_s,
        elapsed_s=time.monotonic() - started_s,
        rows=rows,
        verdicts=verdicts(rows) if rows else {},
        margins=margins,
    )
    write_whole(settings.out / REPORT, json.dumps(asdict(report), indent=1) + "\n")
    return report


def _with_kept_gate(teacher: Teacher, work: Path) -> Teacher:
    """With the same experts, an interrupted collection goes on with the gate it began with."""
    experts = GATE_FORMAT + json.dumps(sorted(teacher.commitments.items()))
    path = work / f"gate-{hashlib.sha256(experts.encode()).hexdigest()[:12]}.msgpack"
    if path.exists():
        kept, now = Gate.from_bytes(path.read_bytes()), teacher.members.gate
        gate = replace(kept, grain=now.grain)
        return replace(teacher, members=replace(teacher.members, gate=gate))
    write_whole(path, teacher.members.gate.to_bytes())
    return teacher


async def _collect(
    spec: LoadedSpec, teacher: Teacher, settings: Settings, work: Path, on_progress: OnProgress
) -> Collected:
    """The targets, from disk where they stand. Costs add up over interruptions."""
    windows = public_windows(spec, settings.window, settings.seed)
    written = -(-settings.written_tokens // settings.window)
    if written:
        begun = begun_windows(windows, written, settings.seed)
        windows = np.concatenate([windows, begun])
    kind, kept, mass = target_form(spec.spec.vocab_size, samples=settings.samples)
    target_spec = TargetSpec(
        kind=kind,
        kept=kept,
        mass=mass,
        window=settings.window,
        windows=len(windows),
        written=written,
        prefill=settings.prefill,
        text_sha256=spec.spec.public_text.sha256,
        spec_sha256=spec.sha256,
        gate_sha256=teacher.members.gate.sha256.hex(),
        experts=tuple((str(k), teacher.commitments[k]) for k in teacher.members.experts),
    )
    store = TargetStore(work / "targets", target_spec)
    path = work / f"cost-{target_spec.sha256[:12]}.json"
    cpu_s, wall_s = json.loads(path.read_text()) if path.exists() else (0.0, 0.0)
    if len(store.shards()) == len(shard_windows(target_spec, spec.spec.vocab_size)):
        return Collected(store, cpu_s, wall_s)
    meter, started_s = CpuMeter(teacher.axons.values()), time.monotonic()
    try:
        await collect(teacher.members, windows, store, on_progress=on_progress)
    finally:
        cpu_s, wall_s = cpu_s + meter.read(), wall_s + time.monotonic() - started_s
        write_whole(path, json.dumps([cpu_s, wall_s]))
    return Collected(store, cpu_s, wall_s)


def _publish(
    spec: LoadedSpec, teacher: Teacher, settings: Settings, job: Job, rows: list[Row]
) -> str:
    """Copy the model to `out` and write its manifest last; returns its hash."""
    names = model_files(job.out)
    for name in names:
        shutil.copyfile(job.out / name, settings.out / f"{name}.tmp")
        os.replace(settings.out / f"{name}.tmp", settings.out / name)
    assert job.target_spec is not None
    manifest = Manifest(
        files=names,
        parent_sha256=None if job.base is None else name_of(find_base(job.base, spec)),
        spec_sha256=spec.sha256,
        gate_sha256=teacher.members.gate.sha256.hex(),
        targets_sha256=job.target_spec.sha256,
        experts={str(hotkey): weights for hotkey, weights in teacher.commitments.items()},
        steps=job.steps,
        seed=job.seed,
        perplexity=next((row.perplexity for row in rows if row.name == STUDENT), {}),
    )
    write_manifest(settings.out, manifest)
    return manifest.sha256
