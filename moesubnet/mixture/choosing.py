"""Whom to ask about a text: one rule for routers, and for validators who pay for what they ask.

An expert that this does not choose is not asked, so it has no part in the mixture, and none in
what a mixture is worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np

from moesubnet.mixture.gate import Gate, initial_features, update_features
from moesubnet.mixture.mixing import log_sum_exp, members_of
from moesubnet.types import Hotkey
from moesubnet.wire.step import Ids, base_hash

CHOSEN_MASS = 0.95
TOP_K = 8  # a router's by default, and what validators measure with


def choose(
    gate: Gate, text_ids: Ids, serving: Collection[Hotkey], top_k: int = TOP_K
) -> list[Hotkey]:
    """Whom to ask about a text, sorted: the experts that hold most of the prior, and a few others.

    The smallest set of those with standing that has 95 % of the mass, at most `top_k`. Of the
    places left a quarter of `top_k` goes to hotkeys that no sheet has measured yet, of which only
    this very text can tell, and to those whom their seniors explain, in case a senior serves
    validators only. They come by a lot that the text draws, so no hotkey can be made to come
    first.
    """
    if not serving:
        return []
    salt = base_hash(text_ids)
    lots = {hotkey: hashlib.sha256(salt + hotkey.encode()).digest() for hotkey in serving}
    drawn = sorted(serving, key=lots.__getitem__)
    standing = zip(drawn, gate.standing(drawn).tolist(), strict=True)
    measured = [hotkey for hotkey, part in standing if part > 0] or drawn
    features = update_features(initial_features(), text_ids)
    log_prior = gate.log_prior(features, members_of(measured))[:-1]
    share = dict(zip(sorted(measured), np.exp(log_prior - log_sum_exp(log_prior)), strict=True))
    ranked = sorted(measured, key=lambda hotkey: (-share[hotkey], lots[hotkey]))
    enough = np.searchsorted(np.cumsum([share[hotkey] for hotkey in ranked]), CHOSEN_MASS) + 1
    others = [hotkey for hotkey in drawn if hotkey not in measured][: max(1, top_k // 4)]
    return sorted((ranked[:enough] + others)[:top_k])
