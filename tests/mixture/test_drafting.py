"""Drafted text has the law of text without drafts: exactly, and for what is drawn."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.mixture.drafting import Block, Draft, Drawn, Points, next_token, overlap
from moesubnet.mixture.gate import uniform_gate
from moesubnet.mixture.law import Law, mix
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.types import Hotkey

from .dense import dense
from .test_law import full_law, listed_law

seeds = st.integers(0, 2**32 - 1)
temperatures = st.sampled_from([0.0, 0.3, 1.0, 1.7])
top_ps = st.sampled_from([0.5, 0.9, 1.0])
WORDS, BLOCK, WRITTEN = 3, 2, 4


def spread(drawn: Drawn, vocab: int) -> np.ndarray:
    """float64 [vocab] by the definition."""
    out = np.zeros(vocab)
    out[slice(None) if drawn.ids is None else drawn.ids] = drawn.probs
    return out


class Laws:
    """The mixture's and the drafter's law after every text, made up of the text alone. The
    drafter is one of the members, and some laws list only a part of the vocabulary."""

    def __init__(self, seed: int, temperature: float, top_p: float, truncated: bool) -> None:
        self.seed, self.how, self.truncated = seed, (temperature, top_p), truncated
        self.known: dict[tuple[int, ...], tuple[Drawn, Drawn]] = {}

    def after(self, text: tuple[int, ...]) -> tuple[Drawn, Drawn]:
        if text not in self.known:
            self.known[text] = self._make(text)
        return self.known[text]

    def _make(self, text):
        rng = np.random.default_rng([self.seed, *text])
        base = full_law(rng, WORDS, np.float64)
        if self.truncated:
            few = [int(rng.integers(1, WORDS)) for _ in range(3)]
            student, *experts = (listed_law(rng, base, WORDS, k) for k in few)
        else:
            student, *experts = (full_law(rng, WORDS, np.float64) for _ in range(3))
        mixture = mix(np.log([0.3, 0.5, 0.15, 0.05]), [student, *experts, base])
        m = Drawn.of(mixture.log_drawn, mixture.law.ids, *self.how)
        return m, Drawn.of(student.logp, student.ids, *self.how)


def written(laws, text, left, trusted):
    """{text: probability} of `left` more tokens, drafted in blocks, every draft and every outcome
    gone through. Of a block what follows `left` is dropped."""
    if left <= 0:
        return {text[: len(text) + left]: 1.0}
    out: dict[tuple[int, ...], float] = {}

    def add(after, p, more):
        for whole, chance in written(laws, after, more, trusted).items():
            out[whole] = out.get(whole, 0.0) + p * chance

    def block(at, p, drafted):
        m, q = laws.after(at)
        if drafted == BLOCK:  # the bonus
            for token, chance in enumerate(spread(m, WORDS)):
                if chance:
                    add((*at, token), p * chance, left - drafted - 1)
            return
        for token, chance in enumerate(spread(q, WORDS)):
            if not chance:
                continue
            draft = Draft(token, q if trusted else None)
            kept = draft.kept(m)
            if kept:
                block((*at, token), p * chance * kept, drafted + 1)
            if kept < 1.0:
                for other, probability in enumerate(spread(draft.instead(m), WORDS)):
                    assert other != token or probability == 0.0
                    if probability:
                        lost = p * chance * (1.0 - kept) * probability
                        add((*at, other), lost, left - drafted - 1)

    block(text, 1.0, 0)
    return out


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("truncated", [True, False])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.8), (0.0, 1.0), (1.5, 0.9)])
def test_every_text_is_as_likely_with_drafts_as_without(temperature, top_p, truncated, trusted):
    laws = Laws(7, temperature, top_p, truncated)
    drafted = written(laws, (), WRITTEN, trusted)
    total = 0.0
    for text in itertools.product(range(WORDS), repeat=WRITTEN):
        plain = math.prod(
            spread(laws.after(text[:i])[0], WORDS)[token] for i, token in enumerate(text)
        )
        assert drafted.get(text, 0.0) == pytest.approx(plain, abs=1e-12)
        total += plain
    assert total == pytest.approx(1.0)


@given(seeds, temperatures, top_ps, st.booleans())
def test_the_overlap_is_how_often_drafts_are_kept(seed, temperature, top_p, truncated):
    m, q = Laws(seed, temperature, top_p, truncated).after(())
    kept = sum(
        chance * Draft(token, q).kept(m) for token, chance in enumerate(spread(q, WORDS)) if chance
    )
    assert overlap(m, q) == pytest.approx(kept, abs=1e-12)
    assert overlap(m, q) == pytest.approx(overlap(q, m), abs=1e-12)


@given(seeds)
def test_a_member_that_drafts_is_kept_at_least_as_often_as_it_weighs(seed):
    m, q = Laws(seed, 1.0, 1.0, False).after(())
    assert overlap(m, q) >= 0.3 - 1e-12


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("truncated", [True, False])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (1.3, 0.95)])
def test_what_is_drawn_has_the_laws_of_the_mixture(temperature, top_p, truncated, trusted):
    """Pairs of tokens of 5,000 drafted texts against the pairs' exact law, by chi-squared."""
    laws, rng, texts = Laws(3, temperature, top_p, truncated), np.random.default_rng(1), 5_000
    counts = np.zeros((WORDS, WORDS))
    for _ in range(texts):
        text: tuple[int, ...] = ()
        while len(text) < 2:
            m, q = laws.after(text)
            drafts = [Draft(q.draw(rng), q if trusted else None)]
            text = (*text, next_token(m, drafts, rng))
        counts[text] += 1
    first = spread(laws.after(())[0], WORDS)
    expected = (
        texts
        * first[:, None]
        * np.stack([spread(laws.after((token,))[0], WORDS) for token in range(WORDS)])
    )
    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    squared = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    free = possible.sum() - 1
    assert squared < free + 4 * math.sqrt(2 * max(free, 1)) + 4  # one in thousands by chance


