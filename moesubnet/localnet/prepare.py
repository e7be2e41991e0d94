"""Everything a localnet needs before its first process: text, tokenizer, spec, trained experts.

What exists already is used again: each step is keyed by what it depends on, so a second start
takes no time and an interrupted one goes on where it stopped.

    <root>/corpora/    the parts of `corpora.py` and report.json
    <root>/spec/       spec.json and its files
    <root>/experts/    one model folder per domain
"""

from __future__ import annotations

import asyncio
import glob
import hashlib
import importlib.metadata
import json
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from moesubnet.localnet.corpora import VOCAB_SIZE, DomainReport, build
from moesubnet.localnet.sources import SOURCES
from moesubnet.mixture.baseline import Unigram
from moesubnet.spec.content import Baseline, LoadedSpec, Spec, SpecFile, file_sha256, save_spec
from moesubnet.training.dataset import encode, read_documents
from moesubnet.training.expert import ExpertReport, read_report, run_name
from moesubnet.training.jobs import run_job
from moesubnet.training.progress import OnProgress, Progress, ignore
from moesubnet.training.tokenizer import load_tokenizer

CONTEXT_TOKENS = 256
MIN_CALLER_STAKE_RAO = 10**9
CORPORA_LAYOUT = 1  # raise when the parts change, so that old ones are not used again
# The experts complete text and do not chat: the template only joins.
CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}\n\n{% endfor %}"
PROMPT_CHARS = 150


@dataclass(frozen=True, slots=True)
class Prepared:
    """Paths and figures of a prepared localnet. Keys are domains, in the order of `SOURCES`."""

    spec: LoadedSpec
    corpora: Path
    domains: Mapping[str, DomainReport]
    experts: Mapping[str, Path]
    expert_reports: Mapping[str, ExpertReport]

    prompts: Mapping[str, str]  # a beginning to complete, from the test part


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One expert to train: from `text` into folder `out`."""

    text: Path
    out: Path
    seconds: float
    min_steps: int
    seed: int


async def prepare(
    root: Path,
    *,
    seed: int = 0,
    validators: int = 2,
    expert_seconds: float = 120.0,
    min_steps: int = 300,
    at_once: int = 2,
    on_progress: OnProgress = ignore,
) -> Prepared:
    """Build or reuse everything under `root`. Experts train `at_once` at a time, one thread and
    `expert_seconds` each. Raises ConfigError."""
    corpora = root / "corpora"
    domains = await asyncio.to_thread(prepare_corpora, corpora, seed, validators, on_progress)
    spec = await asyncio.to_thread(prepare_spec, corpora, root / "spec")
    jobs = [
        TrainJob(
            corpora / "experts" / f"{domain}.jsonl",
            root / "experts" / domain,
            expert_seconds,
            min_steps,
            seed + index,
        )
        for index, domain in enumerate(domains)
    ]
    reports = await train_experts(spec, jobs, at_once, on_progress)
    return Prepared(
        spec=spec,
        corpora=corpora,
        domains=domains,
        experts={domain: job.out for domain, job in zip(domains, jobs, strict=True)},
        expert_reports=dict(zip(domains, reports, strict=True)),
        prompts={domain: _prompt(corpora / "test" / f"{domain}.jsonl") for domain in domains},
    )


def prepare_corpora(
    corpora: Path, seed: int, validators: int, progress: OnProgress = ignore
) -> dict[str, DomainReport]:
    """The parts under `corpora`, built unless they stand there for this installation and seed."""
    key = _installation_key(seed, validators)
    report = corpora / "report.json"
    if report.exists():
        saved = json.loads(report.read_text())
        if saved["key"] == key:
            return {
                domain: DomainReport(**row | {"validator_tokens": tuple(row["validator_tokens"])})
                for domain, row in saved["domains"].items()
            }
    started_s = time.monotonic()
    progress(Progress("text", 0.0, None, 0.0))
    shutil.rmtree(corpora, ignore_errors=True)
    corpora.mkdir(parents=True)
    domains = build(corpora, seed, validators=validators)
    rows = {domain: asdict(row) for domain, row in domains.items()}
    report.write_text(json.dumps({"key": key, "domains": rows}, indent=1) + "\n")
    progress(Progress("text", 1.0, None, time.monotonic() - started_s))
    return domains


def prepare_spec(corpora: Path, out: Path) -> LoadedSpec:
    """The spec folder: tokenizer, public text and the unigram baseline counted on it."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "public.jsonl"):
        shutil.copyfile(corpora / name, out / name)
    texts = [document.text for document in read_documents(out / "public.jsonl")]
    ids = np.concatenate(encode(texts, load_tokenizer(out / "tokenizer.json")))
    Unigram.build(ids, VOCAB_SIZE).save(out / "unigram.npy")

    def named(name: str) -> SpecFile:
        return SpecFile(path=name, sha256=file_sha256(out / name))

    spec = Spec(
        name="localnet",
        tokenizer=named("tokenizer.json"),
        vocab_size=VOCAB_SIZE,
        bos_id=0,
        stop_ids=(0,),
        context_tokens=CONTEXT_TOKENS,
        chat_template=CHAT_TEMPLATE,
        min_caller_stake_rao=MIN_CALLER_STAKE_RAO,
        public_text=named("public.jsonl"),
        baseline=Baseline(kind="unigram", file=named("unigram.npy")),
    )
    return save_spec(out, spec)


async def train_experts(
    spec: LoadedSpec, jobs: Sequence[TrainJob], at_once: int, on_progress: OnProgress = ignore
) -> list[ExpertReport]:
    """One process per job, `at_once` at a time, niced, one thread each: two experts side by side
    are faster in sum than one after the other on two threads.

    Raises ConfigError with the last words of a process that fails; the others are stopped.
    """
    slots = asyncio.Semaphore(at_once)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_train_one(spec, job, slots, on_progress)) for job in jobs]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _train_one(
    spec: LoadedSpec, job: TrainJob, slots: asyncio.Semaphore, on_progress: OnProgress
) -> ExpertReport:
    run = run_name([job.text], spec, budget_s=job.seconds, min_steps=job.min_steps, seed=job.seed)
    if (finished := read_report(job.out, run)) is not None:
        return finished  # without the seconds that a process takes to load torch
    arguments = [
        *("--spec", str(spec.root), "--text", glob.escape(str(job.text)), "--out", str(job.out)),
        *("--seconds", f"{job.seconds:g}", "--min-steps", str(job.min_steps)),
        *("--seed", str(job.seed), "--json"),
    ]
    async with slots:
        return ExpertReport(**await run_job("moesubnet.training.cli", arguments, on_progress))


def _prompt(path: Path) -> str:
    """A beginning to try the network with: the first lines of an unseen text."""
    text = next(read_documents(path)).text
    return text[: text.find("\n", PROMPT_CHARS) + 1 or PROMPT_CHARS]


def _installation_key(seed: int, validators: int) -> str:
    """Changes with whatever the text depends on."""
    versions = sorted(f"{d.name}={d.version}" for d in importlib.metadata.distributions())
    parts = (CORPORA_LAYOUT, platform.python_version(), list(SOURCES), seed, validators, versions)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
