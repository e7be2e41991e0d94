"""Whose votes are heard, as the chain counts it (chain_pallet/yuma/src/vouching.rs)."""

import pytest

from moesubnet.chain.nouns import LastReveal, Votes
from moesubnet.types import Coldkey, Hotkey, Metagraph, Neuron


def votes(stakes, vouches):
    neurons = tuple(
        Neuron(
            uid, Hotkey(f"5{uid}"), Coldkey("c"), None, stake, 0, 0, 0, 0, 0, True, stake > 0, 9, 5
        )
        for uid, stake in enumerate(stakes)
    )
    metagraph = Metagraph(
        1, 9, "0x", 30, 1, 9, 39, Hotkey("o"), Coldkey("o"), True, None, None, neurons, None
    )  # fmt: skip
    rows = {uid: ((0, 65_535),) for uid, stake in enumerate(stakes) if stake}
    reveals = {uid: LastReveal(1, None, frozenset(said)) for uid, said in vouches.items()}
    return Votes(metagraph, 1, rows, {}, reveals)


@pytest.mark.parametrize(
    ("stakes", "vouches", "parts"),
    [
        ([10, 10, 10, 0], {}, [None] * 4),  # nobody vouches: all are heard
        ([10, 10, 10, 15], {0: {1, 2}, 1: {0, 2}, 2: {0, 1}}, [20 / 35, 20 / 35, 20 / 35, 0]),
        ([10, 10], {1: {0}}, [None] * 2),  # one alone is half
        ([10, 10, 10], {1: {0}, 2: {0}}, [None] * 3),  # a word kept back silences nobody
        ([10], {0: {0}}, [None]),
    ],
)
def test_a_vote_is_heard_if_more_than_half_of_the_others_vouch(stakes, vouches, parts):
    said = votes(stakes, vouches)
    assert [said.vouched_part(uid) for uid in range(len(stakes))] == parts
