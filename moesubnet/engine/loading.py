"""Loading a model folder by transformers: in which precision, where, with which adapter, and
whether there is memory for it.
"""

from __future__ import annotations

import json
import struct
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch

from moesubnet.engine.model_folder import load_causal, resolve_adapter, weight_files
from moesubnet.engine.uncompiled import without_compiler
from moesubnet.errors import ConfigError, EngineError
from moesubnet.host.memory import free_memory_bytes

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 2}  # int8 while it is being made
_STORED = {"F64": "float32", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_GIB = 1 << 30
_NOT_WHOLE = (
    "the adapter lacks weights that its adapter_config.json tells of, or has them under other "
    "names: it is of another model than --model"
)
MAX_HEADER_BYTES = 100_000_000  # as the safetensors library has it


def load_model(
    folder: Path,
    *,
    dtype: str = "auto",
    device: str = "",
    adapter: str | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
) -> Any:
    """The causal language model in `folder`, ready for inference.

    dtype: `auto`, or one of BYTES. device: as torch names it, `auto` for all there are and the
    disk; by default the accelerator, if there is one. adapter: a LoRA that is merged into the
    weights. max_memory: for `auto`, bytes by device. Raises EngineError, ConfigError.
    """
    precision = choose_dtype(folder, dtype, device)
    try:
        if device == "auto":
            model = _spread(folder, precision, max_memory)
        else:
            model = _from_pretrained(folder, precision).to(device or _default_device())
        if adapter is not None:
            model = _merge(model, resolve_adapter(adapter))
        if precision == "int8":
            _quantize(model)
    except ImportError as error:
        raise EngineError(_missing(folder, error)) from error
    except (OSError, ValueError, RuntimeError, KeyError, AssertionError) as error:
        raise EngineError(f"cannot load {folder} as a causal language model: {error}") from error
    return model.eval()


def load_adapters(model: Any, adapters: Sequence[str]) -> Any:
    """peft's model over `model`, which it changes in place, with LoRAs named "0", "1", … beside
    the weights; the first one works. Raises EngineError."""
    peft_model = _peft()
    try:
        with _whole_adapters():
            beside = peft_model.from_pretrained(
                model, str(resolve_adapter(adapters[0])), adapter_name="0", local_files_only=True
            )
        for place, adapter in enumerate(adapters[1:], 1):
            found = beside.load_adapter(
                str(resolve_adapter(adapter)), adapter_name=str(place), local_files_only=True
            )
            # peft lists other adapters' too where a layer's number is this one's name.
            own = [key for key in found.missing_keys if f".{place}." in key.rpartition("lora_")[2]]
            if own:
                raise EngineError(_NOT_WHOLE)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise EngineError(f"cannot load the adapters: {error}") from error
    return beside.eval()


def choose_dtype(folder: Path, dtype: str, device: str = "") -> str:
    """`auto` takes the weights as they are stored, if the device computes in that.

    On a CPU bfloat16 took 0.7 of the time of float32 where it has instructions for it, and float16
    three times as long in batches and prompts; benchmarks/results.md.
    """
    if dtype != "auto":
        if dtype not in BYTES:
            raise ConfigError(f"--dtype is auto, {', '.join(BYTES)}, not {dtype!r}")
        return dtype
    stored = [_STORED.get(kind) for kind, _ in _tensors(folder)]
    most = max(set(stored), key=stored.count, default=None) or "float32"
    if (device or _default_device()).startswith("cpu"):
        return "bfloat16" if most == "bfloat16" and cpu_has_bfloat16() else "float32"
    return most


def check_memory(folder: Path, dtype: str, device: str = "") -> None:
    """Raises EngineError when the weights alone, by the sizes in their headers, do not fit, and
    ConfigError where there is no such device."""
    where = device or _default_device()
    if where == "auto":
        return
    _check_device(where)
    free_bytes = free_memory_bytes(where)
    weights = sum(count for _, count in _tensors(folder))
    needed_bytes = weights * BYTES[choose_dtype(folder, dtype, device)]
    if needed_bytes <= free_bytes:
        return
    fitting = [name for name, size in BYTES.items() if weights * size <= free_bytes]
    way_out = (
        f"--dtype {fitting[0]} would fit"
        if fitting
        else "--device auto spreads it over all devices and the disk, slowly; or take a smaller one"
    )
    raise EngineError(
        f"{folder} needs {needed_bytes / _GIB:.1f} GiB for its weights in "
        f"{choose_dtype(folder, dtype, device)}, and {where} has {free_bytes / _GIB:.1f} GiB "
        f"free: {way_out}"
    )


def input_device(model: Any) -> torch.device:
    """Where ids go in: of a model that is spread, the first accelerator or the CPU."""
    spread = getattr(model, "hf_device_map", None)
    if spread is None:
        return torch.device(model.device)
    chips = [place for place in spread.values() if place not in ("cpu", "disk")]
    return torch.device(chips[0] if chips else "cpu")


def _from_pretrained(folder: Path, precision: str, **options: Any) -> Any:
    dtype = torch.bfloat16 if precision == "int8" else getattr(torch, precision)
    return without_compiler(lambda: load_causal(folder, dtype=dtype, **options))


def _spread(folder: Path, precision: str, max_memory: Mapping[int | str, int | str] | None) -> Any:
    """Over all devices, then the disk; what lies there comes and goes with every pass."""
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise EngineError("--device auto needs accelerate: pip install accelerate") from None
    disk = tempfile.TemporaryDirectory(prefix="moesubnet-offload-")
    model = _from_pretrained(
        folder, precision, device_map="auto", max_memory=max_memory, offload_folder=disk.name
    )
    model.offload_folder = disk  # gone when the model is
    return model


@contextmanager
def _whole_adapters() -> Iterator[None]:
    """peft warns of weights that an adapter lacks, and begins them so that they do nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        try:
            yield
        except UserWarning as warning:
            raise EngineError(_NOT_WHOLE) from warning


def _merge(model: Any, adapter: Path) -> Any:
    with _whole_adapters():
        merged = _peft().from_pretrained(model, str(adapter), local_files_only=True)
    for layer in merged.modules():
        base = getattr(layer, "base_layer", None)
        if isinstance(base, torch.nn.Linear) and base.weight.device.type == "cpu":
            # Merging changes weights in place. Those are pages of the file, which once changed
            # would stay in memory for as long as anything of the file does.
            base.weight.data = base.weight.data.clone()
    return merged.merge_and_unload()


def _peft() -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise EngineError("--adapter needs peft: pip install 'moesubnet[lora]'") from None
    return PeftModel


def _quantize(model: Any) -> None:
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise EngineError("--dtype int8 needs torchao: pip install 'moesubnet[int8]'") from None
    quantize_(model, Int8WeightOnlyConfig())


def _missing(folder: Path, error: ImportError) -> str:
    config = json.loads((folder / "config.json").read_text())
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method is None:
        return f"cannot load {folder}: {error}"
    return (
        f"{folder} is quantised by {method}, which needs its own package ({error}). Install that, "
        "or take the folder of the model that was not quantised, with --dtype int8"
    )


def _tensors(folder: Path) -> list[tuple[str, int]]:
    """(dtype, values) of every tensor that is loaded, by the headers of their files."""
    found = []
    for path in weight_files(folder):
        try:
            with path.open("rb") as file:
                (size,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(size, MAX_HEADER_BYTES)))
            header.pop("__metadata__", None)
            found += [(str(t["dtype"]), int(prod(t["shape"]))) for t in header.values()]
        except (
            struct.error,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise EngineError(f"{path} is no safetensors file, or damaged ({error})") from error
    return found


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ", ".join(["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))])
        why = str(error).partition("\n")[0]
        raise ConfigError(f"--device {device} cannot be used: {why}. Here: {here}") from None


def cpu_has_bfloat16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
