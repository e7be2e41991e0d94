"""From a model's family and public text to the folder of a spec."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesubnet.errors import ConfigError, SpecError
from moesubnet.host.progress import OnProgress, Progress, ignore
from moesubnet.mixture.baseline import Unigram
from moesubnet.owner.check import Findings, check_template, check_tokenizer
from moesubnet.spec.content import (
    PUBLIC,
    TOKENIZER,
    UNIGRAM,
    LoadedSpec,
    Spec,
    save_spec,
    spec_files,
)
from moesubnet.spec.documents import Document, read_documents, write_documents
from moesubnet.spec.family import Family
from moesubnet.training.dataset import encode

MIN_TOKENS_A_TOKEN = 1 / 64  # of text per token of the vocabulary; below, no baseline to speak of
SAMPLED_DOCUMENTS = 1_000
_BATCH_CHARS = 1 << 20


@dataclass(frozen=True)
class Built:
    """A spec, its findings, and how much public text it has."""

    spec: LoadedSpec
    findings: Findings
    documents: int
    tokens: int


def build_spec(
    family: Family,
    texts: Sequence[Path],
    out: Path,
    *,
    name: str,
    context_tokens: int,
    min_caller_stake_rao: int,
    on_progress: OnProgress = ignore,
) -> Built:
    """Write the folder `out`. Raises SpecError for a template that does not work, before the text
    is read; ConfigError for text that cannot be used."""
    if (out / "spec.json").exists():
        raise ConfigError(
            f"{out} holds a spec already. A subnet's spec is known by its hash, so it is not "
            "written over: give another --out, or delete that folder"
        )
    spec = Spec(
        name=name,
        unit=family.unit,
        token_units=family.token_units,
        vocab_size=family.vocab_size,
        bos_id=family.bos_id,
        stop_ids=tuple(sorted(family.stops)),
        context_tokens=context_tokens,
        chat_template=family.template,
        special_tokens=family.special_tokens,
        min_caller_stake_rao=min_caller_stake_rao,
        **spec_files(None),
    )
    check_tokenizer(spec, family.tokenizer)
    findings = Findings()
    check_template(spec, family.tokenizer, findings)
    if findings.problems:
        raise SpecError("this chat template does not work here: " + "; ".join(findings.problems))
    out.mkdir(parents=True, exist_ok=True)
    if family.unit == "bytes":
        family.tokenizer.save(str(out / TOKENIZER))
    else:
        shutil.copyfile(family.tokenizer_path, out / TOKENIZER)
    documents = _documents(texts)
    write_documents(out / PUBLIC, documents)
    counts = _count(family, documents, on_progress)
    Unigram.of_counts(counts).save(out / UNIGRAM)
    tokens = int(counts.sum())
    if tokens < family.vocab_size * MIN_TOKENS_A_TOKEN:
        findings.notes.append(
            f"{tokens:,} tokens of public text say little about {family.vocab_size:,} tokens: the "
            "baseline will be nearly uniform, and a student learns from this text alone. Give more"
        )

    loaded = save_spec(out, spec.model_copy(update=spec_files(out)))
    return Built(loaded, findings, len(documents), tokens)


def mean_token_bytes(family: Family, texts: Sequence[Path]) -> float:
    """Of public text in a family's tokens, to two places."""
    documents = _documents(texts)[:SAMPLED_DOCUMENTS]
    tokens = sum(map(len, encode([document.text for document in documents], family.tokenizer)))
    size = sum(len(document.text.encode()) for document in documents)
    return round(min(max(1.0, size / max(1, tokens)), 64.0), 2)


def _documents(texts: Sequence[Path]) -> list[Document]:
    """All that is not empty; a file's name is the domain where it names none."""
    documents = [
        Document(document.domain or path.stem, document.text)
        for path in texts
        for document in read_documents(path)
        if document.text.strip()
    ]
    if not documents:
        raise ConfigError("the public text is empty: give files with text, see --text")
    return documents


def _count(
    family: Family, documents: Sequence[Document], on_progress: OnProgress
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """int64 [V]: how often each token occurs. Nothing is kept but the counts."""
    counts = np.zeros(family.vocab_size, np.int64)
    total, done, started_s = sum(len(d.text) for d in documents), 0, time.monotonic()
    for batch in _batches(documents):
        ids = np.concatenate(encode([document.text for document in batch], family.tokenizer))
        if len(ids) and (highest := int(ids.max())) >= family.vocab_size:
            text = family.tokenizer.id_to_token(highest)
            raise ConfigError(
                f"the public text holds {text!r}, token {highest}, and the model's vocabulary ends "
                f"at {family.vocab_size}: take it out of the text"
            )
        counts += np.bincount(ids, minlength=family.vocab_size)
        done += sum(len(document.text) for document in batch)
        on_progress(Progress("counting", done / total, None, time.monotonic() - started_s))
    return counts


def _batches(documents: Sequence[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if chars >= _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def file_sizes(spec: LoadedSpec) -> dict[str, int]:
    """Bytes of each file of the folder that belongs to the spec, by its path."""
    paths = ("spec.json", *(file.path for file in spec.spec.files))
    return {path: (spec.root / path).stat().st_size for path in paths}
