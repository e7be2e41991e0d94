"""Train a small expert from raw text, on any machine, in minutes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moesubnet.errors import ConfigError
from moesubnet.host.paths import write_whole
from moesubnet.host.progress import OnProgress, Progress, ignore
from moesubnet.spec.content import LoadedSpec, file_sha256
from moesubnet.spec.documents import read_documents
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.training.dataset import Ids, encode, random_windows, split_held_out
from moesubnet.training.model import new_model, parameter_count, save_model, small_config
from moesubnet.training.trainer import Schedule, held_out_loss, next_token_loss, train

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from transformers import LlamaForCausalLM

BATCH_TOKENS = 1_024  # small batches: in two minutes, steps are what is scarce
HELD_OUT_EVERY = 20
MAX_HELD_OUT_WINDOWS = 80
MIN_WINDOWS = 20
READING = "reading"
REPORT = "report.json"


@dataclass(frozen=True, slots=True)
class ExpertReport:
    """How an expert came about. `held_out_perplexity` is on text it was not trained on."""

    spec_sha256: str
    parameters: int
    train_tokens: int  # in the text
    seen_tokens: int  # in the batches
    held_out_tokens: int
    held_out_perplexity: float
    steps: int
    elapsed_s: float
    cpu_s: float

    @property
    def held_out_words(self) -> str:
        return f"held-out perplexity {self.held_out_perplexity:.1f}"


def train_expert(
    texts: list[Path],
    out: Path,
    spec: LoadedSpec,
    *,
    budget_s: float = 120.0,
    min_steps: int = 300,
    seed: int = 0,
    resume: bool = True,
    progress: OnProgress = ignore,
) -> ExpertReport:
    """Train on `texts` (files or `.jsonl`); write a Hugging Face folder and report.json to `out`.

    Ends when `budget_s` and `min_steps` are both spent. Continues an interrupted run of the same
    text and settings unless `resume` is false; a finished one returns its report at once. One
    torch thread unless OMP_NUM_THREADS says more. Raises ConfigError on too little text, or for a
    vocabulary too large for a small model.
    """
    import torch

    from moesubnet.training.head import split_model

    config = small_config(spec)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    run = run_name(texts, spec, budget_s=budget_s, min_steps=min_steps, seed=seed)
    checkpoint = out / "training.state"  # no model file: miners load *.safetensors
    if resume and (finished := read_report(out, run)) is not None:
        return finished
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        checkpoint.unlink(missing_ok=True)
    (out / REPORT).unlink(missing_ok=True)

    cpu_started_s = time.process_time()
    window = spec.spec.context_tokens
    documents = encoded(texts, spec, progress)
    ids, held_out = split_held_out(documents, spec.spec.bos_id, window - 1, HELD_OUT_EVERY)
    held_out = held_out[:MAX_HELD_OUT_WINDOWS]
    if len(ids) < MIN_WINDOWS * window:
        raise ConfigError(
            f"{len(ids):,} tokens are too little text to train on; "
            f"{MIN_WINDOWS * window:,} is the least, a few hundred thousand make an expert"
        )
    model = new_model(config, seed)
    split = split_model(model)

    def batch_loss(model: LlamaForCausalLM, step: int) -> tuple[torch.Tensor, int]:
        # Half the context most of the time, for diversity; all of it often enough to be served.
        length = window if step % 4 == 3 else window // 2
        rng = np.random.default_rng([seed, step])
        windows = random_windows(ids, max(1, BATCH_TOKENS // length), length, spec.spec.bos_id, rng)
        return next_token_loss(split, windows), windows.size

    outcome = train(
        model,
        batch_loss,
        Schedule(run, out.name, budget_s, min_steps),
        checkpoint=checkpoint,
        on_progress=progress,
    )
    save_model(model, spec, out)
    report = ExpertReport(
        spec_sha256=spec.sha256,
        parameters=parameter_count(model),
        train_tokens=len(ids),
        seen_tokens=outcome.tokens,
        held_out_tokens=held_out.size,
        held_out_perplexity=math.exp(held_out_loss(split, held_out, spec.spec.bos_id)),
        steps=outcome.steps,
        elapsed_s=outcome.elapsed_s,
        cpu_s=time.process_time() - cpu_started_s,
    )
    write_report(out, run, report)
    checkpoint.unlink(missing_ok=True)
    return report


def run_name(
    texts: list[Path], spec: LoadedSpec, *, budget_s: float, min_steps: int, seed: int
) -> str:
    """What a run depends on: same name, same expert."""
    return f"{spec.sha256}/{text_sha256(texts)}/{budget_s:g}s/{min_steps}/{seed}"


def read_report(out: Path, run: str) -> ExpertReport | None:
    """The report of a finished run, or None if it is missing or of another run."""
    fields = saved_report(out, run)
    return None if fields is None else ExpertReport(**fields)


def saved_report(out: Path, run: str) -> dict[str, Any] | None:
    """The fields of what `write_report` wrote for this very run."""
    try:
        saved = json.loads((out / REPORT).read_text())
    except FileNotFoundError:
        return None
    return dict(saved["report"]) if saved["run"] == run else None


def write_report(out: Path, run: str, report: DataclassInstance) -> None:
    """Last of all: a folder with a report is finished."""
    write_whole(out / REPORT, json.dumps({"run": run, "report": asdict(report)}, indent=1) + "\n")


def text_sha256(texts: list[Path]) -> str:
    """Of the hashes of all files, in order."""
    return hashlib.sha256("".join(file_sha256(path) for path in texts).encode()).hexdigest()


def encoded(texts: list[Path], spec: LoadedSpec, progress: OnProgress) -> list[Ids]:
    tokenizer = load_tokenizer(spec.tokenizer_path)
    total_bytes = max(1, sum(path.stat().st_size for path in texts))
    started_s, read_bytes = time.monotonic(), 0
    documents: list[Ids] = []
    for path in texts:
        documents += encode([document.text for document in read_documents(path)], tokenizer)
        read_bytes += path.stat().st_size
        if len(texts) > 1:  # of a single file there is nothing to tell before it is done
            elapsed_s = time.monotonic() - started_s
            progress(Progress(READING, min(1.0, read_bytes / total_bytes), None, elapsed_s))
    return documents
