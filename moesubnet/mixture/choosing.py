"""Whom to ask about a text: one rule for routers, and for validators who pay for what they ask.

An expert that this does not choose is not asked, so it has no part in the mixture, and none in
what a mixture is worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from statistics import median

import numpy as np

from moesubnet.mixture.gate import Gate, initial_features, update_features
from moesubnet.mixture.mixing import log_sum_exp, members_of
from moesubnet.types import Hotkey
from moesubnet.wire.step import Ids, base_hash

CHOSEN_MASS = 0.95
BLIND_PROMPT_TOKENS = 2  # one round trip each, after the first: three to the first token
TOP_K = 8  # a router's by default, and what validators measure with
TOO_DEAR = 16  # times what is usual: such experts are asked by name only,
NEVER_DEAR_RAO = 1_000_000  # unless they ask no more than this for a million tokens


def choose(
    gate: Gate,
    text_ids: Ids,
    serving: Collection[Hotkey],
    top_k: int = TOP_K,
    *,
    prices: Mapping[Hotkey, int] | None = None,
    most_rao_per_mtoken: int | None = None,
) -> list[Hotkey]:
    """Whom to ask about a text, sorted: the experts that hold most of the prior, and a few others.

    The smallest set of those with standing that has 95 % of the mass, at most `top_k`. Of the
    places left a quarter of `top_k` goes to hotkeys that no sheet has measured yet, of which only
    this very text can tell, and to those whom their seniors explain, in case a senior serves
    validators only. They come by a lot that the text draws, so no hotkey can be made to come
    first.

    prices: rao per million tokens. Who is dearer than usual (`usual_rao`) comes as late as if it
    had so much less of the mass; to be cheaper than that helps nobody, or the useless would come
    first. most_rao_per_mtoken: of all who are asked together; who does not fit is passed by.
    """
    if not serving:
        return []
    salt = base_hash(text_ids)
    lots = {hotkey: hashlib.sha256(salt + hotkey.encode()).digest() for hotkey in serving}
    drawn = sorted(serving, key=lots.__getitem__)
    standing = zip(drawn, gate.standing(drawn).tolist(), strict=True)
    measured = [hotkey for hotkey, part in standing if part > 0] or drawn
    features = update_features(initial_features(), text_ids, gate.grain)
    log_prior = gate.log_prior(features, members_of(measured))[:-1]
    share = dict(zip(sorted(measured), np.exp(log_prior - log_sum_exp(log_prior)), strict=True))
    worth = share if prices is None else _against(prices, share, usual_rao(gate, prices))
    ranked = sorted(measured, key=lambda hotkey: (-worth[hotkey], lots[hotkey]))
    others = [hotkey for hotkey in drawn if hotkey not in measured]
    if prices is not None and most_rao_per_mtoken is not None:
        left = most_rao_per_mtoken
        ranked, left = _affordable(ranked, prices, left, top_k)
        others, _ = _affordable(others, prices, left, top_k)
    enough = np.searchsorted(np.cumsum([share[hotkey] for hotkey in ranked]), CHOSEN_MASS) + 1
    return sorted((ranked[:enough] + others[: max(1, top_k // 4)])[:top_k])


def usual_rao(gate: Gate, prices: Mapping[Hotkey, int]) -> float:
    """The median price of those with standing: hotkeys that have nothing to say are cheap, and say
    nothing of what is usual. At least 1."""
    standing = zip(prices, gate.standing(list(prices)).tolist(), strict=True)
    heard = [prices[hotkey] for hotkey, part in standing if part > 0] or list(prices.values())
    return max(1.0, float(median(heard))) if heard else 1.0


def not_too_dear(gate: Gate, prices: Mapping[Hotkey, int]) -> dict[Hotkey, int]:
    """Those who ask no more than TOO_DEAR times what is usual. Before an answer the price of the
    dearest is held, so without a bound anybody could empty all budgets by asking a lot."""
    most = max(NEVER_DEAR_RAO, TOO_DEAR * usual_rao(gate, prices))
    return {hotkey: price for hotkey, price in prices.items() if price <= most}


def _against(
    prices: Mapping[Hotkey, int], share: Mapping[Hotkey, float], usual: float
) -> dict[Hotkey, float]:
    """Each one's share of the mass, less for whoever is dearer than usual."""
    return {
        hotkey: part * min(1.0, usual / max(1, prices[hotkey])) for hotkey, part in share.items()
    }


def _affordable(
    hotkeys: Sequence[Hotkey], prices: Mapping[Hotkey, int], left_rao: int, most: int
) -> tuple[list[Hotkey], int]:
    """Those that fit, in their order, and what is left."""
    found: list[Hotkey] = []
    for hotkey in hotkeys:
        if prices[hotkey] <= left_rao and len(found) < most:
            found.append(hotkey)
            left_rao -= prices[hotkey]
    return found, left_rao
