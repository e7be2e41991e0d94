"""Every mainstream architecture keeps what it has read, and answers as if it had kept nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesubnet.engine.base import Query
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.errors import EngineError
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.step import Want

V = 300
FULL = Want("full")
WINDOW = 11

# Names differ between families; each config takes those that it knows. Weights are drawn wide,
# for a random model with small ones hardly looks at its text.
SHAPE: dict[str, Any] = {
    "vocab_size": 320,  # cut to the subnet's 300 and renormalised
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "word_embed_proj_dim": 32,
    "intermediate_size": 64,
    "ffn_dim": 64,
    "num_hidden_layers": 4,
    "n_layer": 4,
    "n_layers": 4,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 8,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "max_seq_len": 128,
    "sliding_window": WINDOW,
    "attention_chunk_size": WINDOW,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 320,
    "num_kv_shared_layers": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}

CACHED: dict[str, dict[str, Any]] = {
    "bloom": {},
    "cohere2": {},
    "deepseek_v3": {"num_key_value_heads": 4},
    "ernie4_5": {},
    "exaone4": {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
    "falcon": {"alibi": True},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma3n_text": {},
    "gemma4_text": {  # wider heads where all is seen, and layers that keep nothing of their own
        "num_hidden_layers": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 4,
        "per_layer_config": {f"{layer:02}": {"head_dim": 16} for layer in (1, 3, 5, 7)},
        "num_kv_shared_layers": 4,
    },
    "glm4": {},
    "gpt2": {},
    "gpt_neox": {},
    "gpt_oss": {},
    "gptj": {},
    "granite": {},
    "hunyuan_v1_dense": {},
    "llama": {},
    "llama4_text": {},
    "mistral": {},
    "mixtral": {},
    "mpt": {},
    "nemotron": {},
    "olmo2": {},
    "olmo3": {},
    "opt": {},
    "phi": {},
    "phi3": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {},
    "qwen3_moe": {},
    "seed_oss": {},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
}


@pytest.fixture
def random_model(save_tiny_model: Callable[..., Path]) -> Callable[..., Path]:
    from transformers import AutoConfig

    def save(model_type: str, **overrides: Any) -> Path:
        default = AutoConfig.for_model(model_type)
        known = {*default.to_dict(), *default.attribute_map, *overrides}
        shape = {name: value for name, value in (SHAPE | overrides).items() if name in known}
        return save_tiny_model(
            config=AutoConfig.for_model(model_type, initializer_range=0.3, **shape)
        )

    return save


def check_rows(engine: TransformersEngine) -> None:
    """Sessions grow unevenly, roll back, run beyond the window and fork; rows stay uncached ones.

    A batch step is the length of each session's text afterwards.
    """
    import torch

    texts = np.random.default_rng(1).integers(0, V, (4, 60), dtype=np.uint32)
    texts[3, :25] = texts[2, :25]
    for lengths in ((3, 20, 40, 0), (4, 21, 41, 1), (30, 10, 59, 2), (31, 22, 12, 30), (5, 23, 13)):
        queries = [
            Query(f"me/{text}", texts[text, :length], max(0, length - 2))
            for text, length in enumerate(lengths)
        ]
        for query, rows in zip(queries, engine.rows(queries, FULL), strict=True):
            ids = torch.tensor([[0, *query.ids.tolist()]])
            with torch.inference_mode():
                logits = engine._model(input_ids=ids, use_cache=False).logits[0, query.first :, :V]
            expected = torch.log_softmax(logits.double(), -1).numpy()
            np.testing.assert_allclose(rows.logprobs, expected, atol=5e-4)


@pytest.mark.parametrize("model_type", CACHED)
def test_an_architecture_with_its_cache(
    random_model: Callable[..., Path], tiny_spec: LoadedSpec, model_type: str
) -> None:
    engine = TransformersEngine(str(random_model(model_type, **CACHED[model_type])), tiny_spec)
    assert engine._pool is not None
    check_rows(engine)


@pytest.mark.parametrize("model_type", ["mamba", "qwen3_next"])
def test_a_recurrent_model_runs_without_one_and_says_so(
    random_model: Callable[..., Path],
    tiny_spec: LoadedSpec,
    caplog: pytest.LogCaptureFixture,
    model_type: str,
) -> None:
    with caplog.at_level(logging.WARNING):
        engine = TransformersEngine(str(random_model(model_type)), tiny_spec)
    assert engine._pool is None
    assert "runs without a cache" in caplog.text
    check_rows(engine)


def test_an_encoder_is_refused_for_it_sees_what_follows(
    random_model: Callable[..., Path], tiny_spec: LoadedSpec
) -> None:
    with pytest.raises(EngineError, match="no causal model"):
        TransformersEngine(str(random_model("bert")), tiny_spec)
    check_rows(TransformersEngine(str(random_model("bert", is_decoder=True)), tiny_spec))


def test_a_model_that_fails_with_a_cache_runs_without(
    random_model: Callable[..., Path], tiny_spec: LoadedSpec, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        engine = TransformersEngine(str(random_model("bailing_hybrid")), tiny_spec)
    assert "runs without a cache" in caplog.text
    check_rows(engine)


def test_what_half_precision_rounds_is_no_reason_to_refuse(
    tiny_model: Path, tiny_spec: LoadedSpec
) -> None:
    """Single rows of Gemma 3 270M in bfloat16 are 0.12 apart where only the text's length is
    another."""
    half = TransformersEngine(str(tiny_model), tiny_spec, dtype="bfloat16")
    single = TransformersEngine(str(tiny_model), tiny_spec, dtype="float32")
    one = np.log(np.full((13, 2), 0.5))
    moved = np.full(13, 0.02)
    moved[4] = 0.122
    other = np.log(np.stack((0.5 + moved, 0.5 - moved), 1))
    assert half._apart(one, other) == 0
    assert single._apart(one, other) == pytest.approx(0.122)
    assert half._apart(one, np.log(np.full((13, 2), [0.8, 0.2]))) == pytest.approx(0.3)


def test_a_model_that_counts_positions_by_the_cache_runs_without(
    random_model: Callable[..., Path], tiny_spec: LoadedSpec, caplog: pytest.LogCaptureFixture
) -> None:
    """Texts of uneven length in one pass stand at other columns than their positions."""
    shape = {"decoder_layers": 2, "decoder_ffn_dim": 32, "decoder_attention_heads": 2}
    folder = random_model("bart", **shape, encoder_layers=1, init_std=0.3)
    with caplog.at_level(logging.WARNING):
        engine = TransformersEngine(str(folder), tiny_spec)
    assert "its answers differ" in caplog.text
    check_rows(engine)


def test_a_model_that_does_not_run_is_refused_by_name(
    random_model: Callable[..., Path], tiny_spec: LoadedSpec
) -> None:
    with pytest.raises(EngineError, match="deepseek_v2"):
        TransformersEngine(str(random_model("deepseek_v2", num_key_value_heads=2)), tiny_spec)


@pytest.mark.parametrize("model_type", ["mistral", "gemma3_text", "llama4_text"])
def test_windows_are_probed_beyond_their_end(
    random_model: Callable[..., Path],
    tiny_spec: LoadedSpec,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    model_type: str,
) -> None:
    """One column too few beyond the window is noticed on loading, however long the window is."""
    from moesubnet.engine import slabs

    right = slabs.SlabLayer.get_mask_sizes

    def wrong(layer: slabs.SlabLayer, query_length: int) -> tuple[int, int]:
        shown, hidden = right(layer, query_length)
        return (shown - 1, hidden + 1) if hidden else (shown, hidden)

    monkeypatch.setattr(slabs.SlabLayer, "get_mask_sizes", wrong)
    folder = random_model(model_type, sliding_window=4096, attention_chunk_size=4096)
    engine = TransformersEngine(str(folder), tiny_spec)
    assert engine._pool is None
    assert "its answers differ" in caplog.text
