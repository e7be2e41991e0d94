"""A model on disk: where it is, whether it may join this subnet, and what commits to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from moesubnet.errors import EngineError
from moesubnet.spec.content import LoadedSpec, file_sha256

ADAPTER_CONFIG = "adapter_config.json"
_GGUF = (
    "{file} is a GGUF file: `moesubnet miner run --model {file}` serves it as it is. Here a folder "
    "is needed. Convert it (pip install gguf accelerate, then in Python):\n"
    "  from transformers import AutoModelForCausalLM, AutoTokenizer\n"
    "  for kind in (AutoModelForCausalLM, AutoTokenizer):\n"
    "      kind.from_pretrained({parent!r}, gguf_file={file!r}).save_pretrained('my-model')"
)
# Decide which ids a text gets. Post-processing, truncation and padding do not.
_ENCODING_PARTS = ("model", "pre_tokenizer", "normalizer", "added_tokens")


def resolve_model(model: str) -> Path:
    """The folder of `model`: itself, or the local snapshot of a Hugging Face hub id.

    Downloads only weights as safetensors and JSON. Raises EngineError.
    """
    folder = Path(model).expanduser()
    if folder.suffix == ".gguf":
        raise EngineError(_GGUF.format(file=folder.name, parent=str(folder.parent)))
    if folder.is_file():
        raise EngineError(f"{folder} is a file: give the folder that it lies in, {folder.parent}")
    if not folder.is_dir():
        if model.startswith(("/", ".", "~")) or model.count("/") != 1:
            raise EngineError(f"there is no folder {folder}, and a hub id looks like owner/name")
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


def resolve_adapter(adapter: str) -> Path:
    """The folder of a LoRA as peft saves it. Raises EngineError."""
    folder = Path(adapter).expanduser()
    for name in (ADAPTER_CONFIG, "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise EngineError(
                f"{folder} has no {name}: --adapter is a folder that peft's save_pretrained wrote"
            )
    return folder


def weights_commitment(folder: Path, adapter: str | None = None) -> str:
    """What `sha256sum config.json *.safetensors | sha256sum` prints in the folder (C locale).

    With an adapter, what `printf '%s\\n%s\\n' MODEL ADAPTER | sha256sum` prints, each of the two
    made so in its folder, the adapter's with adapter_config.json.
    """
    base = _sha256(sums(model_files(folder)))
    if adapter is None:
        return base
    own = _sha256(sums(model_files(resolve_adapter(adapter), ADAPTER_CONFIG)))
    return _sha256(f"{base}\n{own}\n")


def model_files(folder: Path, config: str = "config.json") -> list[Path]:
    """What a commitment names, in its order."""
    return [folder / config, *sorted(folder.glob("*.safetensors"))]


def sums(files: Sequence[Path]) -> str:
    """What `sha256sum FILES` prints in their folder."""
    return "".join(f"{file_sha256(file)}  {file.name}\n" for file in files)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
