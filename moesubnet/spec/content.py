"""The subnet's spec: what every neuron must agree on, each file by its SHA-256.

A spec is a folder with `spec.json` and the files it names. The owner puts SHA-256(spec.json) on
chain; whoever joins reads that hash, loads the folder and refuses anything that differs. A
spec.json of version 1 goes on being one: it is read as the version 2 that says the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moesubnet.errors import SpecError
from moesubnet.host.paths import write_whole
from moesubnet.units import Grain
from moesubnet.wire.strict_json import parse_json

SPEC_FORMAT: Final = "moesubnet-spec/2"
BYTE_SYMBOLS, BYTE_END = 257, 256  # of unit bytes: every byte, and the end of a text
TOKENIZER, PUBLIC, UNIGRAM = "tokenizer.json", "public.jsonl", "unigram.npy"  # usual names
MAX_SPEC_BYTES = 262_144
MAX_TEMPLATE_CHARS = 100_000  # published ones have up to 25,000


class SpecFile(BaseModel):
    """A file of the spec: `path` relative to spec.json, `sha256` in lower-case hex.

    No part of the path begins with a dot, so none leads out of the folder: it is a stranger's
    word about where we write what we fetch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str = Field(
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$", max_length=200
    )
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Baseline(BaseModel):
    """What experts must beat, and a permanent member of the mixture.

    `unigram`: a .npy of float32 [vocab_size] log-probabilities (add-one counts over the public
    transfer set). `student`: a safetensors model folder packed as one .tar (later generations).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["unigram", "student"]
    file: SpecFile


SpecialName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
SpecialToken = Annotated[str, Field(max_length=256)]


class Spec(BaseModel):
    """The content of spec.json.

    unit: what laws are over: one family's tokens, or bytes and the end of text (`byte_unit`),
    which models of any tokenizer forecast. token_units: how many units a mean token has.
    context_tokens: in units.
    bos_id: fed before every sequence; documents begin with it.
    stop_ids: each ends an answer; ascending. A family has several: of texts, of turns, of calls.
    chat_template: Jinja, rendered as transformers renders it, with `special_tokens` (`bos_token`,
    `eos_token` …) among its variables. Empty: the models do not chat.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal["moesubnet-spec/2"] = SPEC_FORMAT
    name: str = Field(min_length=1, max_length=64)
    unit: Literal["tokens", "bytes"] = "tokens"
    token_units: float = Field(default=1.0, ge=1.0, le=64.0)
    tokenizer: SpecFile  # a Hugging Face `tokenizer.json`
    vocab_size: int = Field(ge=2, le=1_000_000)
    bos_id: int = Field(ge=0)
    stop_ids: tuple[int, ...] = Field(min_length=1, max_length=64)
    context_tokens: int = Field(ge=16, le=1_048_576)
    chat_template: str = Field(max_length=MAX_TEMPLATE_CHARS)
    special_tokens: dict[SpecialName, SpecialToken] = Field(default={}, max_length=64)
    min_caller_stake_rao: int = Field(ge=0)
    public_text: SpecFile  # the public transfer set, JSON lines {"domain", "text"}
    baseline: Baseline

    @model_validator(mode="after")
    def _ids_are_of_the_vocabulary(self) -> Self:
        if list(self.stop_ids) != sorted(set(self.stop_ids)):
            raise ValueError("stop_ids must be ascending, each once")
        for name, token_id in (("bos_id", self.bos_id), *(("stop_ids", i) for i in self.stop_ids)):
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"{name}: {token_id} is not below vocab_size {self.vocab_size}")
        if self.unit == "bytes" and (self.vocab_size, self.bos_id, self.stop_ids) != (
            BYTE_SYMBOLS,
            BYTE_END,
            (BYTE_END,),
        ):
            raise ValueError("of unit bytes there are 257 symbols, 256 the end and the beginning")
        if self.unit == "tokens" and self.token_units != 1.0:
            raise ValueError("token_units: a token is one token")
        return self

    @property
    def grain(self) -> Grain:
        return Grain(self.unit, self.token_units)

    @property
    def windows_sha256(self) -> str:
        """Texts are cut into the same windows where this is the same."""
        if self.unit == "tokens":
            return self.tokenizer.sha256
        return hashlib.sha256(f"{self.tokenizer.sha256} {self.token_units}".encode()).hexdigest()

    @property
    def chats(self) -> bool:
        """Whether the template tells who says what; one that only joins texts does not."""
        return "role" in self.chat_template

    @property
    def end_id(self) -> int:
        """What ends a document in training: of the stop ids the lowest, for families gain those
        of turns and calls after that of texts."""
        return self.stop_ids[0]

    @property
    def files(self) -> tuple[SpecFile, ...]:
        """Everything that belongs to the spec besides spec.json."""
        return self.tokenizer, self.public_text, self.baseline.file

    def canonical_bytes(self) -> bytes:
        """What is written to spec.json and hashed."""
        return (self.model_dump_json(indent=1) + "\n").encode()


