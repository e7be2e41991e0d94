"""Two validators whose experts compute in other precisions: what they make of the same text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import calibration
import numpy as np
import pytest
from dtypes import apart, measured

from moesubnet.spec.tokenizer import load_tokenizer

TESTS = Path(__file__).resolve().parents[1]
KINDS = {"python": TESTS / "tiny_text.txt", "json": TESTS / "vectors" / "yuma_random.json"}
PARTS, LEARNT, MOST = 10, 6, 80_000  # of a text, and its characters at most


def trained(folder: Path, ids: np.ndarray, vocab_size: int, context: int) -> None:
    """A small Llama that has read some text."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    steps = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    for _ in range(60):
        begin = rng.integers(0, len(ids) - 48, 16)
        batch = torch.tensor(np.stack([ids[b : b + 48] for b in begin]).astype(np.int64))
        model(input_ids=batch, labels=batch).loss.backward()
        steps.step()
        steps.zero_grad()
    model.save_pretrained(folder)


@pytest.fixture
def root(tiny_spec, tmp_path, monkeypatch):
    """A localnet's folders, as far as the benchmark reads them: two experts, a validator's text."""
    monkeypatch.setattr(calibration, "WALKS", 16)
    monkeypatch.setattr(calibration, "GATE_EPOCHS", 1)
    monkeypatch.setattr(calibration, "EPOCHS", 3)
    tokenizer = load_tokenizer(tiny_spec.tokenizer_path)
    shutil.copytree(tiny_spec.root, tmp_path / "spec")
    private = []
    for kind, path in KINDS.items():
        text = path.read_text()[:MOST]
        size = len(text) // PARTS
        texts = [text[size * part :][:size] for part in range(PARTS)]
        ids = np.concatenate([tokenizer.encode(text).ids for text in texts[:LEARNT]])
        folder = tmp_path / "experts" / kind
        trained(folder, ids, tiny_spec.spec.vocab_size, tiny_spec.spec.context_tokens)
        (folder / "tokenizer.json").write_bytes(tiny_spec.tokenizer_path.read_bytes())
        private += texts[LEARNT:]
    place = tmp_path / "corpora" / "validators" / "0.jsonl"
    place.parent.mkdir(parents=True)
    place.write_text("".join(json.dumps({"text": text}) + "\n" for text in private))
    return tmp_path


def test_validators_of_experts_in_other_precisions_score_them_nearly_alike(root):
    ours, theirs = measured(root, "float32"), measured(root, "bfloat16")
    assert (ours.score > 0).any(axis=0).all()  # everybody is worth something
    found = apart(ours, theirs)
    assert 0 < found["log_q"][0] < 0.1  # it is another precision
    assert found["log_q"][1] < 0.02
    assert found["score"][0] < 0.02  # of scores of 0.4 and 2.7
    assert found["vote"][0] < 0.001
    assert apart(ours, measured(root, "float32"))["score"] == (0.0, 0.0)
