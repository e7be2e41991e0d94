"""What an expert's card says of its weights, held against what its hotkey said on chain. Pure."""

from __future__ import annotations

from moesubnet.types import Metagraph, Neuron, ServedModel
from moesubnet.wire.protocol import ExpertCard


def is_said(card: ExpertCard, model: ServedModel | None) -> bool:
    """Whether the chain has what the card says."""
    said = card.model_commitment, card.weights_url is not None
    return model is not None and said == (model.commitment, model.is_open)


def otherwise(card: ExpertCard, neuron: Neuron, metagraph: Metagraph) -> str | None:
    """What is wrong with a card by the chain, in words; None: nothing, or the chain keeps no
    models. A card can be another one tomorrow, and for another caller; the chain cannot."""
    model = neuron.model
    if not metagraph.has_models or is_said(card, model):
        return None
    if model is None:
        return "it has not said on chain which model it serves: only its card does"
    since = f"on chain since block {model.block}"
    if model.commitment != card.model_commitment:
        return f"its card names {card.model_commitment}, but {model.commitment} stands {since}"
    if model.is_open:
        return f"it calls its weights open ({since}), and its card does not say where they are"
    return f"its card says where its weights are, but it calls them private ({since})"
