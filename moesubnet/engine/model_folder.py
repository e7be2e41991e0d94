"""A model on disk: where it is, whether it may join this subnet, and what commits to it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from moesubnet.errors import EngineError
from moesubnet.spec.content import LoadedSpec, file_sha256

# Decides which ids a text gets. Post-processing, truncation and padding do not.
_ENCODING_PARTS = ("model", "pre_tokenizer", "normalizer", "added_tokens")


def resolve_model(model: str) -> Path:
    """The folder of `model`: itself, or the local snapshot of a Hugging Face hub id.

    Downloads only weights as safetensors and JSON. Raises EngineError.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = _download(model)
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        raise EngineError(
            f"{folder} holds no *.safetensors"
            + (
                ": its weights are pickled, and a pickle can run code. Convert them where you "
                "trust them: model.save_pretrained(OUT, safe_serialization=True)"
                if pickled
                else ""
            )
        )
    return folder


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise EngineError(
            f"{model!r} is neither a folder nor a model that the hub gave: {error}"
        ) from error


def weights_commitment(folder: Path) -> str:
    """What `sha256sum config.json *.safetensors | sha256sum` prints in the folder (C locale)."""
    names = ["config.json", *sorted(path.name for path in folder.glob("*.safetensors"))]
    lines = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def check_tokenizer(folder: Path, spec: LoadedSpec) -> None:
    """Raises EngineError unless the model encodes every text as the subnet's tokenizer does."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        difference = "the folder has no tokenizer.json"
    elif file_sha256(path) == spec.spec.tokenizer.sha256:
        return
    else:
        ours = _encoding(spec.tokenizer_path, spec.spec.vocab_size)
        theirs = _encoding(path, spec.spec.vocab_size)
        differing = [part for part in _ENCODING_PARTS if ours[part] != theirs[part]]
        if not differing:
            return
        difference = f"{' and '.join(differing)} of tokenizer.json differ"
    raise EngineError(
        f"{folder} does not have the tokenizer of subnet {spec.spec.name!r}: {difference}. "
        "Experts are mixed token by token, so all share one. Take a model of the family that the "
        "subnet is of, or make an expert from one (--from), or where the vocabulary is small from "
        f"nothing: moesubnet expert train --spec {spec.root} [--from MODEL] --text 'my/**/*.txt' "
        "--out my-expert"
    )


def _encoding(path: Path, vocab_size: int) -> dict[str, object]:
    """The parts of a tokenizer that decide ids below `vocab_size`, in the library's own form."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower for a malformed file
        raise EngineError(f"cannot read {path}: {error}") from error
    parts = json.loads(tokenizer.to_str())
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["id"] < vocab_size]
    return {part: parts[part] for part in _ENCODING_PARTS}
