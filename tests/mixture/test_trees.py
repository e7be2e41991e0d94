"""What the measurement of trees of drafts rests on (benchmarks/trees.py): the law of what they
write is the mixture's, whatever is drafted."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import best, depth, drawn_beside, grown, judged, played, round_s, shares, without

from moesubnet.mixture.drafting import Draft, Drawn
from moesubnet.mixture.law import apply_sampling

WORDS = 3
seeds = st.integers(0, 2**32 - 1)


def some_law(rng: np.random.Generator, temperature: float) -> Drawn:
    return Drawn.of(np.log(rng.dirichlet(np.ones(WORDS))), None, temperature, 1.0)


@given(seeds, st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, WORDS), st.booleans())
def test_a_token_with_drafts_beside_each_other_has_the_law_of_the_mixture(seed, at, count, trusted):
    """All drafts in all orders gone through."""
    rng = np.random.default_rng(seed)
    m, q = some_law(rng, at), some_law(rng, 1.0)
    written = np.zeros(WORDS)
    for tokens in itertools.permutations(range(WORDS), count):
        chance, left, drafts = 1.0, q, []
        for token in tokens:
            drafts.append(Draft(token, left if trusted else None))
            chance *= left.of_token(token)
            left = without(left, token)
        chances, rest = judged(m, drafts)
        written[list(tokens)] += chance * np.array(chances)
        written += chance * (1.0 - sum(chances)) * rest.probs
    assert written == pytest.approx(m.probs, abs=1e-12)


def test_drafts_beside_each_other_are_distinct_and_no_more_than_the_law_has_tokens():
    rng, q = np.random.default_rng(0), Drawn(np.array([0.7, 0.0, 0.3]))
    orders = {tuple(d.token_id for d in drawn_beside(q, 3, rng)) for _ in range(99)}
    assert orders == {(0, 2), (2, 0)}


class Played:
    """A model over three words: its law is made of the last two tokens."""

    def __init__(self, seed: int) -> None:
        self.log_p = np.log(np.random.default_rng(seed).dirichlet(np.ones(WORDS), (WORDS, WORDS)))

    def begin(self) -> None:
        pass

    def after(self, text: list[int]) -> np.ndarray:
        return self.log_p[tuple(text[-2:])]

    def laws(self, text, paths):
        longest = max(map(len, paths))
        padded = [[*path, *[0] * (longest - len(path))] for path in paths]
        return np.array(
            [[self.after([*text, *path[:n]]) for n in range(longest + 1)] for path in padded]
        )


def test_texts_that_trees_write_have_the_laws_of_the_mixture():
    """Pairs of tokens of 1,500 rounds against their exact law, by chi-squared."""
    models, prompt, rounds, temperature = [Played(k) for k in range(3)], [2, 0, 1], 1_500, 0.8
    shape = [(-1, 0), (-1, 1), (0, 0), (0, 1), (1, 0), (2, 0)]
    weights, rng = np.array([0.5, 0.2, 0.3]), np.random.default_rng(0)
    counts, lengths = np.zeros((WORDS, WORDS)), set()
    for _ in range(rounds):
        tokens = played(models, prompt, np.log(weights), shape, temperature, rng).tokens
        lengths.add(len(tokens))
        if len(tokens) == 1:
            text = [*prompt, *tokens]
            tokens += played(models, text, np.log(weights), [], temperature, rng).tokens
        counts[tuple(tokens[:2])] += 1
    assert lengths == {1, 2, 3, 4}

    def law(text: list[int]) -> np.ndarray:
        mixed = weights @ np.exp([model.after(text) for model in models])
        return apply_sampling(np.log(mixed), temperature, 1.0)

    exact = np.array([law(prompt)[a] * law([*prompt, a]) for a in range(WORDS)])
    assert ((counts - rounds * exact) ** 2 / (rounds * exact)).sum() < 26.1  # 8 degrees, p = 0.001


def test_a_tree_grows_where_most_is_kept():
    # 0.7, then 0.49 after it, 0.343; then the second of all, 0.3 · 0.5; 0.24 is after the third.
    shape, chances = grown([0.7, 0.5], 5)
    assert shape == [(-1, 0), (0, 0), (1, 0), (2, 0), (3, 0)]
    assert grown([0.7, 0.6], 5)[0] == [(-1, 0), (0, 0), (1, 0), (2, 0), (-1, 1)]
    assert chances == sorted(chances, reverse=True)
    line, kept = grown([0.7], 4, widest=1)
    assert line == [(-1, 0), (0, 0), (1, 0), (2, 0)]
    assert kept == pytest.approx([0.7, 0.49, 0.343, 0.2401])
    assert (depth(line), depth([])) == (4, 0)
    assert round_s(line, 0.1) == pytest.approx(0.126)


def test_what_is_kept_seldom_is_not_drafted():
    assert best([0.0, 0.0], 0.1, 4) == []
    assert len(best([0.9], 0.25, 1)) > len(best([0.9], 0.0, 1)) > 0
    assert best([0.5, 0.5], 0.25, 2) != best([0.5, 0.5], 0.25, 1)


def test_shares_are_of_drafts_whose_elders_were_not_kept():
    outcomes = [(0, 2), (1, 2), (-1, 2), (0, 1)]
    assert shares(outcomes)[:2] == [0.5, 0.5]
    assert math.isclose(sum(shares([])), 0.0)
