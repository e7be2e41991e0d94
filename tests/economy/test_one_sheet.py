"""One sheet in an economy's place."""

from types import SimpleNamespace

import numpy as np
from adversaries.noisy_copier import NoisyCopier
from cast import Economy
from one_sheet import SETTLED, added_nats, row, sheet_in
from search_adversaries import label_nats
from simulation import HONEST_S, Member

from moesubnet.validator.pool import WINDOW_TOKENS

VOCAB, WALKS = 24, 24
RNG = np.random.default_rng(0)
NEXT = RNG.dirichlet(np.full(VOCAB, 0.1), VOCAB)  # how the text goes on after each token


def knows(tokens):
    """After these the truth, after others nothing."""
    laws = np.log(np.where(np.isin(np.arange(VOCAB), tokens)[:, None], NEXT, 1 / VOCAB) + 1e-6)
    laws -= np.log(np.exp(laws).sum(axis=1, keepdims=True))
    return lambda ids: laws[ids[-1]]


def texts():
    walks = np.zeros((WALKS, WINDOW_TOKENS), np.uint32)
    walks[:, 0] = RNG.integers(0, VOCAB, WALKS)
    for step in range(1, WINDOW_TOKENS):
        walks[:, step] = [RNG.choice(VOCAB, p=NEXT[before]) for before in walks[:, step - 1]]
    return walks


RECORDED = SimpleNamespace(
    walks=texts(), baseline=SimpleNamespace(logp=np.full(VOCAB, -np.log(VOCAB)))
)
EVEN, ODD = knows(range(0, VOCAB, 2)), knows(range(1, VOCAB, 2))


def played(epoch, copy_s):
    members = (
        Member("python", EVEN),
        Member("cpp", ODD),
        Member("copy", NoisyCopier(EVEN, 0.1), delay_s=copy_s),
    )
    economy = Economy("a copy", members, frozenset({"copy"}))
    said = {m.name: label_nats(m.law, RECORDED.walks) for m in members}
    sheet = sheet_in(epoch, economy, said, RECORDED.walks, RECORDED.baseline.logp)
    return row("copy", epoch, economy, said, RECORDED).split(" | "), sheet


def test_a_copy_earns_nothing_where_its_source_has_a_place():
    cells, _ = played(SETTLED, HONEST_S - 0.01)
    assert cells[2] == cells[3] == "0%"


def test_in_the_first_epoch_it_earns_if_it_need_not_wait():
    quick, _ = played(0, HONEST_S - 0.01)
    slow, _ = played(0, HONEST_S + 0.01)
    assert int(quick[3].rstrip("%")) > 50
    assert slow[3] == "0%"


def test_what_is_added_is_what_the_mixture_lacks_without_it():
    _, sheet = played(SETTLED, HONEST_S)
    log_q, log_w = sheet.log_q / 1e6, sheet.log_w / 1e6
    kept = [i for i, h in enumerate((*sheet.hotkeys, "~")) if h != "cpp"]

    def nats(columns):
        w = np.exp(log_w[:, columns])
        return np.log((w * np.exp(log_q[:, columns])).sum(1) / w.sum(1)).mean()

    expected = nats(range(4)) - nats(kept)
    assert expected > 0.1
    np.testing.assert_allclose(added_nats(sheet, frozenset({"cpp"})), expected, rtol=1e-6)
