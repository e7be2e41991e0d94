"""Short passes of small models are those of the model, without what lies around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache

from moesubnet.engine import lean, transformers_engine
from moesubnet.engine.base import Query
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.step import Want


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@torch.inference_mode()
def test_a_lean_pass_says_what_the_model_says(batch: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            max_position_embeddings=64,
            head_dim=12,
            tie_word_embeddings=kv_heads == 2,
        )
    ).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:  # all 1 in a new model
            weight.uniform_(0.5, 2.0)
    found = lean.lean_pass(model, 64)
    assert found is not None
    ids = torch.randint(0, 50, (batch, 64))
    expected = model(input_ids=ids, use_cache=False).logits
    cache, begin = DynamicCache(), 0
    for width in (3, 1, 1, lean.MOST_TOKENS, 5, 1):
        now = ids[:, begin : begin + width]
        keep = (width + 1) // 2
        begin += width
        torch.testing.assert_close(
            found.logits(now, cache, keep),
            expected[:, begin - keep : begin],
            atol=1e-5,
            rtol=1e-4,
        )


def test_what_is_no_small_llama_in_full_precision_has_none(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    assert lean.lean_pass(model, 64) is not None
    monkeypatch.setattr(lean, "MOST_BYTES", sum(w.nbytes for w in model.parameters()) - 1)
    assert lean.lean_pass(model, 64) is None
    monkeypatch.undo()
    model.lm_head.to("meta")  # as what a model has on a disk
    assert lean.lean_pass(model, 64) is None
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    assert lean.lean_pass(model, 64) is None


def test_an_engine_does_without_a_lean_pass_that_differs(
    tiny_model: Path, tiny_spec: LoadedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [Query("a", np.arange(end, dtype=np.uint32), end) for end in (9, 10, 14)]

    def laws() -> list[np.ndarray]:
        engine = TransformersEngine(str(tiny_model), tiny_spec)
        assert engine.caches
        return [engine.rows([query], Want("full"))[0].logprobs for query in queries]

    right = laws()
    for normed in (lambda self, x: x * np.nan, lambda self, x: x):
        monkeypatch.setattr(lean.LeanPass, "_normed", normed)
        for wrong, law in zip(laws(), right, strict=True):
            np.testing.assert_allclose(wrong, law, atol=1e-4)
    monkeypatch.setattr(transformers_engine.TransformersEngine, "_apart", lambda *_: 0.0)
    assert np.abs(laws()[1] - right[1]).max() > 0.01, "it is used where nothing is compared"