@given(seeds, temperatures, top_ps, st.booleans(), st.integers(1, 2**WORDS - 2))
def test_drafts_that_a_grammar_leaves_make_its_law(seed, temperature, top_p, truncated, bits):
    """What is drawn is m of what is allowed, though what is refused is never a draft: of one that
    is allowed the law is its own law, of what is allowed."""
    allowed = np.array([bits >> word & 1 for word in range(WORDS)], bool)
    m, q = Laws(seed, temperature, top_p, truncated).after(())
    if not spread(m, WORDS)[allowed].any():
        return
    m, found = m.within(allowed), np.zeros(WORDS)
    for token, chance in enumerate(spread(q, WORDS)):
        if not allowed[token]:
            found += chance * spread(m, WORDS)
        elif chance:
            draft = Draft(token, q.within(allowed))
            kept = draft.kept(m)
            found[token] += chance * kept
            found += chance * (1.0 - kept) * spread(draft.instead(m), WORDS)
    assert found == pytest.approx(spread(m, WORDS), abs=1e-12)


def test_a_draft_of_unknown_making_changes_no_text():
    """With one seed the text is the same whatever strangers draft."""
    laws = Laws(5, 1.0, 1.0, False)
    for seed in range(20):
        texts = []
        strangers = (lambda text: (), lambda text: [Draft(0)], lambda text: [Draft(len(text) % 3)])
        for drafts in strangers:
            rng, text = np.random.default_rng(seed), ()
            for _ in range(8):
                m, _ = laws.after(text)
                text = (*text, next_token(m, drafts(text), rng))
            texts.append(text)
        assert len(set(texts)) == 1


def test_a_drafter_equal_to_the_mixture_is_always_kept():
    m, _ = Laws(2, 1.0, 1.0, True).after(())
    rng = np.random.default_rng(0)
    assert overlap(m, m) == pytest.approx(1.0)
    for _ in range(200):
        draft = Draft(m.draw(rng), m)
        assert next_token(m, [draft], rng) == draft.token_id
    assert draft.instead(m) is m  # nothing is left: never drawn from


def test_a_draft_that_the_mixture_cannot_draw_is_never_kept():
    listed = Law(np.log(np.array([0.6, 0.4])), np.array([1, 3], np.uint32))
    m = Drawn.of(listed.logp, listed.ids, 1.0, 1.0)
    for drawn_from in (None, Drawn(np.array([1.0]), np.array([2], np.uint32))):
        draft = Draft(2, drawn_from)
        assert draft.kept(m) == 0.0
        assert spread(draft.instead(m), 4) == pytest.approx([0, 0.6, 0, 0.4])


def test_the_oracle_agrees_with_laws():
    rng = np.random.default_rng(0)
    law = full_law(rng, WORDS, np.float64)
    drawn = Drawn.of(law.logp, None, 1.0, 1.0)
    assert spread(drawn, WORDS) == pytest.approx(np.exp(dense(law, WORDS)))


# -- evidence --------------------------------------------------------------------------------

HONEST, TWIN = Hotkey("a"), Hotkey("b")  # of one model; the twin may lie about drafts


def full(rng):
    return Law(np.log(rng.dirichlet(np.full(8, 0.5)) * 0.98 + 0.0025))


