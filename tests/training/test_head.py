"""The chunked loss against the plain one, for the heads that families have."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from moesubnet.training import head
from moesubnet.training.head import split_model

V = 60


def model_of(family: str, **more):
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": V}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    if family == "gpt2":
        shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": V}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape, **more)).eval()


FAMILIES = [
    ("llama", {"tie_word_embeddings": False}),
    ("gemma2", {"final_logit_softcapping": 3.0}),
    ("gemma3_text", {"sliding_window": 4}),
    ("cohere", {"logit_scale": 0.2}),
    ("granite", {"logits_scaling": 4.0}),
    ("phi", {}),  # its head has a bias
    ("gpt2", {}),
]


@pytest.mark.parametrize(("family", "more"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_loss_and_gradients_are_those_of_the_whole_model(monkeypatch, family, more):
    monkeypatch.setitem(head.CHUNK_LOGITS, "cpu", 7 * V)  # 24 rows: chunks of 7, 7, 7 and 3
    model = model_of(family, **more)
    ids = torch.randint(0, V, (2, 13), generator=torch.Generator().manual_seed(1))
    labels = ids[:, 1:].flatten()
    expected = cross_entropy(model(ids[:, :-1], use_cache=False).logits.flatten(0, 1), labels)
    (expected * 3).backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    split = split_model(model)
    assert split.weights, "split, not used whole"

    def rows_loss(logits, rows):
        assert len(logits) <= 7
        return cross_entropy(logits, labels[rows], reduction="sum")

    loss = split.loss(rows_loss, split.trunk(input_ids=ids[:, :-1]).flatten(0, 1)) / len(labels)
    (loss * 3).backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        same = split.loss(rows_loss, split.trunk(input_ids=ids[:, :-1]).flatten(0, 1))
    assert same.item() / len(labels) == pytest.approx(expected.item(), abs=1e-5)


def test_a_frozen_head_gets_no_gradient_and_the_trunk_still_does():
    model = model_of("llama", tie_word_embeddings=False)
    model.lm_head.requires_grad_(False)
    split = split_model(model)
    hidden = split.trunk(input_ids=torch.arange(10)[None]).flatten(0, 1)
    split.loss(lambda logits, rows: logits.logsumexp(-1).sum(), hidden).backward()
    assert model.lm_head.weight.grad is None
    assert model.model.embed_tokens.weight.grad is not None


def test_a_model_whose_head_does_something_unknown_is_used_whole(monkeypatch, caplog):
    model = model_of("llama")
    plain = model.forward

    def odd(*args, **kwargs):
        answer = plain(*args, **kwargs)
        answer.logits = answer.logits.sin()
        return answer

    monkeypatch.setattr(model, "forward", odd)
    split = split_model(model)
    ids = torch.arange(10)[None]
    assert split.weights == ()
    assert "all its logits" in caplog.text
    torch.testing.assert_close(split.logits_of(split.trunk(input_ids=ids)), model(ids).logits)
