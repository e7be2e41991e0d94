"""Make an expert from a model that somebody has: an adapter for it, or the whole of it anew."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesubnet.errors import ConfigError
from moesubnet.host.memory import free_memory_bytes
from moesubnet.host.progress import OnProgress, ignore
from moesubnet.spec.content import LoadedSpec
from moesubnet.training.base_model import (
    Precision,
    Size,
    find_base,
    load_base,
    merge_adapter,
    runs_in_bf16,
    save_trained,
    size_of,
)
from moesubnet.training.estimate import (
    Footprint,
    disk_bytes,
    footprint,
    in_words,
    time_in_words,
)
from moesubnet.training.expert import REPORT, encoded, saved_report, text_sha256, write_report
from moesubnet.training.learner import Learner
from moesubnet.training.optimizers import FULL_LR, LORA_LR, adamw
from moesubnet.training.packing import NO_LABEL, Packed, pack, split_documents
from moesubnet.training.team import ALONE, Team, device_of_this_process
from moesubnet.training.trainer import Schedule, train

if TYPE_CHECKING:
    import torch

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


@dataclass(frozen=True, slots=True)
class FineTuneReport:
    """What came out. Perplexities are per token, of text that occurs nowhere in training."""

    base: str
    spec_sha256: str
    parameters: int
    trained_parameters: int
    train_tokens: int  # in the text
    seen_tokens: int  # in the batches
    held_out_tokens: int
    perplexity_before: float
    perplexity_after: float
    steps: int
    elapsed_s: float
    cpu_s: float


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
    folder, device = find_base(settings.base, spec), device_of_this_process()
    bf16 = runs_in_bf16(settings.precision, device)
    plan, fixed = _plan(folder, settings, bf16, device, team)
    say(fixed)
    _check_disk(out, size_of(folder, settings.lora_rank), settings)
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
    model = load_base(
        folder, lora_rank=settings.lora_rank, low_precision=bf16, seed=settings.seed, device=device
    )
    if plan.recomputes:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    learner = Learner(model, bf16=bf16)
    before = _known_before(out, state)
    if before is None:
        before = learner.held_out_nats(
            held_out, plan.micro_windows, team, f"{out.name} held out, before", on_progress
        )
        if team.rank == 0:
            (out / BEFORE).write_text(json.dumps([state, before]))
    if schedule.max_steps is not None:
        batch = min(settings.batch, len(packed))
        at_once = -(-batch // schedule.micro_batches)
        step_s = learner.seconds_per_window(packed, at_once) * batch / team.size
        say(time_in_words(schedule.max_steps, packed.ids.size, step_s, settings.seconds))

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
    after = math.nan
    if outcome.finished:
        after = learner.held_out_nats(
            held_out, plan.micro_windows, team, f"{out.name} held out, after", on_progress
        )
    if team.rank == 0:
        _save(model, folder, settings, out, whole=outcome.finished)
    if not outcome.finished:
        return None
    report = FineTuneReport(
        base=settings.base,
        spec_sha256=spec.sha256,
        parameters=sum(p.numel() for p in model.parameters()),
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        train_tokens=int((packed.labels != NO_LABEL).sum()),
        seen_tokens=outcome.tokens,
        held_out_tokens=int((held_out.labels != NO_LABEL).sum()),
        perplexity_before=math.exp(before),
        perplexity_after=math.exp(after),
        steps=outcome.steps,
        elapsed_s=outcome.elapsed_s,
        cpu_s=time.process_time() - cpu_started_s,
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


def _plan(
    folder: Path, settings: FineTuning, bf16: bool, device: torch.device, team: Team
) -> tuple[Footprint, str]:
    """How steps are cut to fit into memory, and what to say of it."""
    from moesubnet.training.head import CHUNK_LOGITS

    size, free = size_of(folder, settings.lora_rank), free_memory_bytes(str(device))
    plan = footprint(
        size,
        bf16=bf16,
        chunk_logits=CHUNK_LOGITS[device.type],
        window=settings.window,
        batch=settings.batch,
        free_bytes=free // (team.size if device.type == "cpu" else 1),
        device_type=device.type,
    )
    share = size.trained / size.parameters
    how = "float32" if not bf16 else "bf16"
    return plan, (
        f"{settings.base}: {size.parameters / 1e6:,.1f} M parameters, {size.trained / 1e6:,.1f} M "
        f"of them trained ({share:.1%}), in {how} on {device.type}. It will take about "
        f"{in_words(plan.total_bytes)} of memory; {in_words(free)} are free."
        + (" Layers are computed twice to save memory." if plan.recomputes else "")
    )


def _check_disk(out: Path, size: Size, settings: FineTuning) -> None:
    """Raises ConfigError before hours of work would end on a disk that is full."""
    needed = disk_bytes(size, writes_whole=settings.lora_rank is None or settings.merge)
    disk = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    held = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if (free := shutil.disk_usage(disk).free + held) < needed:
        raise ConfigError(
            f"training writes about {in_words(needed)} to {out}, its own state and what comes of "
            f"it, and {in_words(free)} are free there: give another --out"
        )


def _windows(
    texts: list[Path], spec: LoadedSpec, settings: FineTuning, on_progress: OnProgress
) -> tuple[Packed, Packed]:
    """(to train on, held out). Raises ConfigError on too little text."""
    documents = encoded(texts, spec, on_progress)
    kept, held_out = split_documents(documents, HELD_OUT_EVERY)
    ends = spec.spec.bos_id, spec.spec.end_id
    packed = pack(kept, settings.window, *ends)
    judged = pack(held_out, settings.window, *ends)[: -(-MAX_HELD_OUT_TOKENS // settings.window)]
    if len(packed) < MIN_WINDOWS or not len(judged):
        tokens = sum(len(document) for document in documents)
        raise ConfigError(
            f"{tokens:,} tokens are too little text: a hundred thousand begin to change a model, "
            f"and {MIN_WINDOWS} windows of {settings.window:,} are the least"
        )
    return packed, judged


def _schedule(
    run: str, task: str, settings: FineTuning, windows: int, plan: Footprint, team: Team
) -> Schedule:
    batch = min(settings.batch, windows)
    micro_batches = max(-(-batch // plan.micro_windows), min(team.size, batch))
    team.check_same(micro_batches, "the size of a micro-batch: give them equal memory")
    steps = max(1, round(settings.epochs * (windows // batch)))
    lr = settings.lr or (FULL_LR if settings.lora_rank is None else LORA_LR)
    return Schedule(
        run,
        task,
        settings.seconds or math.inf,
        1,
        peak_lr=lr,
        weight_decay=0.01,
        warmup_steps=max(1, min(20, steps // 10)),
        max_steps=steps,
        micro_batches=micro_batches,
    )


def _known_before(out: Path, state: str) -> float | None:
    """The held-out loss before training, of an interrupted run."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        known, before = json.loads((out / BEFORE).read_text())
        return float(before) if known == state else None
    return None


def _save(model: Any, folder: Path, settings: FineTuning, out: Path, *, whole: bool) -> None:
    """The adapter or the model; a merged one only of a `whole` run."""
    name = str(folder.resolve()) if Path(settings.base).expanduser().is_dir() else settings.base
    if settings.lora_rank is None or not settings.merge:
        save_trained(model, folder, name, out)
        return
    save_trained(model, folder, name, out / ADAPTER)
    if whole:
        merge_adapter(folder, out / ADAPTER, out)
