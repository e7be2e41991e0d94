"""How long drafts become, by what they gain and by what their evidence is missed."""

import math

import numpy as np
import pytest

from moesubnet.mixture.draft_length import (
    FIRST_KEPT,
    FIRST_LOST,
    MAX_DRAFT,
    MISSED_NATS,
    DraftLength,
    Pace,
    entropy_nats,
)


def settled(acceptance, base_s, drafted_s, rounds=300):
    """The lengths chosen over rounds whose times are a line and whose drafts are kept so often."""
    rng, pace, chosen = np.random.default_rng(0), Pace(), []
    length = DraftLength(pace.round_s)
    for _ in range(rounds):
        drafted = length.choose()
        chosen.append(drafted)
        pace.took(drafted, base_s + drafted * drafted_s)
        for _ in range(drafted):
            kept = bool(rng.random() < acceptance)
            length.drafted(0.0, kept=kept)
            if not kept:
                break
        else:
            length.counted()
    return chosen[rounds // 3 :]


@pytest.mark.parametrize(
    ("acceptance", "base_s", "drafted_s"),
    [(0.8, 0.1, 0.004), (0.6, 0.05, 0.004), (0.9, 0.02, 0.004), (0.3, 0.04, 0.01)],
)
def test_the_length_gives_nearly_the_most_tokens_a_second(acceptance, base_s, drafted_s):
    lengths = np.arange(MAX_DRAFT + 1)
    rate = np.cumsum(acceptance**lengths) / (base_s + lengths * drafted_s)
    chosen = settled(acceptance, base_s, drafted_s)
    assert rate[chosen].mean() > 0.93 * rate.max()


def test_nobody_drafts_where_it_does_not_pay():
    """Drafting takes longer than asking: now and then a draft is tried, in case that changed."""
    chosen = settled(0.1, 0.005, 0.01)
    assert np.mean(np.array(chosen) == 0) > 0.8


def test_a_longer_way_makes_longer_drafts():
    means = [np.mean(settled(0.8, base_s, 0.004)) for base_s in (0.01, 0.05, 0.2)]
    assert means == sorted(means)
    assert means[2] > means[0] + 2


def test_a_pause_does_not_spoil_what_is_known():
    pace = Pace()
    for n in (0, 4, 8) * 20:
        pace.took(n, 0.05 + 0.004 * n)
    before = pace.round_s([0, 8])
    assert before == pytest.approx([0.05, 0.082], rel=0.1)
    pace.took(8, 30.0)
    assert np.all(pace.round_s([0, 8]) < 1.6 * before)


def test_members_that_are_far_apart_get_undrafted_tokens():
    """So many nats of what the weights could have learnt, then a round without a draft."""
    length = DraftLength(Pace().round_s)
    drafted = 0
    while length.choose() > 0:
        length.drafted(entropy_nats([0.2] * 5), kept=True)
        drafted += 1
    assert drafted == math.floor(MISSED_NATS / math.log(5)) + 1
    length.counted()
    assert length.choose() > 0


def test_a_sure_mixture_has_nothing_to_learn():
    length = DraftLength(Pace().round_s)
    for _ in range(200):
        length.drafted(entropy_nats([1.0, 0.0]), kept=True)
    assert length.choose() == MAX_DRAFT
    assert length.acceptance > 0.9


def test_what_is_known_of_drafts_fades():
    length = DraftLength(Pace().round_s)
    for _ in range(50):
        length.drafted(0.0, kept=False)
    assert length.acceptance < 0.1
    for _ in range(1000):
        length.counted()
    assert length.acceptance == pytest.approx(FIRST_KEPT / (FIRST_KEPT + FIRST_LOST), rel=0.02)


def test_no_more_is_drafted_than_there_is_room_for():
    length = DraftLength(Pace().round_s)
    assert [length.choose(most) for most in (-1, 0, 1)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("acceptance", "base_s", "drafted_s"), [(0.9, 0.1, 0.01), (0.35, 0.1, 0.02)]
)
def test_a_drafter_that_has_to_guess_ahead_drafts_where_that_pays(
    acceptance, base_s, drafted_s
) -> None:
    """Its first guess gives no token, only the right to a draft: 1 + α · (α + α² + …) of them."""
    rng, pace = np.random.default_rng(0), Pace()
    length = DraftLength(pace.round_s)
    tokens, seconds, is_right, ready = 0, 0.0, False, 0
    for _ in range(2_000):
        drafted = ready if is_right else 0
        ready = length.choose(ahead=1)
        asked = ready + 1 if ready else 0
        round_s = base_s + asked * drafted_s
        pace.took(asked, round_s)
        seconds += round_s
        for _ in range(drafted):
            kept = bool(rng.random() < acceptance)
            length.drafted(0.0, kept=kept)
            tokens += 1
            if not kept:
                is_right = False
                break
        else:
            tokens += 1
            length.counted()
            is_right = bool(asked) and bool(rng.random() < acceptance)
            if asked:
                length.drafted(0.0, kept=is_right)
    gain = tokens * base_s / seconds
    assert gain > (2.0 if acceptance > 0.5 else 0.97)
