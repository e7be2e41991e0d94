"""A model that somebody has: loaded to be trained, whole or by an adapter, and saved again."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moesubnet.engine.model_folder import check_tokenizer, resolve_model
from moesubnet.errors import ConfigError
from moesubnet.host.log import quiet_transformers
from moesubnet.host.paths import disk_errors
from moesubnet.spec.content import LoadedSpec

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "bf16", "f32"]
NO_LORA = "an adapter needs the peft library: pip install 'moesubnet[lora]'"
# What a folder needs beside the weights, to be loaded as the model it was made from.
_COMPANIONS = ("tokenizer*.json", "special_tokens_map.json", "*.jinja", "*.model")


@dataclass(frozen=True, slots=True)
class Size:
    """Of a model, known from its config alone: numbers of values, and of values that a token
    leaves behind in the forward pass for the one back (by layer: see `layers`)."""

    parameters: int
    trained: int
    head: int  # values in the embedding that makes the logits
    vocab_size: int
    hidden: int
    layers: int
    token_values: int


def find_base(model: str, spec: LoadedSpec) -> Path:
    """The folder of `model` (a folder or a hub id), if it can be trained for this subnet.

    Raises EngineError for another tokenizer, ConfigError for quantised weights.
    """
    folder = resolve_model(model)
    check_tokenizer(folder, spec)
    if "quantization_config" in json.loads((folder / "config.json").read_text()):
        raise ConfigError(f"{folder} holds quantised weights: train from the ones they were of")
    return folder


def size_of(folder: Path, lora_rank: int | None) -> Size:
    """Without reading a weight. Raises ConfigError for a model that transformers does not know."""
    quiet_transformers()
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(_config(folder))  # type: ignore[no-untyped-call]
    head = model.get_output_embeddings()
    shapes = [
        tuple(module.weight.shape)
        for module in model.modules()
        if module is not head and isinstance(module, torch.nn.Linear | Conv1D)
    ]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    config = model.config.get_text_config()
    return Size(
        parameters=parameters,
        trained=parameters
        if lora_rank is None
        else sum(lora_rank * (rows + columns) for rows, columns in shapes),
        head=0 if head is None else head.weight.numel(),
        vocab_size=config.vocab_size,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        token_values=sum(rows + columns for rows, columns in shapes),
    )


def check_lora(base: str | None) -> None:
    """Raises ConfigError where no adapter can be trained."""
    if base is None:
        raise ConfigError("--lora needs a model to start --from")
    if find_spec("peft") is None:
        raise ConfigError(NO_LORA)


def load_base(
    folder: Path, *, lora_rank: int | None, low_precision: bool, seed: int, device: torch.device
) -> Any:
    """The model on `device`; with a rank, frozen under a new LoRA adapter of all its linear
    layers. Weights that are trained are float32, frozen ones bf16 in low precision.

    Raises ConfigError without peft.
    """
    quiet_transformers()
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if low_precision and lora_rank is not None else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.to(device)
    if lora_rank is None:
        return model
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise ConfigError(NO_LORA) from error
    torch.manual_seed(seed)  # of the adapter's first weights
    return get_peft_model(
        model,
        LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=lora_rank,
            lora_alpha=2 * lora_rank,
            target_modules="all-linear",
        ),
    )


def save_trained(model: Any, folder: Path, name: str, out: Path) -> None:
    """Write what was trained to `out`: a peft adapter that names its base `name`, or the whole
    model with what else stands in the base's `folder`."""
    if hasattr(model, "peft_config"):
        for config in model.peft_config.values():
            config.base_model_name_or_path = name
        with disk_errors(out):
            model.save_pretrained(out)
        return
    _save_whole(model, folder, out)


def merge_adapter(folder: Path, adapter: Path, out: Path) -> None:
    """Base and adapter as one ordinary model folder, added up in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    _save_whole(PeftModel.from_pretrained(base, adapter).merge_and_unload(), folder, out)


def runs_in_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether to compute in bf16; `auto`: where the device has instructions for it."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _save_whole(model: Any, folder: Path, out: Path) -> None:
    """In the number format that the base has."""
    import torch

    stored = getattr(_config(folder), "dtype", None)
    if isinstance(stored, torch.dtype):
        model = model.to(stored)
    with disk_errors(out):
        model.save_pretrained(out)
    for pattern in _COMPANIONS:
        for path in folder.glob(pattern):
            shutil.copyfile(path, out / path.name)


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{folder} is no model that transformers can build: {error}") from error
