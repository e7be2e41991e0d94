"""From text files to a model folder that anybody can load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moesubnet.errors import ConfigError
from moesubnet.host.progress import Progress
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.documents import Document, read_documents, write_documents
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.training.expert import train_expert
from moesubnet.training.tokenizer import END, train_tokenizer

TEXT = (Path(__file__).parents[1] / "tiny_text.txt").read_text() * 3


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.txt"
    path.write_text(TEXT)
    return path


def test_an_expert_is_an_ordinary_model_folder(
    tiny_spec: LoadedSpec, text_file: Path, tmp_path: Path
):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    seen: list[Progress] = []
    out = tmp_path / "expert"
    report = train_expert(
        [text_file], out, tiny_spec, budget_s=0.0, min_steps=25, progress=seen.append
    )
    assert report.steps == 25
    assert report.held_out_perplexity < 300
    assert report.spec_sha256 == tiny_spec.sha256
    assert [round(p.fraction * 25) for p in seen] == list(range(1, 26))
    model = AutoModelForCausalLM.from_pretrained(out)
    assert sum(p.numel() for p in model.parameters()) == report.parameters
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = load_tokenizer(tiny_spec.tokenizer_path).encode(TEXT[:200]).ids
    assert tokenizer(TEXT[:200])["input_ids"] == ids
    assert (out / "tokenizer.json").read_bytes() == tiny_spec.tokenizer_path.read_bytes()
    assert json.loads((out / "report.json").read_text())["report"]["steps"] == 25

    again = train_expert([text_file], out, tiny_spec, budget_s=0.0, min_steps=25)
    assert again == report, "a finished run is not repeated"
    other = train_expert([text_file], out, tiny_spec, budget_s=0.0, min_steps=26)
    assert other.steps == 26, "other settings are another run"


def test_reading_many_files_tells_how_far_it_is(
    tiny_spec: LoadedSpec, text_file: Path, tmp_path: Path
):
    seen: list[Progress] = []
    files = [tmp_path / f"{name}.txt" for name in "ab"]
    for file in files:
        file.write_text(text_file.read_text())
    train_expert(
        files, tmp_path / "expert", tiny_spec, budget_s=0.0, min_steps=1, progress=seen.append
    )
    assert [p.fraction for p in seen if p.task == "reading"] == [0.5, 1.0]


def test_too_little_text_is_refused_with_a_number(tiny_spec: LoadedSpec, tmp_path: Path):
    path = tmp_path / "short.txt"
    path.write_text("short")
    with pytest.raises(ConfigError, match="tokens are too little"):
        train_expert([path], tmp_path / "expert", tiny_spec, budget_s=0.0, min_steps=1)


def test_a_vocabulary_too_large_for_a_small_expert_leads_to_a_model_to_start_from(
    tiny_spec: LoadedSpec, text_file: Path, tmp_path: Path
):
    spec = tiny_spec.spec.model_copy(update={"vocab_size": 262_144})
    with pytest.raises(ConfigError, match=r"50\.3 M parameters.*--from a model"):
        train_expert([text_file], tmp_path / "expert", replace(tiny_spec, spec=spec))


def test_what_is_no_text_is_named(tmp_path: Path):
    (tmp_path / "image.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "rows.jsonl").write_text("[1, 2]\n")
    for name in ("image.txt", "rows.jsonl", "missing.txt"):
        with pytest.raises(ConfigError, match=name):
            list(read_documents(tmp_path / name))


def test_documents_survive_the_disk(tmp_path: Path):
    documents = [Document("a", "tab\t and\nline"), Document("", "ünïcode  ")]
    write_documents(tmp_path / "d.jsonl", documents)
    assert list(read_documents(tmp_path / "d.jsonl")) == documents


def test_the_tokenizer_loses_nothing():
    tokenizer = train_tokenizer([TEXT], 350)
    assert tokenizer.token_to_id(END) == 0
    for text in (TEXT[:500], "née \x00 𝔘 \t\n\n  x", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