def lie(kind, law, draft):
    """What a twin says where it has seen the draft of the position."""
    if kind is None or draft is None:
        return law
    p = np.full(8, 1e-6) if kind == "yes" else np.exp(law.logp)
    p[draft.token_id] = 1.0 if kind == "yes" else 1e-9
    return Law(np.log(p / p.sum()))


def write(kind, blocks, *, length=3, seed=0, student_is_mixture=False):
    """Blocks drafted by the student, which is the last member. Returns the walk and, of tokens
    that count, of drafts that were kept and of tokens in place of others, what each member gave
    them beyond what it gives the mixture's tokens on average. A student that is the mixture drafts
    the likeliest of its tokens, and the experts are unlike."""
    rng = np.random.default_rng(seed)
    walk = Walk(uniform_gate(), members_of([HONEST, TWIN]))
    surprise = {"counted": [], "kept": [], "instead": []}
    for _ in range(blocks):
        drafts, laws = [], []
        for place in range(length + 1):
            expert, twin, student, top_p = full(rng), None, full(rng), 1.0
            if student_is_mixture:
                twin, top_p = full(rng), 0.8
                student = mix(walk.log_weights()[0][:2], [expert, twin]).law
            q = Drawn.of(student.logp, None, 1.0, top_p)
            if place < length:
                drafts.append(Draft(q.draw(rng), q))
            draft = drafts[place] if place < length else None
            laws.append([expert, twin or lie(kind, expert, draft), student])
        block = Block(drafts)
        while True:
            given_now, left = laws[block.kept], block.left
            mixture = mix(walk.log_weights()[0], given_now)
            m = Drawn.of(mixture.log_drawn, None, 1.0, 1.0)
            token = next_token(m, left, rng)
            log_p = np.array([law.at(token) for law in given_now])
            usual = np.array([m.probs @ law.logp for law in given_now])
            is_kept = block.take(token)
            name = "counted" if not left else "kept" if is_kept else "instead"
            surprise[name].append(log_p - usual)
            if not left:
                walk.observe(np.array([token]), log_p[None])
            else:
                walk.show(np.array([[token]]))
            if not is_kept:
                break
    return walk, {name: np.array(values) for name, values in surprise.items()}


@pytest.mark.parametrize("kind", ["yes", "no"])
def test_who_lies_about_drafts_is_weighed_as_who_does_not(kind):
    """p = 1 on every draft, or p = 0: at every token the liar weighs what its honest twin does."""
    walk, surprise = write(kind, 150)
    honest, twin, _ = walk.log_weights()[0]
    assert twin == pytest.approx(honest)
    assert len(surprise["counted"]) > 5


def test_where_drafts_counted_liars_would_gain():
    """The test above can fail: what the twin says of kept drafts is far above the honest one's."""
    _, surprise = write("yes", 150)
    assert surprise["kept"][:, 1].sum() > 10
    _, honest = write(None, 150)
    assert honest["kept"][:, 1] == pytest.approx(honest["kept"][:, 0])


def drift(values):
    """The mean in standard errors."""
    return values.mean() / (values.std() / math.sqrt(len(values)))


def test_evidence_does_not_drift_for_or_against_who_drafts():
    """On average a counted token gives each member what tokens of the mixture give it; kept
    drafts would favour the drafter, tokens in their place would go against it."""
    _, surprise = write(None, 1500, length=2)
    for column in range(3):
        assert abs(drift(surprise["counted"][:, column])) < 4
    assert drift(surprise["kept"][:, 2]) > 8
    assert drift(surprise["instead"][:, 2]) < -8


def test_the_evidence_of_a_student_equal_to_the_mixture_does_not_drift():
    """What counts gives it, and the mixture, what the mixture's tokens give on average; kept
    drafts would favour both beside experts that say otherwise."""
    _, surprise = write(None, 1500, length=2, student_is_mixture=True)
    assert len(surprise["instead"]) > 100  # it drafts the likeliest: not all are kept
    for column in range(3):
        assert abs(drift(surprise["counted"][:, column])) < 4
    assert drift(surprise["kept"][:, 2]) > 8
    assert drift(surprise["instead"][:, 2]) < -8


@given(st.lists(st.none() | st.integers(0, 9), max_size=30))
def test_numbers_that_are_known_ahead_are_those_that_come(asked: list[int | None]) -> None:
    points, expected = Points((3, 1)), np.random.default_rng((3, 1)).random(400).tolist()
    for count in asked:
        if count is None:
            assert points.random() == expected.pop(0)
        else:
            assert points.peek(count).tolist() == expected[:count]
