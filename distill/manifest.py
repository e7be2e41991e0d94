"""The student as a folder that says what it is: model files and `manifest.json`, by content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moesubnet.errors import SpecError
from moesubnet.host.paths import write_whole
from moesubnet.spec.content import file_sha256

MANIFEST = "manifest.json"
REPORT = "report.json"


class Manifest(BaseModel):
    """The content of manifest.json. Hashes are lower-case hex SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal["moesubnet-student/1"] = "moesubnet-student/1"
    files: dict[str, str]  # name → hash, every file of the model
    parent_sha256: str | None = None  # the student it started from
    spec_sha256: str
    gate_sha256: str
    targets_sha256: str
    experts: dict[str, str]  # hotkey → model commitment: who taught it
    steps: int = Field(ge=1)
    seed: int
    perplexity: dict[str, float]  # by domain and mixed, on the final test; empty without one

    def canonical_bytes(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()

    @property
    def sha256(self) -> str:
        """The student's name."""
        return hashlib.sha256(self.canonical_bytes()).hexdigest()


def model_files(folder: Path) -> dict[str, str]:
    """Name → SHA-256 of the files that make the model."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors"})
    return {p.name: file_sha256(p) for p in paths if p.name not in {MANIFEST, REPORT}}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Written last: a folder with a manifest is a finished student."""
    write_whole(folder / MANIFEST, manifest.canonical_bytes())


def name_of(folder: Path) -> str | None:
    """The student's, if the model in this folder is one. Raises SpecError for an altered one."""
    return read_manifest(folder).sha256 if (folder / MANIFEST).exists() else None


def read_manifest(folder: Path) -> Manifest:
    """Read and check against the files. Raises SpecError for anything missing or altered."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise SpecError(f"{folder} holds no finished student: {error}") from error
    if model_files(folder) != manifest.files:
        raise SpecError(f"the files in {folder} are not those of its manifest")
    return manifest
