"""A model that somebody has: loaded to be trained, whole or by an adapter, and saved again."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moesubnet.engine.model_folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    causal_config,
    check_context,
    check_tokenizer,
    load_causal,
    not_causal,
    resolve_model,
)
from moesubnet.errors import ConfigError
from moesubnet.host.log import quiet_transformers
from moesubnet.host.paths import disk_errors
from moesubnet.spec.content import LoadedSpec

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "bf16", "f32"]
NO_LORA = "an adapter needs the peft library: pip install 'moesubnet[lora]'"
CAUSAL_PROBE_IDS, NOT_ROUNDING = 24, 0.1  # total variation; rounding in bf16 makes 0.03
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
    rebuilt: int = 0  # values of experts' matrices that an adapter makes anew for each pass


def find_base(model: str, spec: LoadedSpec) -> Path:
    """The folder of `model` (a folder or a hub id), if it can be trained for this subnet.

    Raises EngineError for one that could not be served here, ConfigError for quantised weights.
    """
    folder = resolve_model(model)
    check_tokenizer(folder, spec)
    config = causal_config(folder)
    check_context(config, spec)
    if getattr(config, "quantization_config", None):
        raise ConfigError(f"{folder} holds quantised weights: train from the ones they were of")
    return folder


def size_of(folder: Path, lora_rank: int | None) -> Size:
    """Without reading a weight. Raises EngineError for no causal model, ConfigError where no
    adapter can be trained."""
    quiet_transformers()
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    config = causal_config(folder)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    head = model.get_output_embeddings()
    shapes = [
        tuple(module.weight.shape)
        for module in model.modules()
        if module is not head and isinstance(module, torch.nn.Linear | Conv1D)
    ]
    config = model.config.get_text_config()
    # Experts lie in one tensor [experts, rows, columns]; a token goes through a few of them.
    experts = [p.shape for name, p in model.named_parameters() if p.ndim == 3 and "experts" in name]
    of_token = getattr(config, "num_experts_per_tok", None) or 1
    shapes += [(of_token * rows, of_token * columns) for _, rows, columns in experts]
    parameters = trained = sum(parameter.numel() for parameter in model.parameters())
    rebuilt = 0
    if lora_rank is not None:
        with torch.device("meta"):
            adapted = _with_adapter(model, lora_rank)
        trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        if any(".experts." in name for name, p in adapted.named_parameters() if p.requires_grad):
            rebuilt = sum(prod(shape) for shape in experts)
    return Size(
        parameters=parameters,
        trained=trained,
        rebuilt=rebuilt,
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

    Raises ConfigError without peft and for what it cannot adapt, EngineError for no causal model.
    """
    import torch

    dtype = torch.bfloat16 if low_precision and lora_rank is not None else torch.float32
    model = load_causal(folder, dtype=dtype)
    model.to(device)
    _check_causal(model)
    if lora_rank is None:
        return model
    torch.manual_seed(seed)  # of the adapter's first weights
    return _with_adapter(model, lora_rank)


def _with_adapter(model: Any, lora_rank: int) -> Any:
    """Raises ConfigError without peft, and for what it cannot adapt."""
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise ConfigError(NO_LORA) from error
    adapter = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora_rank,
        lora_alpha=2 * lora_rank,
        target_modules="all-linear",
    )
    try:
        return get_peft_model(model, adapter)
    except ValueError as error:
        kind = model.config.model_type
        raise ConfigError(
            f"peft puts no adapter on this {kind} model ({error}): leave out --lora, which trains "
            "all of its weights"
        ) from error


def _check_causal(model: Any) -> None:
    """Raises EngineError where a token's law depends on what follows, as in an encoder."""
    import torch

    vocab_size = model.config.get_text_config().vocab_size
    ids = torch.arange(CAUSAL_PROBE_IDS, device=model.device)[None] % vocab_size
    half = CAUSAL_PROBE_IDS // 2
    with torch.no_grad():
        whole, begun = (
            model(input_ids=part, use_cache=False).logits[0, :half].float().softmax(-1)
            for part in (ids, ids[:, :half])
        )
    if float((whole - begun).abs().sum(-1).mean()) / 2 > NOT_ROUNDING:
        raise not_causal(model.config.model_type)


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
    """Base and adapter as one ordinary model folder, in the base's number format: more memory than
    training may not be there."""
    from peft import PeftModel

    base = load_causal(folder, dtype="auto")
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

    stored = getattr(causal_config(folder), "dtype", None)
    if isinstance(stored, torch.dtype):
        model = model.to(stored)
    with disk_errors(out):
        model.save_pretrained(out)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):  # an interrupted run's, not merged then
        (out / name).unlink(missing_ok=True)
    for pattern in _COMPANIONS:
        for path in folder.glob(pattern):
            shutil.copyfile(path, out / path.name)
