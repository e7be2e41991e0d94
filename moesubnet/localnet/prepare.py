"""Everything a localnet needs before its first process: text, tokenizer, spec, trained experts.

What exists already is used again: each step is keyed by what it depends on, so a second start
takes no time and an interrupted one goes on where it stopped.

    <root>/corpora/    the parts of `corpora.py` and report.json
    <root>/spec/       spec.json and its files
    <root>/experts/    one model folder, or adapter, per domain
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from moesubnet.host.paths import write_whole
from moesubnet.host.progress import OnProgress, Progress, ignore
from moesubnet.localnet.corpora import DomainReport, build
from moesubnet.localnet.kinds import Kind, Report
from moesubnet.localnet.sources import SOURCES
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.documents import read_documents
from moesubnet.training.jobs import run_job

CORPORA_LAYOUT = 1  # raise when the parts change, so that old ones are not used again
PROMPT_CHARS = 150


@dataclass(frozen=True, slots=True)
class Prepared:
    """Paths and figures of a prepared localnet. Keys are domains, in the order of `SOURCES`."""

    spec: LoadedSpec
    corpora: Path
    domains: Mapping[str, DomainReport]
    expert_reports: Mapping[str, Report]

    prompts: Mapping[str, str]  # a beginning to complete, from the test part


async def prepare(
    root: Path,
    kind: Kind,
    *,
    seed: int = 0,
    validators: int = 2,
    at_once: int = 2,
    on_progress: OnProgress = ignore,
    say: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Build or reuse everything under `root`. Experts train `at_once` at a time, one thread each;
    what each came to is said. Raises ConfigError, SpecError."""
    corpora = root / "corpora"
    domains = await asyncio.to_thread(prepare_corpora, corpora, kind, seed, validators, on_progress)
    spec = await asyncio.to_thread(kind.make_spec, corpora, root / "spec")
    names = list(domains)
    reports = await train_experts(kind, spec, root, names, seed, at_once, on_progress, say)
    return Prepared(
        spec=spec,
        corpora=corpora,
        domains=domains,
        expert_reports=dict(zip(domains, reports, strict=True)),
        prompts={domain: _prompt(corpora / "test" / f"{domain}.jsonl") for domain in domains},
    )


def prepare_corpora(
    corpora: Path, kind: Kind, seed: int, validators: int, progress: OnProgress = ignore
) -> dict[str, DomainReport]:
    """The parts under `corpora`, built unless they stand there for this kind. What is installed
    since changes nothing: with the text all that was trained on it would go."""
    key = _key(kind, seed, validators)
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
    domains = build(
        corpora, seed, tokenizer_of=kind.tokenizer, sizes=kind.sizes, validators=validators
    )
    rows = {domain: asdict(row) for domain, row in domains.items()}
    write_whole(report, json.dumps({"key": key, "domains": rows}, indent=1) + "\n")
    progress(Progress("text", 1.0, None, time.monotonic() - started_s))
    return domains


async def train_experts(
    kind: Kind,
    spec: LoadedSpec,
    root: Path,
    domains: Sequence[str],
    seed: int,
    at_once: int,
    on_progress: OnProgress = ignore,
    say: Callable[[str], None] = lambda text: None,
) -> list[Report]:
    """One process per domain, `at_once` at a time, niced, one thread each: two experts side by
    side are faster in sum than one after the other on two threads.

    Raises ConfigError with the last words of a process that fails; the others are stopped.
    """
    slots = asyncio.Semaphore(at_once)

    async def train(domain: str, seed: int) -> Report:
        text, out = root / "corpora" / "experts" / f"{domain}.jsonl", root / "experts" / domain
        if (finished := kind.finished(text, out, spec, seed)) is not None:
            return finished  # without the seconds that a process takes to load torch
        async with slots:
            arguments = kind.training(text, out, spec, seed)
            await run_job("moesubnet.training.cli", arguments, on_progress)
        trained = kind.finished(text, out, spec, seed)
        assert trained is not None, "a training that ended well has left its report"
        say(f"{domain}: {trained.steps} steps; {trained.held_out_words}")
        return trained

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(train(domain, seed + index))
                for index, domain in enumerate(domains)
            ]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def _prompt(path: Path) -> str:
    """A beginning to try the network with: the first lines of an unseen text."""
    text = next(read_documents(path)).text
    return text[: text.find("\n", PROMPT_CHARS) + 1 or PROMPT_CHARS]


def _key(kind: Kind, seed: int, validators: int) -> str:
    """Changes with however the text is cut."""
    parts = (CORPORA_LAYOUT, kind.key, asdict(kind.sizes), list(SOURCES), seed, validators)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
