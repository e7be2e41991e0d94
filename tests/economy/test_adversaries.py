"""What the adversaries say: always a law, and what each one's claim says of it."""

import numpy as np
import pytest
from adversaries.aggregator import Aggregator
from adversaries.cuckoo import Cuckoo
from adversaries.delayed_copier import DelayedCopier
from adversaries.echo import Echo
from adversaries.label_looker import LabelLooker
from adversaries.liar import Liar
from adversaries.ngram_cache import NgramCache
from adversaries.noisy_copier import NoisyCopier
from adversaries.others import dense
from adversaries.over_corrector import OverCorrector
from adversaries.picky import Picky
from adversaries.relay import Relay
from adversaries.served import as_engine
from adversaries.sharpened_self import SharpenedSelf
from adversaries.splitter import Splitter, by_lot
from adversaries.squatter import Squatter
from adversaries.swarm import swarm
from adversaries.two_faced import TwoFaced

from moesubnet.engine.base import Query
from moesubnet.mixture.law import Law
from moesubnet.wire.protocol import Want

VOCAB = 40


def expert(seed):
    """After each token another law, the same one always."""
    laws = np.log(np.random.default_rng(seed).dirichlet(np.full(VOCAB, 0.3), VOCAB) * 0.99 + 2.5e-4)
    laws -= np.log(np.exp(laws).sum(axis=1, keepdims=True))
    return lambda ids: laws[ids[-1]]


A, B = expert(0), expert(1)
TEXT = np.random.default_rng(2).integers(0, VOCAB, 20).astype(np.uint32)
ADVERSARIES = {
    "copier": NoisyCopier(A, 0.5, flat=0.1, power=1.2),
    "swarm": swarm(A, 3, 0.3)[2],
    "aggregator": Aggregator([A, B], first=4),
    "parasite": Aggregator([A], own=B, share=0.2, first=4),
    "relay": Relay([A, B], first=4),
    "delayed": DelayedCopier(A, first=4),
    "liar": Liar(A),
    "sharpened": SharpenedSelf(A, 1.5),
    "over-corrector": OverCorrector(A, [B], 0.5, first=4),
    "echo": Echo(VOCAB),
    "ngrams": NgramCache([TEXT[:10]], VOCAB),
    "squatter": Squatter(B, A, 0.1),
    "cuckoo": Cuckoo(A, B, prefix_tokens=5),
    "picky": Picky(A, only=["v"], leaves=0.5),
    "looker": LabelLooker(A),
    "part": Splitter(A, B, 0, by_lot(2, 4)),
    "two-faced": TwoFaced(Picky(A, only=["v"]), B),
}


@pytest.mark.parametrize("name", ADVERSARIES)
def test_every_adversary_answers_a_law_and_the_same_one_again(name):
    law = ADVERSARIES[name]
    for length in (5, 12, 20):
        said = np.asarray(law(TEXT[:length]), np.float64)
        assert said.shape == (VOCAB,)
        assert np.all(np.isfinite(said))
        assert np.exp(said).sum() == pytest.approx(1.0, abs=1e-3)
        np.testing.assert_array_equal(law(TEXT[:length]), law(TEXT[:length]))


def test_no_two_of_a_swarm_say_the_same_and_without_noise_a_copy_is_one():
    first, second = swarm(A, 2, 0.3)
    assert np.abs(first(TEXT) - second(TEXT)).max() > 0.1
    np.testing.assert_allclose(NoisyCopier(A, 0.0)(TEXT), A(TEXT), atol=1e-9)


def test_an_aggregator_follows_who_was_right():
    text = [3]
    for _ in range(12):  # a text as A would have it
        text.append(int(np.argmax(A(np.array(text)))))
    text = np.array(text, np.uint32)
    np.testing.assert_allclose(
        Aggregator([A, B], first=1)(text[:1]), np.logaddexp(A(text[:1]), B(text[:1])) - np.log(2)
    )
    assert np.abs(np.exp(Aggregator([A, B], first=1)(text)) - np.exp(A(text))).max() < 0.05
    np.testing.assert_array_equal(Relay([B, A], first=1)(text), A(text))


def test_who_over_corrects_says_more_of_what_the_others_do_not():
    own, law = np.exp(A(TEXT)), np.exp(OverCorrector(A, [B], first=4)(TEXT))
    apart = own - np.exp(B(TEXT))
    assert law[np.argmax(apart)] > own[np.argmax(apart)]
    assert law[np.argmin(apart)] < 1e-9


def test_the_picky_answer_whom_they_like_and_leave_a_part_the_same_one_again():
    assert not Picky(A, only=["v"]).answers("router", TEXT)
    assert Picky(A, only=["v"]).answers("v", TEXT)
    texts = np.random.default_rng(0).integers(0, VOCAB, (2_000, 8)).astype(np.uint32)
    picky = Picky(A, leaves=0.1)
    answered = [picky.answers("anybody", ids) for ids in texts]
    assert 0.87 < np.mean(answered) < 0.93
    assert answered == [picky.answers("anybody", ids) for ids in texts]


def test_of_the_parts_of_one_expert_one_speaks_of_each_text():
    parts = [Splitter(A, B, part, by_lot(3, 4)) for part in range(3)]
    for seed in range(12):
        text = np.random.default_rng(seed).integers(0, VOCAB, 9).astype(np.uint32)
        spoke = [np.array_equal(part(text), A(text)) for part in parts]
        assert sum(spoke) == 1
        assert spoke == [np.array_equal(part(text[:6]), A(text[:6])) for part in parts]


def test_a_squatter_wakes():
    squatter = Squatter(B, A, 0.0, wakes_as=A)
    np.testing.assert_array_equal(squatter(TEXT), B(TEXT))
    squatter.wake()
    np.testing.assert_array_equal(squatter(TEXT), A(TEXT))


def test_an_adversary_can_be_served(tiny_spec):
    engine = as_engine(lambda spec: Echo(spec.spec.vocab_size))("none", tiny_spec)
    (rows,) = engine.rows([Query("s", np.arange(5, dtype=np.uint32), 3)], Want("full"))
    assert rows.logprobs.shape == (3, tiny_spec.spec.vocab_size)


def test_a_cuckoo_says_what_the_next_one_says_and_remembers_prefixes():
    cuckoo = Cuckoo(A, B, prefix_tokens=5)
    before = cuckoo(TEXT[:5])
    cuckoo.meet()
    assert np.array_equal(cuckoo(TEXT[:12]), B(TEXT[:12]))
    assert np.array_equal(cuckoo(TEXT[:5]), before)
    assert np.array_equal(cuckoo(TEXT[1:6]), B(TEXT[1:6]))


def test_what_others_list_of_a_law_is_made_whole_as_a_router_makes_it():
    whole = Law(A(TEXT).astype(np.float32))
    listed = Law(whole.logp, shape=Law(B(TEXT).astype(np.float32))).head(5)
    np.testing.assert_allclose(dense(listed), listed.at(np.arange(VOCAB)), atol=1e-5)
    np.testing.assert_array_equal(dense(whole), whole.logp)
