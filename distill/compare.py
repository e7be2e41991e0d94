"""The student against what it has to beat, and how that is kept fair.

Plain training starts from the student's first weights, sees the same public text, and keeps the
checkpoint that was best on a slice of it, over several schedules. It is given as many steps as
the student, side by side with it, so that both see the same load; and then, for one more schedule,
what is left until it had as many CPU-seconds as the student's training and the collection of its
targets took in all processes, the experts' included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from moesubnet.distill.evaluate import (
    GATED,
    PLAIN_CPU,
    PLAIN_STEPS,
    STUDENT,
    UNIFORM,
    Margin,
    Row,
    evaluate_by_walks,
    folder_losses,
    margins,
    row_of,
)
from moesubnet.distill.job import Job, JobReport, finished
from moesubnet.distill.walks import Ids, Members
from moesubnet.host.paths import write_whole
from moesubnet.host.progress import OnProgress
from moesubnet.spec.content import LoadedSpec
from moesubnet.training.jobs import run_job
from moesubnet.training.team import launched

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The three runs, and the table's rows from experts to plain runs."""

    student: JobReport
    equal_steps: JobReport
    more: JobReport  # what plain training did beyond `equal_steps`, to equal CPU-seconds
    rows: list[Row]
    margins: dict[str, Margin]


async def compare(
    spec: LoadedSpec,
    members: Members,
    windows: Mapping[str, Ids],
    student_job: Job,
    collect_cpu_s: float,
    on_progress: OnProgress,
) -> Comparison:
    """Train the student and its opponents and measure everyone on `windows` (domain → [M, W])."""
    assert student_job.target_spec is not None
    work = student_job.out.parent
    steps_job = student_job.model_copy(
        update=_PLAIN | {"name": PLAIN_STEPS, "out": work / "plain-steps"}
    )
    student, equal_steps = await _both(
        train_apart(student_job, on_progress), train_apart(steps_job, on_progress)
    )
    left_s = round(collect_cpu_s + student.cpu_s - equal_steps.cpu_s, 1)
    more_job = steps_job.model_copy(
        update={"name": PLAIN_CPU, "out": work / "plain-cpu", "cpu_s": max(1.0, left_s)}
    )
    more, walked = await _both(
        train_apart(more_job, on_progress),
        evaluate_by_walks(
            members,
            windows,
            f"e{student_job.target_spec.sha256[:8]}",
            prefill=student_job.target_spec.prefill,
            on_progress=on_progress,
        ),
    )
    models = {str(hotkey): losses for hotkey, losses in walked.experts.items()}
    models |= {UNIFORM: walked.uniform_mixture, GATED: walked.gated_mixture}
    cpu_job = more_job if _better(more, equal_steps) else steps_job
    for name, job in ((STUDENT, student_job), (PLAIN_STEPS, steps_job), (PLAIN_CPU, cpu_job)):
        models[name] = await asyncio.to_thread(folder_losses, job.out, windows, spec)
    rows = [row_of(name, losses) for name, losses in models.items()]
    return Comparison(student, equal_steps, more, rows, margins(models))


_PLAIN: dict[str, Any] = {"kind": "plain", "targets": None, "target_spec": None}


async def train_apart(job: Job, on_progress: OnProgress) -> JobReport:
    """Run the job in a process of its own, unless it is done. Raises ConfigError."""
    # A team's others wait for the job; each process sees for itself that there is nothing to do.
    if launched()[1] == 1 and (report := finished(job)) is not None:
        return report
    job.out.mkdir(parents=True, exist_ok=True)
    path = job.out / "next-job.txt"
    write_whole(path, job.model_dump_json())
    return JobReport(**await run_job("moesubnet.distill.jobs", [str(path)], on_progress))


def _better(one: JobReport, other: JobReport) -> bool:
    """On the slice that plain training held out."""
    assert one.held_out_loss is not None
    assert other.held_out_loss is not None
    return one.held_out_loss < other.held_out_loss


async def _both(one: Coroutine[Any, Any, A], other: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Side by side; the first failure ends the other and is raised itself."""
    try:
        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(one), group.create_task(other)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return first.result(), second.result()