@dataclass(frozen=True)
class LoadedSpec:
    """A spec whose files were all present and unaltered when it was loaded."""

    root: Path
    sha256: str  # of spec.json, lower-case hex, as on chain
    spec: Spec

    def path(self, file: SpecFile) -> Path:
        return self.root / file.path

    @cached_property
    def tokenizer_path(self) -> Path:
        return self.path(self.spec.tokenizer)


def file_sha256(path: Path) -> str:
    """Lower-case hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def parse_spec(raw: bytes, source: str) -> Spec:
    """The content of a spec.json of either version. Raises SpecError saying what is wrong."""
    try:
        content = parse_json(raw)
        if isinstance(content, dict):
            if content.get("format") == "moesubnet-spec/1":
                content = _from_version_1(content)
            _check_known(content, source)
        return Spec.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        wrong = f"{place}: {first['msg']}" if place else first["msg"]
        raise SpecError(f"{source} is not a {SPEC_FORMAT}: {wrong}") from None
    except ValueError as error:
        raise SpecError(f"{source} is not a {SPEC_FORMAT}: {error}") from None


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had one `eos_id`, which stood before every sequence where `bos_id` was null."""
    rest = {key: value for key, value in content.items() if key not in ("eos_id", "bos_id")}
    eos_id, bos_id = content.get("eos_id"), content.get("bos_id")
    return rest | {
        "format": SPEC_FORMAT,
        "bos_id": eos_id if bos_id is None else bos_id,
        "stop_ids": [eos_id],
    }


def _check_known(content: dict[str, Any], source: str) -> None:
    """Raises SpecError for what a later version may know."""
    kind, unit = content.get("format"), content.get("unit", "tokens")
    if kind != SPEC_FORMAT:
        raise SpecError(
            f"{source} has format {kind!r}; this moesubnet knows {SPEC_FORMAT}: update it"
        )
    if unit not in ("tokens", "bytes"):
        raise SpecError(
            f"{source} has unit {unit!r}; this moesubnet mixes tokens or bytes: update it"
        )


def load_spec(root: Path, expected_sha256: str | None = None) -> LoadedSpec:
    """Load and verify the spec in folder `root`.

    Raises SpecError when spec.json differs from `expected_sha256` (the hash on chain), is
    malformed, or names a file that is missing or altered.
    """
    source = root / "spec.json"
    try:
        if source.stat().st_size > MAX_SPEC_BYTES:
            raise SpecError(f"{source} is larger than {MAX_SPEC_BYTES} bytes")
        raw = source.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot read {source}: {error.strerror}") from error
    sha256 = hashlib.sha256(raw).hexdigest()
    if expected_sha256 is not None and sha256 != expected_sha256.removeprefix("0x"):
        raise SpecError(
            f"{source} has hash {sha256[:16]}…, the chain says {expected_sha256[:18]}…: "
            "fetch the spec that the subnet's owner published"
        )
    spec = parse_spec(raw, str(source))
    for file in spec.files:
        path = root / file.path
        if not path.is_file():
            raise SpecError(f"{path} is missing")
        if file_sha256(path) != file.sha256:
            raise SpecError(f"{path} was altered: its hash is not the one in spec.json")
    return LoadedSpec(root=root, sha256=sha256, spec=spec)


def spec_files(root: Path | None) -> dict[str, Any]:
    """What a `Spec` says of its files, where they stand in `root` under the usual names; None: of
    one that has none, or not yet."""
    tokenizer, public_text, unigram = (
        SpecFile(path=name, sha256=file_sha256(root / name) if root else "0" * 64)
        for name in (TOKENIZER, PUBLIC, UNIGRAM)
    )
    baseline = Baseline(kind="unigram", file=unigram)
    return {"tokenizer": tokenizer, "public_text": public_text, "baseline": baseline}


def save_spec(root: Path, spec: Spec) -> LoadedSpec:
    """Write spec.json (the files it names must already stand in `root`) and load it back."""
    write_whole(root / "spec.json", spec.canonical_bytes())
    return load_spec(root)
