"""A model on disk: where it is, whether it may join this subnet, and what commits to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moesubnet.errors import EngineError
from moesubnet.host.log import quiet_transformers
from moesubnet.spec.content import LoadedSpec, file_sha256

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
_GGUF = (
    "{file} is a GGUF file: `moesubnet miner run --model {file}` serves it as it is. Here a folder "
    "is needed. Convert it (pip install gguf accelerate, then in Python):\n"
    "  from transformers import AutoModelForCausalLM, AutoTokenizer\n"
    "  for kind in (AutoModelForCausalLM, AutoTokenizer):\n"
    "      kind.from_pretrained({parent!r}, gguf_file={file!r}).save_pretrained('my-model')"
)
_FILES = ["*.safetensors", "*.json", "*.jinja"]  # of the hub's, but for what lies in folders
# Decide which ids a text gets. Post-processing, truncation and padding do not.
_ENCODING_PARTS = ("model", "pre_tokenizer", "normalizer", "added_tokens")


def resolve_model(model: str) -> Path:
    """The folder of `model`: itself, or the local snapshot of a Hugging Face hub id.

    Downloads only weights as safetensors, JSON and chat templates. Raises EngineError.
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
    if (folder / ADAPTER_CONFIG).is_file():  # transformers would load the adapter's base
        raise EngineError(
            f"{folder} is an adapter and no model: miner run --model BASE --adapter {folder} "
            "serves it over its base; trained with --merge it is a model of its own"
        )
    if not (folder / "config.json").is_file():
        raise EngineError(f"{folder} has no config.json, which says what model its weights are")
    return folder


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=_FILES, ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise EngineError(
            f"{model!r} is neither a folder nor a model that the hub gave: {error}"
        ) from error


def causal_config(folder: Path) -> Any:
    """transformers' config of `folder`. Raises EngineError unless it makes a causal language model
    of that."""
    quiet_transformers()
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise EngineError(f"{folder} is no model that transformers can build: {error}") from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise EngineError(
            f"{folder} is a {config.model_type} model, of which transformers makes no causal "
            "language model. Models that fill gaps, translate, or read images beside text forecast "
            "no next token of a text: take one that was made to write, or its language model alone"
        )
    return config


def check_context(config: Any, spec: LoadedSpec) -> None:
    """Raises EngineError for a model that reads less than the subnet's context."""
    longest = getattr(config.get_text_config(), "max_position_embeddings", None) or 0
    if 0 < longest < spec.spec.context_tokens:  # xlnet says -1: as many as one likes
        raise EngineError(
            f"the model reads {longest} tokens at most, the subnet's context has "
            f"{spec.spec.context_tokens}"
        )


def load_causal(folder: Path, **options: Any) -> Any:
    """The causal language model in `folder`, every weight from its *.safetensors.

    options: of transformers' `from_pretrained`. Raises EngineError where that is not what is
    there, and whatever transformers raises.
    """
    causal_config(folder)
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    model, found = loader.from_pretrained(
        str(folder),
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
        **options,
    )
    if missing := sorted(found["missing_keys"]):
        raise EngineError(
            f"{folder} lacks {len(missing)} of this {model.config.model_type} model's weights "
            f"({', '.join(missing[:3])}), which would be random: is a file missing, or was it "
            "saved without its language head, or as another kind of model?"
        )
    return model


def not_causal(model_type: str) -> EngineError:
    return EngineError(
        f"this {model_type} model forecasts a token otherwise when it sees what follows: it is no "
        "causal model (of an encoder that was trained as one, config.json has to say is_decoder: "
        "true)"
    )


def resolve_adapter(adapter: str) -> Path:
    """The folder of a LoRA as peft saves it. Raises EngineError."""
    folder = Path(adapter).expanduser()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
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


def weight_files(folder: Path) -> list[Path]:
    """What transformers loads of the *.safetensors in a folder, some of which hold the same weights
    in another form (consolidated.safetensors). Raises EngineError."""
    if (single := folder / "model.safetensors").is_file():
        return [single]
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [folder / name for name in names]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EngineError(f"{index} is damaged ({error!r})") from error
    if missing := [file.name for file in files if not file.is_file()]:
        raise EngineError(f"{folder} lacks {', '.join(missing[:3])}, named in {INDEX}: fetch it")
    return files


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
