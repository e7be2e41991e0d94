"""When an expert is asked to go on by itself: by what that takes, and whom it keeps waiting."""

import numpy as np

from moesubnet.mixture.guessing import FIRST_TRIED_ROUNDS, Guessing, GuessPace


def written(streams, way_s, pass_s, acceptance, rounds, pace=None):
    """Tokens each of some streams was asked to be gone on with, by round. They have
    their rounds together: the way, a pass for the step, and one for each guess but the first."""
    rng, pace = np.random.default_rng(0), pace or GuessPace()
    texts = [Guessing(pace) for _ in range(streams)]
    asked = np.zeros((rounds, streams), int)
    for row in asked:
        row[:] = [text.further(30) for text in texts]
        seconds = way_s + pass_s * (1 + max(0, int(row.max()) - 1))
        for text, count in zip(texts, row, strict=True):
            text.took(seconds)
            for _ in range(int(count)):
                kept = bool(rng.random() < acceptance)
                text.length.drafted(0.0, kept=kept)
                if not kept:
                    break
            else:
                text.length.counted()
    return asked


def test_a_far_expert_s_guesses_are_found_to_pay():
    asked = written(1, way_s=0.1, pass_s=0.005, acceptance=0.8, rounds=400)
    assert asked[200:].mean() > 3


def test_texts_beside_each_other_leave_their_expert_alone():
    assert not written(8, way_s=0.01, pass_s=0.06, acceptance=1.0, rounds=200).any()


def test_a_near_expert_is_tried_ever_more_rarely():
    asked = written(1, way_s=0.01, pass_s=0.06, acceptance=0.3, rounds=400)
    assert 1 <= np.count_nonzero(asked[:200]) < 16
    assert np.count_nonzero(asked[:200]) > np.count_nonzero(asked[200:])


def test_nothing_is_known_at_first_so_nothing_is_asked():
    assert not written(1, 0.1, 0.005, 0.8, FIRST_TRIED_ROUNDS).any()


def test_what_one_stream_found_out_the_next_one_knows():
    pace = GuessPace()
    written(1, 0.1, 0.005, 0.8, 200, pace)
    text = Guessing(pace)
    for _ in range(2):
        assert text.further(30) == 0, "nobody knows yet that it is alone"
        text.took(0.1)
    assert text.further(30) > 0


def test_who_goes_last_and_is_back_first_is_not_alone():
    pace = GuessPace()
    written(1, 0.1, 0.005, 0.8, 200, pace)
    one, other = Guessing(pace), Guessing(pace)
    for text in (other, one, one, other, other, one, one, other):
        assert text.further(30) == 0
        text.took(0.1)


def test_rounds_are_counted_in_which_a_text_that_is_alone_would_be_guessed_for():
    pace = GuessPace()
    written(1, 0.1, 0.005, 0.8, 200, pace)
    alone, other = Guessing(pace), Guessing(pace)
    for _ in range(5):  # of which two are blind
        alone.further(30)
    assert alone.rounds == {(0, True): 1, (2, True): 2}
    assert alone.further(1) == 0  # no room for two tokens
    other.further(30)
    alone.further(30)
    assert alone.rounds == {(0, True): 1, (2, True): 2, (2, False): 1}
    alone.length.drafted(100.0, kept=True)  # evidence is due
    alone.further(30)
    assert alone.rounds.total() == 4
    alone.length.counted()
    alone.further(30)
    assert alone.rounds[1, True] == 1
    assert not other.rounds


def test_a_trial_waits_for_room_and_for_evidence():
    pace = GuessPace()
    written(1, 0.01, 0.05, 0.5, FIRST_TRIED_ROUNDS, pace)
    text = Guessing(pace)
    for _ in range(2):
        assert text.further(30) == 0
        text.took(0.1)
    assert text.further(1) == 0
    text.length.drafted(100.0, kept=True)
    assert text.further(30) == 0
    text.length.counted()
    assert text.further(30) == 2
