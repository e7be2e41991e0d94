"""A GGUF file: where it is, whether it may join this subnet, what commits to it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from moesubnet.engine.llama_context import GIB, LlamaModel, bindings
from moesubnet.errors import EngineError
from moesubnet.host.memory import free_memory_bytes
from moesubnet.spec.content import LoadedSpec, file_sha256
from moesubnet.spec.tokenizer import load_tokenizer

MAGIC = b"GGUF"
_PART = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf$")
WORKING_BYTES = 256 << 20  # what a pass needs beside weights and sessions
# Words of one space and lower case: every pre-tokenizer cuts them alike, so only merges differ.
_PLAIN = "the quick brown fox jumps over the lazy dog and then again because nothing else happened"


def resolve_file(model: str) -> Path:
    """Raises EngineError unless it is a GGUF file, the first part if it is split."""
    path = Path(model).expanduser()
    if not path.is_file():
        raise EngineError(f"there is no file {path}")
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise EngineError(f"{path} is no GGUF file")
    if (part := _PART.match(str(path))) and not str(path).startswith(f"{part[1]}-00001-"):
        raise EngineError(f"{path} is one of several: give the first, {part[1]}-00001-of-{part[2]}")
    missing = [other for other in parts_of(path) if not other.is_file()]
    if missing:
        raise EngineError(f"{path} is split, and {missing[0].name} is missing")
    return path


def parts_of(path: Path) -> list[Path]:
    """All files of a model."""
    part = _PART.match(str(path))
    if part is None:
        return [path]
    return [Path(f"{part[1]}-{i:05}-of-{part[2]}.gguf") for i in range(1, int(part[2]) + 1)]


def weights_commitment(path: Path) -> str:
    """What `sha256sum FILE` says; of a split one, what `sha256sum PARTS | sha256sum` does, in its
    folder."""
    parts = parts_of(path)
    if len(parts) == 1:
        return file_sha256(path)
    lines = "".join(f"{file_sha256(part)}  {part.name}\n" for part in parts)
    return hashlib.sha256(lines.encode()).hexdigest()


def check_file(path: Path, spec: LoadedSpec) -> None:
    """Raises EngineError where the model could not be served, as far as that shows without its
    weights."""
    bindings()
    model = LlamaModel(path, vocabulary_only=True)
    try:
        _check_tokenizer(path, model, spec)
        _check_kind(path, model, spec)
        _check_memory(path, model, spec)
    finally:
        model.close()


def _check_tokenizer(path: Path, model: LlamaModel, spec: LoadedSpec) -> None:
    """Ids go in and come out, so they must mean the same; how text is cut is the subnet's part."""
    ours = load_tokenizer(spec.tokenizer_path)
    difference = ""
    if model.vocab_size < spec.spec.vocab_size:
        difference = f"it has {model.vocab_size} tokens, the subnet {spec.spec.vocab_size}"
    else:
        for token in range(spec.spec.vocab_size):
            text, expected = model.text_of(token), ours.id_to_token(token)
            if expected is not None and text != expected.encode():
                difference = (
                    f"token {token} is {text.decode('utf-8', 'replace')!r}, not {expected!r}"
                )
                break
        else:
            expected_ids = ours.encode(_PLAIN, add_special_tokens=False).ids
            if (found := model.tokenize(_PLAIN)) != expected_ids:
                difference = f"its merges differ: {_PLAIN[:20]!r}… is {found[:8]}…, not "
                difference += f"{expected_ids[:8]}…"
    if difference:
        raise EngineError(
            f"{path.name} does not have the tokenizer of subnet {spec.spec.name!r}: {difference}. "
            "Experts are mixed token by token, so all share one. Take a model of the family that "
            "the subnet is of"
        )


def _check_kind(path: Path, model: LlamaModel, spec: LoadedSpec) -> None:
    if not model.forgets_nothing:
        raise EngineError(
            f"{path.name} ({model.metadata('general.architecture')}) has a memory that cannot be "
            "rolled back: serve it by llama.cpp's own server, with --upstream URL"
        )
    if model.longest_tokens < spec.spec.context_tokens:
        raise EngineError(
            f"{path.name} reads {model.longest_tokens} tokens at most, the subnet's context has "
            f"{spec.spec.context_tokens}"
        )


def _check_memory(path: Path, model: LlamaModel, spec: LoadedSpec) -> None:
    """The file is mapped, so less may do, but then every token reads from the disk."""
    weights = sum(part.stat().st_size for part in parts_of(path))
    context = spec.spec.context_tokens * model.cell_bytes
    needed, free = weights + context + WORKING_BYTES, free_memory_bytes()
    if needed > free:
        raise EngineError(
            f"{path.name} needs {needed / GIB:.1f} GiB ({weights / GIB:.1f} for its weights, "
            f"{context / GIB:.1f} for one context), and {free / GIB:.1f} GiB are free: take a file "
            "that is quantised more (Q4_K_M, Q3_K_M, …), or a smaller model"
        )
