"""What a card says, held against the chain."""

from dataclasses import replace

from moesubnet.types import Hotkey, Metagraph, Neuron, ServedModel
from moesubnet.wire.protocol import ExpertCard
from moesubnet.wire.said import is_said, otherwise

URL, OURS, OTHERS = "http://here/", "ab" * 32, "cd" * 32


def card(url=None):
    return ExpertCard(
        hotkey="h", spec_sha256=OURS, name="e", engine="e", model_commitment=OURS, weights_url=url,
        context_tokens=64, vocab_size=9, max_sequences=1, version="0", price_rao_per_mtoken=0,
    )  # fmt: skip


def told(url, model, *, has_models=True):
    neuron = Neuron(0, Hotkey("h"), "c", None, 0, 0, 0, 0, 0, 0, True, False, 0, 0, model)
    graph = Metagraph(1, 9, "0x", 30, 0, 0, 30, "o", "o", True, None, None, (neuron,))
    return otherwise(card(url), neuron, replace(graph, has_models=has_models))


def test_card_and_chain_agree_on_weights_and_on_who_may_fetch_them():
    for url in (None, URL):
        model = ServedModel(OURS, url is not None, 7)
        assert is_said(card(url), model)
        assert told(url, model) is None


def test_what_differs_is_said_in_words():
    assert "only its card" in told(URL, None)
    assert f"but {OTHERS} stands on chain since block 7" in told(URL, ServedModel(OTHERS, True, 7))
    assert "does not say where they are" in told(None, ServedModel(OURS, True, 7))
    assert "it calls them private" in told(URL, ServedModel(OURS, False, 7))


def test_where_the_chain_keeps_no_models_cards_are_what_there_is():
    assert told(URL, None, has_models=False) is None
