"""Prompts that are echoed and scored, against the miners' own laws."""
# ruff: noqa: F811  # fixtures of another module

from __future__ import annotations

import math

import numpy as np
import pytest

from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.gate import uniform_gate
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.router import asking
from moesubnet.router.app import build_app
from moesubnet.router.service import Service
from moesubnet.wire.listening import serve as listen
from tests.conftest import TINY_TEXT, TINY_VOCAB

from .conftest import client
from .test_mixed_streams import network, open_model, sharp  # noqa: F401  # fixtures


def counting(ids: np.ndarray) -> np.ndarray:
    """Sure that the next id is one more than the last."""
    return sharp(int(ids[-1] + 1) % TINY_VOCAB if len(ids) else 7, 0.8)


def spread(ids: np.ndarray) -> np.ndarray:
    return np.log(np.random.default_rng(len(ids)).dirichlet(np.ones(TINY_VOCAB))).astype(np.float32)


@pytest.fixture
async def api(spec, network, open_model):
    """The official client of a router over two miners, and their laws by hotkey."""
    laws = {await network.mine("counts", counting): counting}
    laws[await network.mine("spreads", spread)] = spread
    model = await open_model()
    service = Service(spec, {"mixture": model})
    server = await listen(build_app(lambda: service), "127.0.0.1", 0, grace_s=1.0)
    yield client(f"http://127.0.0.1:{server.port}"), laws
    await server.close()


def by_hand(spec, laws, ids, *, blind):
    """log m(x_t) of every token, by the definition: weights of the prior, or of prior and
    evidence, over full rows."""
    base = np.exp(load_baseline(spec).law.logp.astype(np.float64))
    names = sorted(laws)
    gate, evidence, logs = uniform_gate(), np.zeros(len(names) + 1), []
    walk = Walk(gate, members_of(names))
    for at, token_id in enumerate(ids):
        rows = [np.exp(laws[name](ids[:at]).astype(np.float64)) for name in names] + [base]
        p = np.array([row[token_id] / row.sum() for row in rows])
        prior = np.exp(gate.log_prior(walk._features, members_of(names), True)[0])
        weights = prior * np.exp(evidence)
        logs.append(math.log((weights / weights.sum()) @ p))
        if blind:
            evidence = 0.95 * evidence + np.maximum(np.log(p), -30.0)
        walk.show(np.array([[token_id]]))
    return logs


async def echoed(api, prompt, **options):
    options = {"max_tokens": 0, "logprobs": 2, "echo": True, "temperature": 0} | options
    return await api.completions.create(model="mixture", prompt=prompt, **options)


@pytest.mark.parametrize("echo", [True, "blind"])
@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_an_echo_is_the_mixture_of_the_miners_rows(
    api, spec, tokenizer, monkeypatch, echo, max_tokens, size
) -> None:
    monkeypatch.setattr(asking, "MAX_ECHOED_TOKENS", size)
    api, laws = api
    ids = np.array([3, 4, 5, 6, 9, 200, 201, 202, 203, 0, 1], np.uint32)
    answer = await echoed(api, ids.tolist(), max_tokens=max_tokens, extra_body={"echo": echo})
    [choice] = answer.choices
    said = choice.logprobs
    assert said.tokens[: len(ids)] == [
        tokenizer.decode([i], skip_special_tokens=False) for i in ids
    ]
    assert said.token_logprobs[0] is None
    expected = by_hand(spec, laws, ids, blind=echo == "blind")
    np.testing.assert_allclose(said.token_logprobs[1 : len(ids)], expected[1:], atol=2e-3)
    assert len(said.tokens) == len(ids) + max_tokens
    assert answer.usage.completion_tokens == max_tokens
    assert choice.finish_reason == "length"
    marked = said.model_extra.get("self_reported")
    if echo is True:
        assert marked == [True] * len(ids) + [False] * max_tokens
    else:
        assert marked is None
    for own, top in zip(said.token_logprobs[1:], said.top_logprobs[1:], strict=True):
        assert len(top) == 2
        assert max(top.values()) >= own


async def test_the_echoed_text_is_the_prompt_and_the_stream_joins_to_the_same(api) -> None:
    api, _ = api
    whole = await echoed(api, TINY_TEXT, max_tokens=3)
    [choice] = whole.choices
    assert choice.text.startswith(TINY_TEXT)
    assert choice.logprobs.text_offset[0] == 0
    stream = await echoed(api, TINY_TEXT, max_tokens=3, stream=True)
    pieces = [chunk.choices[0] async for chunk in stream]
    assert "".join(piece.text for piece in pieces) == choice.text
    logprobs = [value for piece in pieces for value in piece.logprobs.token_logprobs]
    assert logprobs == pytest.approx(choice.logprobs.token_logprobs)


async def test_several_prompts_are_scored_in_their_order(api) -> None:
    api, _ = api
    prompts = [[3, 4, 5], [7, 8, 9, 10]]
    both = await echoed(api, prompts)
    assert [len(choice.logprobs.tokens) for choice in both.choices] == [3, 4]
    alone = await echoed(api, prompts[1])
    assert both.choices[1].logprobs.token_logprobs == alone.choices[0].logprobs.token_logprobs


async def test_whoever_ends_a_scored_text_at_once_is_still_one_token(api, monkeypatch) -> None:
    """Clients that score drop the last token of the answer, whatever it is."""
    api, _ = api
    answer = await echoed(api, [3, 4], max_tokens=1, logit_bias={"0": 100})
    [choice] = answer.choices
    assert choice.finish_reason == "stop"
    assert len(choice.logprobs.tokens) == 3
