"""Make an expert from a model that somebody has: an adapter for it, or the whole of it anew."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from moesubnet.errors import ConfigError
from moesubnet.host.paths import write_whole
from moesubnet.host.progress import OnProgress, ignore
from moesubnet.spec.content import LoadedSpec
from moesubnet.training.base_model import Precision, merge_adapter, save_trained
from moesubnet.training.estimate import disk_bytes, time_in_words
from moesubnet.training.expert import REPORT, encoded, saved_report, text_sha256, write_report
from moesubnet.training.fine_tuned import FineTuneReport
from moesubnet.training.learner import Learner, NextTokens
from moesubnet.training.measured import HELD_OUT_SHARE, Measured
from moesubnet.training.optimizers import FULL_LR, LORA_LR, adamw
from moesubnet.training.packing import pack, split_documents
from moesubnet.training.plan import Plan, check_apart, check_disk, plan_training
from moesubnet.training.team import ALONE, Team
from moesubnet.training.trainer import Schedule, train

HELD_OUT_EVERY = 20
MAX_HELD_OUT_TOKENS = 8_192
MIN_WINDOWS = 4
STATE, BEFORE, ADAPTER = "training.state", "before.txt", "adapter"


@dataclass(frozen=True, slots=True)
class FineTuning:
    """What a person decides. `batch`: windows of a step; `seconds`: an end before `epochs` are
    done, None for none; `lr`: None for what usually does."""

    base: str
    lora_rank: int | None = None
    merge: bool = False
    window: int = 1_024
    batch: int = 8
    epochs: float = 2.0
    seconds: float | None = None
    lr: float | None = None
    precision: Precision = "auto"
    seed: int = 0


def fine_tune(
    texts: list[Path],
    out: Path,
    spec: LoadedSpec,
    settings: FineTuning,
    *,
    resume: bool = True,
    on_progress: OnProgress = ignore,
    say: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
    team: Team = ALONE,
) -> FineTuneReport | None:
    """Train on `texts`; write a peft adapter or a model folder, and report.json, to `out`.

    None where it was told to stop: `out` then holds what there is so far, and the same call goes
    on. A finished run of the same text and settings returns its report at once. `say` is told
    beforehand what the run will take. Raises ConfigError, EngineError.
    """
    run = _name(texts, spec, settings)
    if resume and (report := read_fine_tuned(texts, out, spec, settings)) is not None:
        return report
    from moesubnet.training.head import split_model

    plan = plan_training(
        settings.base,
        spec,
        lora_rank=settings.lora_rank,
        precision=settings.precision,
        window=settings.window,
        batch=settings.batch,
        processes=team.size,
    )
    say(plan.words)
    writes_whole = settings.lora_rank is None or settings.merge
    check_apart(out, plan.folder)
    check_disk(out, disk_bytes(plan.size, writes_whole=writes_whole))
    packed, held_out = _windows(texts, spec, settings, on_progress)
    # With more seconds, or merged, an interrupted run is still the same one.
    state = _name(texts, spec, replace(settings, seconds=None, merge=False))
    schedule = _schedule(state, out.name, settings, len(packed), plan, team)
    if team.rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        for name in (REPORT, *([] if resume else [STATE, BEFORE])):
            (out / name).unlink(missing_ok=True)
    team.add(0.0)  # nobody reads what stands in `out` before that

    cpu_started_s = time.process_time()
    model = plan.load(settings.seed)
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    learner = Learner(model, split_model(model, bf16=plan.bf16))
    seconds = math.inf if settings.seconds is None else HELD_OUT_SHARE * settings.seconds
    measure = partial(learner.measure, held_out, team, on_progress=on_progress, seconds=seconds)
    before = _known_before(out, state)
    if before is None:
        before = measure(f"{out.name} held out, before")
        if team.rank == 0:
            write_whole(out / BEFORE, json.dumps([state, asdict(before)]))
    if schedule.max_steps is not None:
        batch = min(settings.batch, len(packed))
        at_once = -(-batch // schedule.micro_batches)
        step_s = learner.seconds_per_window(packed, at_once) * batch / team.size
        say(time_in_words(schedule.max_steps, packed.packed.ids.size, step_s, settings.seconds))

    outcome = train(
        model,
        partial(
            learner.batch_loss,
            packed,
            min(settings.batch, len(packed)),
            schedule.micro_batches,
            settings.seed,
        ),
        schedule,
        checkpoint=out / STATE,
        on_progress=on_progress if team.rank == 0 else ignore,
        optimizers=[adamw(model, schedule.peak_lr, schedule.weight_decay)],
        should_stop=should_stop,
        team=team,
    )
    after = None
    if outcome.finished:
        after = measure(f"{out.name} held out, after", most=before.windows)
    merges = settings.lora_rank is not None and settings.merge
    if team.rank == 0:
        local = Path(settings.base).expanduser().is_dir()
        name = str(plan.folder.resolve()) if local else settings.base
        save_trained(model, plan.folder, name, out / ADAPTER if merges else out)
    del model, learner, measure  # merging takes the memory that they had
    if team.rank == 0 and merges and outcome.finished:
        merge_adapter(plan.folder, out / ADAPTER, out)
    if after is None:
        return None
    before = before.first(after.windows)
    gain, gain_error = after.gain_over(before)
    report = FineTuneReport(
        base=settings.base,
        spec_sha256=spec.sha256,
        parameters=parameters,
        trained_parameters=trained,
        train_tokens=packed.tokens(np.arange(len(packed))),
        seen_tokens=outcome.tokens,
        held_out_tokens=round(sum(after.tokens)),
        perplexity_before=before.perplexity,
        perplexity_after=after.perplexity,
        steps=outcome.steps,
        elapsed_s=outcome.elapsed_s,
        cpu_s=time.process_time() - cpu_started_s,
        held_out_windows=after.windows,
        held_out_of=after.of,
        error_before=before.perplexity_error,
        error_after=after.perplexity_error,
        gain_nats=gain,
        gain_error=gain_error,
    )
    if team.rank == 0:
        write_report(out, run, report)
        for name in (STATE, BEFORE):
            (out / name).unlink(missing_ok=True)
    return report


def read_fine_tuned(
    texts: list[Path], out: Path, spec: LoadedSpec, settings: FineTuning
) -> FineTuneReport | None:
    """The report of that very run, if it has finished."""
    fields = saved_report(out, _name(texts, spec, settings))
    return None if fields is None else FineTuneReport(**fields)


def _name(texts: list[Path], spec: LoadedSpec, settings: FineTuning) -> str:
    """What a run depends on: same name, same expert."""
    return json.dumps([spec.sha256, text_sha256(texts), asdict(settings)])


def _windows(
    texts: list[Path], spec: LoadedSpec, settings: FineTuning, on_progress: OnProgress
) -> tuple[NextTokens, NextTokens]:
    """(to train on, held out). Raises ConfigError on too little text."""
    documents = encoded(texts, spec, on_progress)
    kept, held_out = split_documents(documents, HELD_OUT_EVERY)
    ends = spec.spec.bos_id, spec.spec.end_id
    packed = pack(kept, settings.window, *ends)
    judged = pack(held_out, settings.window, *ends)
    # In no order, so that the first few stand for all.
    order = np.random.default_rng(0).permutation(len(judged))
    judged = judged[order[: -(-MAX_HELD_OUT_TOKENS // settings.window)]]
    if len(packed) < MIN_WINDOWS or not len(judged):
        tokens = sum(len(document) for document in documents)
        raise ConfigError(
            f"{tokens:,} tokens are too little text: a hundred thousand begin to change a model, "
            f"and {MIN_WINDOWS} windows of {settings.window:,} are the least"
        )
    return NextTokens(packed), NextTokens(judged)


def _schedule(
    run: str, task: str, settings: FineTuning, windows: int, plan: Plan, team: Team
) -> Schedule:
    batch = min(settings.batch, windows)
    micro_batches = plan.micro_batches(batch, team.size)
    team.check_same(micro_batches, "the size of a micro-batch: give them equal memory")
    steps = max(1, round(settings.epochs * (windows // batch)))
    usual_lr = FULL_LR if settings.lora_rank is None else LORA_LR
    return Schedule(
        run,
        task,
        math.inf if settings.seconds is None else settings.seconds,
        1,
        peak_lr=usual_lr if settings.lr is None else settings.lr,
        weight_decay=0.01,
        warmup_steps=max(1, min(20, steps // 10)),
        max_steps=steps,
        micro_batches=micro_batches,
    )


def _known_before(out: Path, state: str) -> Measured | None:
    """What was measured before training, of an interrupted run."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        known, before = json.loads((out / BEFORE).read_text())
        nats, tokens = tuple(before["nats"]), tuple(before["tokens"])
        return Measured(nats, tokens, before["of"]) if known == state else None
    return None
