"""Precision, devices and adapters; and why a model cannot be loaded, said before it is tried."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moesubnet.engine import loading
from moesubnet.engine.base import Query
from moesubnet.engine.loading import check_memory, choose_dtype, load_model
from moesubnet.engine.model_folder import weights_commitment
from moesubnet.engine.named import check_engine, load_engine
from moesubnet.engine.target import DEFAULT_ENGINE
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.errors import ConfigError, EngineError
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.protocol import Want

FULL = Want("full")
TEXT = np.arange(40, dtype=np.uint32) * 7 % 300


def laws(folder: Path, spec: LoadedSpec, **options: Any) -> np.ndarray:
    """Probabilities after each id, asked in two steps, so that a cache is used."""
    engine = TransformersEngine(str(folder), spec, **options)
    assert engine._pool is not None
    engine.rows([Query("s", TEXT[:20], 20)], FULL)
    return np.exp(engine.rows([Query("s", TEXT, 0)], FULL)[0].logprobs)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).sum(-1).max()) / 2


@pytest.fixture(scope="module")
def sharp_model(save_tiny_model: Callable[..., Path]) -> Path:
    """Weights wide enough that precision and adapters show."""
    from transformers import LlamaConfig

    return save_tiny_model(
        config=LlamaConfig(
            vocab_size=300,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.1,
        )
    )


def stored_as(folder: Path, dtype: torch.dtype, out: Path) -> Path:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder).to(dtype).save_pretrained(out)
    (out / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    return out


@pytest.mark.parametrize(
    ("dtype", "least", "most"), [("bfloat16", 1e-6, 0.05), ("int8", 1e-3, 0.1)]
)
def test_a_lower_precision_gives_nearly_the_same_laws(
    sharp_model: Path, tiny_spec: LoadedSpec, dtype: str, least: float, most: float
) -> None:
    if dtype == "int8":
        pytest.importorskip("torchao")
    exact = laws(sharp_model, tiny_spec, dtype="float32")
    assert least < distance(laws(sharp_model, tiny_spec, dtype=dtype), exact) < most


def test_eight_bits_are_eight_bits(sharp_model: Path) -> None:
    pytest.importorskip("torchao")
    model = load_model(sharp_model, dtype="int8", device="cpu")
    weight = model.model.layers[0].mlp.up_proj.weight
    assert weight.qdata.dtype == torch.int8


def test_weights_are_taken_as_they_are_stored_where_the_cpu_computes_so(
    sharp_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brain = stored_as(sharp_model, torch.bfloat16, tmp_path / "bf16")
    half = stored_as(sharp_model, torch.float16, tmp_path / "f16")
    for fast, chosen in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(loading, "cpu_has_bfloat16", lambda fast=fast: fast)
        assert choose_dtype(brain, "auto", "cpu") == chosen
    assert choose_dtype(half, "auto", "cpu") == "float32"
    assert choose_dtype(half, "auto", "cuda") == "float16"
    assert choose_dtype(sharp_model, "auto", "cpu") == "float32"
    with pytest.raises(ConfigError, match="bfloat16"):
        choose_dtype(brain, "fp8", "cpu")


def test_too_little_memory_is_said_before_loading(
    sharp_model: Path, tiny_spec: LoadedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(p.numel() for p in load_model(sharp_model, device="cpu").parameters())
    monkeypatch.setattr(loading, "free_memory_bytes", lambda device: 3 * weights)
    monkeypatch.setattr(loading, "_from_pretrained", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(EngineError, match="--dtype bfloat16 would fit"):
        check_engine(DEFAULT_ENGINE, str(sharp_model), tiny_spec, device="cpu")
    check_memory(sharp_model, "bfloat16", "cpu")
    monkeypatch.setattr(loading, "free_memory_bytes", lambda device: weights)
    with pytest.raises(EngineError, match="--device auto"):
        check_memory(sharp_model, "bfloat16", "cpu")


@pytest.mark.parametrize(
    "header", [b"", b"[" * 10_000, b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": "x"}}']
)
def test_a_damaged_file_is_named(header: bytes, tmp_path: Path) -> None:
    content = len(header).to_bytes(8, "little") + header
    for damaged in (content, content[:5]):
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(EngineError, match=r"model\.safetensors is no safetensors file"):
            check_memory(tmp_path, "auto", "cpu")


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_here_is_refused_before_loading(
    device: str, sharp_model: Path, tiny_spec: LoadedSpec
) -> None:
    with pytest.raises(ConfigError, match=f"--device {device} cannot be used: .*Here: cpu"):
        check_engine(DEFAULT_ENGINE, str(sharp_model), tiny_spec, device=device)


def test_a_model_is_spread_over_memory_and_disk(
    sharp_model: Path, tiny_spec: LoadedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    exact = laws(sharp_model, tiny_spec, device="cpu")
    real = loading._spread

    def cramped(folder: Path, precision: str, _: Any) -> Any:
        model = real(folder, precision, {"cpu": 300_000})
        assert {"cpu", "disk"} == set(model.hf_device_map.values())
        return model

    monkeypatch.setattr(loading, "_spread", cramped)
    np.testing.assert_allclose(laws(sharp_model, tiny_spec, device="auto"), exact, atol=1e-5)


@pytest.fixture(scope="module")
def adapter(sharp_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(sharp_model)
    config = peft.LoraConfig(
        r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    folder = tmp_path_factory.mktemp("adapter")
    peft.get_peft_model(base, config).save_pretrained(folder)
    return folder


def test_an_adapter_is_served_over_its_base(
    sharp_model: Path, adapter: Path, tiny_spec: LoadedSpec
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(sharp_model), str(adapter)
    ).eval()
    with torch.inference_mode():
        logits = plain(torch.tensor([[0, *TEXT.tolist()]])).logits[0]
    expected = torch.softmax(logits.double(), -1).numpy()
    found = laws(sharp_model, tiny_spec, adapter=str(adapter))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert distance(found, laws(sharp_model, tiny_spec)) > 0.01


def changed_pages_kb(file: Path) -> list[int]:
    """Of each mapping of `file` into this process, by how much it lies changed in memory."""
    found: list[int] = []
    is_its = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            is_its = rest[-1:] == [str(file)]
        elif is_its and first == "Anonymous:":
            found.append(int(rest[0]))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="what is mapped is read from /proc")
def test_merging_an_adapter_leaves_no_changed_page_of_the_file(
    sharp_model: Path, adapter: Path
) -> None:
    """They stayed as long as the embedding did: 0.4 GB beside the weights laid out anew."""
    model = load_model(sharp_model, device="cpu", adapter=str(adapter))
    changed = changed_pages_kb((sharp_model / "model.safetensors").resolve())
    assert changed, "the weights are read from the file where they lie"
    assert not any(changed)
    assert model.get_input_embeddings().weight.device.type == "cpu", "and it is still held"


def test_the_commitment_names_base_and_adapter(sharp_model: Path, adapter: Path) -> None:
    def printed(folder: Path, config: str) -> str:
        command = f"LC_ALL=C; sha256sum {config} *.safetensors | sha256sum | cut -c-64"
        return subprocess.check_output(command, shell=True, cwd=folder, text=True).strip()

    base, own = printed(sharp_model, "config.json"), printed(adapter, "adapter_config.json")
    command = f"printf '%s\\n%s\\n' {base} {own} | sha256sum | cut -c-64"
    both = subprocess.check_output(command, shell=True, text=True).strip()
    assert weights_commitment(sharp_model) == base
    assert weights_commitment(sharp_model, str(adapter)) == both


def test_an_adapter_of_another_model_is_refused(
    tiny_model: Path, adapter: Path, tiny_spec: LoadedSpec
) -> None:
    with pytest.raises(EngineError, match="cannot load"):
        TransformersEngine(str(tiny_model), tiny_spec, adapter=str(adapter))


def test_an_adapter_whose_weights_have_other_names_is_refused(
    sharp_model: Path, adapter: Path, tiny_spec: LoadedSpec, tmp_path: Path
) -> None:
    """As of the same model inside one that sees; peft alone would serve the base."""
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(adapter, tmp_path / "other")
    weights = load_file(other / "adapter_model.safetensors")
    weights = {name.replace("model.layers", "model.text.layers"): w for name, w in weights.items()}
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(EngineError, match="another model"):
        TransformersEngine(str(sharp_model), tiny_spec, adapter=str(other))
    for two in ([str(adapter), str(other)], [str(other), str(adapter)]):
        with pytest.raises(EngineError, match="another model"):
            TransformersEngine.several(str(sharp_model), tiny_spec, two)


def test_an_adapter_is_a_folder_that_peft_wrote(
    tiny_model: Path, tiny_spec: LoadedSpec, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"adapter_config\.json.*save_pretrained"):
        check_engine(DEFAULT_ENGINE, str(tiny_model), tiny_spec, adapter=str(tmp_path))


def test_a_quantised_folder_without_its_package_names_the_way_out(
    tiny_model: Path, tiny_spec: LoadedSpec, tmp_path: Path
) -> None:
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match=r"quantised by bitsandbytes.*--dtype int8"):
        TransformersEngine(str(tmp_path), tiny_spec)


def test_weights_that_are_missing_are_not_made_up(
    sharp_model: Path, tiny_spec: LoadedSpec, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(sharp_model, tmp_path / "headless")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]  # as a model without its head is saved
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=r"lacks 1 of .*lm_head\.weight.*head"):
        TransformersEngine(str(folder), tiny_spec)


def test_weights_that_lie_there_twice_are_counted_once(
    sharp_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = shutil.copytree(sharp_model, tmp_path / "twice")
    size = (folder / "model.safetensors").stat().st_size
    shutil.copyfile(folder / "model.safetensors", folder / "consolidated.safetensors")
    monkeypatch.setattr(loading, "free_memory_bytes", lambda device: size)
    check_memory(folder, "float32", "cpu")
    name = "model-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(EngineError, match="GiB"):
        check_memory(folder, "float32", "cpu")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    check_memory(folder, "float32", "cpu")
    (folder / name).unlink()
    with pytest.raises(EngineError, match=f"lacks {name}.*fetch it"):
        check_memory(folder, "float32", "cpu")


def test_another_kind_of_model_is_refused_in_a_sentence(
    sharp_model: Path, tiny_spec: LoadedSpec, tmp_path: Path
) -> None:
    from transformers import T5Config

    folder = shutil.copytree(sharp_model, tmp_path / "t5")
    T5Config(vocab_size=300).save_pretrained(folder)
    with pytest.raises(
        EngineError, match=r"is a t5 model.*take one that was made to write"
    ) as said:
        check_engine(DEFAULT_ENGINE, str(folder), tiny_spec)
    assert len(str(said.value)) < 400 + len(str(folder)), "no list of all that there are"


def test_an_option_that_an_engine_does_not_have_is_a_typing_error(
    tiny_model: Path, tiny_spec: LoadedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    for begin in (load_engine, check_engine):
        with pytest.raises(ConfigError, match="takes no --dtype"):
            begin("custom_engine:CacheEngine", str(tiny_model), tiny_spec, dtype="int8")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_an_accelerator(sharp_model: Path, tiny_spec: LoadedSpec, dtype: str) -> None:
    exact = laws(sharp_model, tiny_spec, device="cpu", dtype="float32")
    assert distance(laws(sharp_model, tiny_spec, device="cuda", dtype=dtype), exact) < 0.05
