"""The subnet's spec: what every neuron must agree on, each file by its SHA-256.

A spec is a folder with `spec.json` and the files it names. The owner puts SHA-256(spec.json) on
chain; whoever joins reads that hash, loads the folder and refuses anything that differs.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from moesubnet.errors import SpecError
from moesubnet.wire.strict_json import parse_as

SPEC_FORMAT: Final = "moesubnet-spec/1"
MAX_SPEC_BYTES = 65_536


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


class Spec(BaseModel):
    """The content of spec.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal["moesubnet-spec/1"] = SPEC_FORMAT
    name: str = Field(min_length=1, max_length=64)
    tokenizer: SpecFile  # a Hugging Face `tokenizer.json`
    vocab_size: int = Field(ge=2, le=1_000_000)
    bos_id: int | None = None
    eos_id: int
    context_tokens: int = Field(ge=16, le=1_048_576)
    chat_template: str = Field(max_length=16_384)  # Jinja, as in transformers
    min_caller_stake_rao: int = Field(ge=0)
    public_text: SpecFile  # the public transfer set, JSON lines {"domain", "text"}
    baseline: Baseline

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
    try:
        spec = parse_as(Spec, raw)
    except ValueError as error:
        raise SpecError(f"{source} is not a {SPEC_FORMAT}: {error}") from error
    for file in (spec.tokenizer, spec.public_text, spec.baseline.file):
        path = root / file.path
        if not path.is_file():
            raise SpecError(f"{path} is missing")
        if file_sha256(path) != file.sha256:
            raise SpecError(f"{path} was altered: its hash is not the one in spec.json")
    return LoadedSpec(root=root, sha256=sha256, spec=spec)


def save_spec(root: Path, spec: Spec) -> LoadedSpec:
    """Write spec.json (the files it names must already stand in `root`) and load it back."""
    temporary = root / "spec.json.tmp"
    temporary.write_bytes(spec.canonical_bytes())
    os.replace(temporary, root / "spec.json")
    return load_spec(root)
