"""Which model folders may join a subnet."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from moesubnet.engine.model_folder import check_tokenizer, resolve_model, weights_commitment
from moesubnet.engine.named import load_engine
from moesubnet.errors import ConfigError, EngineError
from moesubnet.spec.content import LoadedSpec


def test_pickled_weights_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(EngineError, match=r"(?s)pickle can run code.*safe_serialization=True"):
        resolve_model(str(tmp_path))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no \*\.safetensors"):
        resolve_model(str(tmp_path))


def test_an_adapter_is_no_model(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(EngineError, match=f"--model BASE --adapter {tmp_path}"):
        resolve_model(str(tmp_path))
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(EngineError, match=r"no config\.json"):
        resolve_model(str(tmp_path))


def test_neither_a_folder_nor_a_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="neither a folder nor a model"):
        resolve_model("no such owner/at all")
    with pytest.raises(EngineError, match=r"there is no folder \S*my-model"):
        resolve_model("./my-model")


def test_a_gguf_file_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"(?s)gguf_file='model-q4\.gguf'.*save_pretrained"):
        resolve_model(str(tmp_path / "model-q4.gguf"))


def test_a_weights_file_is_not_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(EngineError, match="give the folder that it lies in"):
        resolve_model(str(tmp_path / "model.safetensors"))


def rewritten(tiny_spec: LoadedSpec, folder: Path, **changes: object) -> Path:
    tokenizer = json.loads(tiny_spec.tokenizer_path.read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | changes))
    return folder


def test_a_tokenizer_that_only_looks_different_is_accepted(
    tiny_spec: LoadedSpec, tmp_path: Path
) -> None:
    merges = json.loads(tiny_spec.tokenizer_path.read_text())["model"]["merges"]
    old_style = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    model = json.loads(tiny_spec.tokenizer_path.read_text())["model"] | {"merges": old_style}
    truncation = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    check_tokenizer(rewritten(tiny_spec, tmp_path, model=model, truncation=truncation), tiny_spec)


@pytest.mark.parametrize("part", ["pre_tokenizer", "normalizer"])
def test_a_tokenizer_that_encodes_differently_is_refused(
    tiny_spec: LoadedSpec, tmp_path: Path, part: str
) -> None:
    other = {"pre_tokenizer": {"type": "Whitespace"}, "normalizer": {"type": "Lowercase"}}[part]
    folder = rewritten(tiny_spec, tmp_path, **{part: other})
    with pytest.raises(EngineError, match=rf"(?s){part}.*moesubnet expert train --spec"):
        check_tokenizer(folder, tiny_spec)


def test_another_vocabulary_is_refused(tiny_spec: LoadedSpec, tmp_path: Path) -> None:
    model = json.loads(tiny_spec.tokenizer_path.read_text())["model"]
    model["merges"] = model["merges"][1:]
    with pytest.raises(EngineError, match="model of tokenizer"):
        check_tokenizer(rewritten(tiny_spec, tmp_path, model=model), tiny_spec)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"model": 3}'])
def test_a_missing_or_broken_tokenizer_is_refused(
    tiny_spec: LoadedSpec, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(EngineError):
        check_tokenizer(tmp_path, tiny_spec)


def test_the_commitment_is_what_sha256sum_says(tiny_model: Path) -> None:
    shell = "LC_ALL=C sha256sum config.json *.safetensors | sha256sum"
    said = subprocess.run(shell, shell=True, cwd=tiny_model, capture_output=True, check=True)
    assert said.stdout.decode().split()[0] == weights_commitment(tiny_model)


@pytest.mark.parametrize("target", ["", "no.such:Engine", "json:Engine", "json", ":x"])
def test_an_engine_that_cannot_be_imported(target: str, tiny_spec: LoadedSpec) -> None:
    with pytest.raises(ConfigError, match="or package"):
        load_engine(target, "model", tiny_spec)
