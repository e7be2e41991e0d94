"""The two kinds of local network: small experts from nothing, or adapters of one base model.

A kind says what the experts' text is cut with, what the spec is, how each expert is trained and
what a miner is told to serve.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer

from moesubnet.localnet.corpora import FULL, Sizes
from moesubnet.localnet.sources import SOURCES
from moesubnet.mixture.baseline import Unigram
from moesubnet.owner.build import build_spec
from moesubnet.spec.content import LoadedSpec, Spec, file_sha256, load_spec, save_spec, spec_files
from moesubnet.spec.documents import read_documents
from moesubnet.spec.family import Family, read_family
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.training.dataset import encode
from moesubnet.training.expert import ExpertReport, read_report, run_name
from moesubnet.training.fine_tuned import FineTuneReport
from moesubnet.training.finetune import FineTuning, read_fine_tuned
from moesubnet.training.tokenizer import train_tokenizer

MIN_CALLER_STAKE_RAO = 10**9
SMALL_VOCAB, SMALL_CONTEXT_TOKENS = 2048, 256
# The small experts complete text and do not chat: the template only joins.
SMALL_TEMPLATE = "{% for message in messages %}{{ message.content }}\n\n{% endfor %}"
SMALL_STEPS = 300  # also on a machine where they take longer than the seconds asked for

BASE_CONTEXT_TOKENS = 2_048  # at most: what two cores read in seconds
LORA_RANK, LORA_WINDOW, LORA_BATCH = 16, 256, 4
ADAPTER_LR = 5e-4  # more than usual: there is time for some dozens of steps
# A model a hundred times as large reads a hundred times as slowly; the figures are coarser.
BASE_SIZES = Sizes(public_chars=14_000, test_tokens=2_000)

Report = ExpertReport | FineTuneReport


class Kind(Protocol):
    """See the module."""

    @property
    def key(self) -> str:
        """Changes with whatever the text is cut by."""
        ...

    @property
    def sizes(self) -> Sizes: ...

    def tokenizer(self, public: Sequence[str]) -> Tokenizer: ...

    def make_spec(self, corpora: Path, out: Path) -> LoadedSpec:
        """Write the folder `out`. Raises ConfigError, SpecError."""
        ...

    def training(self, text: Path, out: Path, spec: LoadedSpec, seed: int) -> list[str]:
        """Arguments of `moesubnet expert train` for one domain's expert."""
        ...

    def finished(self, text: Path, out: Path, spec: LoadedSpec, seed: int) -> Report | None:
        """The report of that very training, if it was done before."""
        ...

    def served(self, expert: str, folder: Path) -> list[str]:
        """Arguments of `moesubnet miner run` that say what it serves."""
        ...

    @property
    def distilling(self) -> list[str]:
        """Arguments of `moesubnet distill run` that say what the student is."""
        ...

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of those who serve."""
        ...

    @property
    def chats(self) -> bool: ...

    @property
    def about(self) -> str:
        """A word on these experts, for people."""
        ...


@dataclass(frozen=True)
class Small:
    """Experts of 1.7 M parameters, each trained for so many seconds on one kind of text."""

    seconds: float
    key = ""
    sizes = FULL
    chats = False
    about = " These experts are small: they complete text of their domains and do not chat."

    def tokenizer(self, public: Sequence[str]) -> Tokenizer:
        return train_tokenizer(public, SMALL_VOCAB)

    def make_spec(self, corpora: Path, out: Path) -> LoadedSpec:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "public.jsonl"):
            shutil.copyfile(corpora / name, out / name)
        texts = [document.text for document in read_documents(out / "public.jsonl")]
        ids = np.concatenate(encode(texts, load_tokenizer(out / "tokenizer.json")))
        Unigram.build(ids, SMALL_VOCAB).save(out / "unigram.npy")

        spec = Spec(
            name="localnet",
            vocab_size=SMALL_VOCAB,
            bos_id=0,
            stop_ids=(0,),
            context_tokens=SMALL_CONTEXT_TOKENS,
            chat_template=SMALL_TEMPLATE,
            min_caller_stake_rao=MIN_CALLER_STAKE_RAO,
            **spec_files(out),
        )
        return save_spec(out, spec)

    def training(self, text: Path, out: Path, spec: LoadedSpec, seed: int) -> list[str]:
        return [
            *_training(text, out, spec, seed, self.seconds),
            *("--min-steps", str(SMALL_STEPS)),
        ]

    def finished(self, text: Path, out: Path, spec: LoadedSpec, seed: int) -> Report | None:
        name = run_name([text], spec, budget_s=self.seconds, min_steps=SMALL_STEPS, seed=seed)
        return read_report(out, name)

    def served(self, expert: str, folder: Path) -> list[str]:
        return ["--model", str(folder)]

    @property
    def distilling(self) -> list[str]:
        return ["--min-steps", str(SMALL_STEPS)]

    @property
    def experts(self) -> tuple[str, ...]:
        return tuple(SOURCES)


@dataclass(frozen=True)
class FromBase:
    """The base itself and adapters of it, each trained for so many seconds on one kind of text."""

    base: str
    seconds: float
    sizes = BASE_SIZES

    @cached_property
    def family(self) -> Family:
        return read_family(self.base)

    @property
    def key(self) -> str:
        return file_sha256(self.family.tokenizer_path)

    @property
    def chats(self) -> bool:
        return bool(self.family.template)

    @property
    def about(self) -> str:
        if self.chats:
            return ""
        return (
            f" {self.name} has no chat template: this subnet goes on with texts, and all but chat "
            "works. /v1/chat/completions and /v1/responses are refused. (A model that was made to "
            "chat has one, in chat_template.jinja or tokenizer_config.json.)"
        )

    @property
    def name(self) -> str:
        """What the base is called, for folders and people."""
        return Path(self.base).expanduser().resolve().name if self._is_folder else self.base

    @property
    def _is_folder(self) -> bool:
        return Path(self.base).expanduser().is_dir()

    @property
    def model(self) -> str:
        """As other processes are to find it."""
        return str(Path(self.base).expanduser().resolve()) if self._is_folder else self.base

    def tokenizer(self, public: Sequence[str]) -> Tokenizer:
        return self.family.tokenizer

    def make_spec(self, corpora: Path, out: Path) -> LoadedSpec:
        new = out.with_name("spec.new")
        shutil.rmtree(new, ignore_errors=True)
        context = min(BASE_CONTEXT_TOKENS, self.family.context_tokens or BASE_CONTEXT_TOKENS)
        build_spec(
            self.family,
            [corpora / "public.jsonl"],
            new,
            name=f"localnet of {Path(self.name).name}"[:64],
            context_tokens=context,
            min_caller_stake_rao=MIN_CALLER_STAKE_RAO,
        )
        shutil.rmtree(out, ignore_errors=True)
        new.rename(out)
        return load_spec(out)

    def training(self, text: Path, out: Path, spec: LoadedSpec, seed: int) -> list[str]:
        return [
            *_training(text, out, spec, seed, self.seconds),
            *("--from", self.model, "--lora", str(LORA_RANK)),
            *("--window", str(LORA_WINDOW), "--batch", str(LORA_BATCH)),
            *("--learning-rate", f"{ADAPTER_LR:g}"),
        ]

    def finished(self, text: Path, out: Path, spec: LoadedSpec, seed: int) -> Report | None:
        settings = FineTuning(
            base=self.model,
            lora_rank=LORA_RANK,
            window=min(LORA_WINDOW, spec.spec.context_tokens),
            batch=LORA_BATCH,
            seconds=self.seconds,
            lr=ADAPTER_LR,
            seed=seed,
        )
        return read_fine_tuned([text], out, spec, settings)

    def served(self, expert: str, folder: Path) -> list[str]:
        what = [] if expert == BASE else ["--adapter", str(folder)]
        return ["--model", self.model, *what, "--name", expert]

    @property
    def distilling(self) -> list[str]:
        # The experts are our own here, so whole windows may be sent at once. All weights of two
        # students of 270 M parameters are 15 GB beside the miners; adapters take 7.
        return [
            *("--from", self.model, "--lora", str(LORA_RANK)),
            *("--learning-rate", f"{ADAPTER_LR:g}"),
            *("--prefill", "--student-seconds", f"{self.seconds:g}"),
        ]

    @property
    def experts(self) -> tuple[str, ...]:
        return (BASE, *SOURCES)


BASE = "base"  # the expert that is the base itself


def _training(text: Path, out: Path, spec: LoadedSpec, seed: int, seconds: float) -> list[str]:
    return [
        *("--spec", str(spec.root), "--text", glob.escape(str(text)), "--out", str(out)),
        *("--seconds", f"{seconds:g}", "--seed", str(seed), "--json"),
    ]
