"""One training run in a process of its own: `python -m moesubnet.distill.jobs JOB.json`.

Behind `torchrun` that process is the team's first; the others of the team get the job from it.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from moesubnet.distill.corpus import public_streams
from moesubnet.distill.held_out import ColdText, mixture_nats
from moesubnet.distill.job import JOB, REPORT, STATE, Job, JobReport, finished
from moesubnet.distill.pupils import first_pupil, lessons_of, threads_of
from moesubnet.distill.train import Pupil, plain_cycles, train_plain, train_student
from moesubnet.host.paths import write_whole
from moesubnet.host.progress import OnProgress, ignore, json_lines
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.training.base_model import find_base, save_trained
from moesubnet.training.learner import Learner
from moesubnet.training.measured import Measured
from moesubnet.training.model import save_model
from moesubnet.training.team import ALONE, Team, team_of_this_process
from moesubnet.training.trainer import Schedule

COLLECTING = timedelta(days=30)  # how long the others of a team wait for the first one's job


def run(job: Job, on_progress: OnProgress, team: Team = ALONE) -> JobReport:
    """Train and write the model folder `job.out`. Interrupted student runs continue."""
    import torch

    torch.set_num_threads(threads_of(job, team.size))
    report = finished(job)
    team.add(0.0)  # nobody changes what others still read
    if report is not None:
        return report
    if team.rank == 0:
        job.out.mkdir(parents=True, exist_ok=True)
        (job.out / REPORT).unlink(missing_ok=True)
    spec = load_spec(job.spec_root)
    pupil = first_pupil(job, spec, team.size)
    team.check_same(pupil.micro_batches, "the size of a micro-batch: give them equal memory")
    report = (_learn if job.kind == "student" else _learn_plainly)(
        job, spec, pupil, on_progress, team
    )
    if team.rank == 0:
        _save(job, spec, pupil.model, report)
    return report


def _learn(
    job: Job, spec: LoadedSpec, pupil: Pupil, on_progress: OnProgress, team: Team
) -> JobReport:
    """From the mixture."""
    laws, held_out = lessons_of(job, spec)
    learner = Learner(pupil.model, pupil.split)
    text = ColdText(laws.targets.ids()[held_out], laws.start_id)

    def measure(when: str, most: int | None = None) -> Measured:
        return learner.measure(
            text,
            team,
            f"{job.name} held out, {when}",
            on_progress,
            most=most,
            seconds=math.inf if job.held_out_s is None else job.held_out_s,
        )

    before = measure("before")
    outcome = train_student(
        pupil,
        laws,
        Schedule(job.model_dump_json(), job.name, 0.0, job.steps),
        seed=job.seed,
        checkpoint=job.out / STATE,
        on_progress=on_progress,
        team=team,
    )
    after = measure("after", before.windows)
    [cpu_s] = team.add(time.process_time())
    report = JobReport(outcome.steps, outcome.steps, cpu_s)
    if not after.windows:
        return report
    before = before.first(after.windows)
    return replace(
        report,
        perplexity_before=before.perplexity,
        perplexity_after=after.perplexity,
        perplexity_mixture=math.exp(mixture_nats(laws.targets, held_out[: after.windows])),
        error_before=before.perplexity_error,
        error_after=after.perplexity_error,
        held_out_windows=after.windows,
        held_out_of=after.of,
    )


def _learn_plainly(
    job: Job, spec: LoadedSpec, pupil: Pupil, on_progress: OnProgress, team: Team
) -> JobReport:
    """From the text alone; by one process."""
    ids, held_out = public_streams(spec, job.window)
    lengths = [1] if job.cpu_s else plain_cycles(job.steps)
    plain = train_plain(
        pupil,
        ids,
        held_out,
        [Schedule(job.model_dump_json(), job.name, job.cpu_s, length) for length in lengths],
        window=job.window,
        start_id=spec.spec.bos_id,
        seed=job.seed,
        on_progress=on_progress,
    )
    return JobReport(plain.steps, plain.best_step, time.process_time(), plain.held_out_loss)


def _save(job: Job, spec: LoadedSpec, model: Any, report: JobReport) -> None:
    """The model, and last of all its report."""
    if job.base is None:
        save_model(model, spec, job.out)
    else:
        if job.lora_rank is not None:
            model = model.float().merge_and_unload()
        save_trained(model, find_base(job.base, spec), job.base, job.out)
    write_whole(job.out / JOB, job.model_dump_json())
    write_whole(job.out / REPORT, json.dumps(asdict(report)))
    (job.out / STATE).unlink(missing_ok=True)


def work_in_team(path: Path | None) -> JobReport | None:
    """Do the job in the file `path`, or, of a team's others, the first one's when it comes."""
    with team_of_this_process(COLLECTING) as team:
        job = team.share("" if path is None else path.read_text())
        first = team.rank == 0
        report = run(Job.model_validate_json(job), json_lines if first else ignore, team)
        return report if first else None


if __name__ == "__main__":
    result = work_in_team(Path(sys.argv[1]))
    assert result is not None
    print(json.dumps({"report": asdict(result)}), flush=True)
