"""Evidence from committed rows: exact for tokens that an expert did not list."""

# ruff: noqa: F811  # fixtures of another module, as arguments

import numpy as np
import pytest

from moesubnet.miner import expert as mining
from moesubnet.mixture.gate import uniform_gate
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.router.model import Drawing
from moesubnet.wire.protocol import Want
from tests.conftest import TINY_VOCAB
from tests.router.test_mixed_streams import (  # noqa: F401  # the fixtures
    LawEngine,
    network,
    open_model,
)

WANT = Want("top_k", 2, committed=True)


def knowing(token_id, p):
    """A law that lists two other tokens, and gives `token_id` p of the rest."""
    law = np.full(TINY_VOCAB, (0.4 - p) / (TINY_VOCAB - 3))
    law[[1, 2, token_id]] = 0.3, 0.3, p
    return np.log(law).astype(np.float32)


@pytest.fixture
def committed(monkeypatch):
    monkeypatch.setattr(mining, "want_for", lambda *_, **__: WANT)


async def opened(open_model):
    model = await open_model()
    model.want = WANT
    return model.open()


async def test_evidence_is_what_the_experts_were_bound_to(committed, network, open_model) -> None:
    laws = {
        await network.mine("knows", lambda ids: knowing(9, 0.2)): knowing(9, 0.2),
        await network.mine("does-not", lambda ids: knowing(9, 1e-5)): knowing(9, 1e-5),
    }
    session = await opened(open_model)
    prompt = np.array([9, 1, 9, 9, 30], np.uint32)
    await session.start(prompt)
    await session.append(9, Drawing(0.7))

    members = members_of(laws)
    exact = Walk(uniform_gate(), members)
    base = session._model.baseline.logp
    exact.show(prompt[None, :-2])
    for token, weight in [*((token, 1.0) for token in prompt[-2:]), (9, 0.7)]:
        log_p = np.array([[laws[m][token] for m in members[:-1]] + [base[token]]])
        exact.observe(np.array([token]), log_p, token_weight=weight)
    np.testing.assert_allclose(session.posterior.walk.log_weights(), exact.log_weights(), atol=5e-3)


async def test_who_shows_no_leaf_has_no_say(committed, network, open_model, monkeypatch) -> None:
    honest = await network.mine("honest", lambda ids: knowing(9, 1e-4))
    hiding = LawEngine(lambda ids: knowing(9, 1e-4))
    silent = await network.mine("hiding", hiding)
    show = mining.TailTable.show
    hidden = []

    def lose(table, caller, session, position, token_id):
        proof = show(table, caller, session, position, token_id)
        if table is not network.experts[silent]._tails:
            return proof
        hidden.append(position)
        return bytes(len(proof))

    monkeypatch.setattr(mining.TailTable, "show", lose)
    session = await opened(open_model)
    law = await session.start(np.array([1, 2, 1, 9], np.uint32))
    assert hidden == [3]
    assert silent not in law.weights  # its answer was a failure …
    law = await session.append(1, Drawing(1.0))
    share = np.exp(session.posterior.walk.log_weights()[0])
    members = session.posterior.walk.members
    assert share[members.index(silent)] < 1e-3 * share[members.index(honest)]  # … and is no secret


async def test_a_text_that_comes_again_counts_what_was_shown_first(
    committed,
    network,
    open_model,
) -> None:
    hotkey = await network.mine("knows", lambda ids: knowing(9, 0.2))
    model = await open_model()
    model.want = WANT
    prompt = np.array([1, 2, 9], np.uint32)
    weights = []
    for _ in range(2):
        session = model.open()
        law = await session.start(prompt)
        weights.append(law.weights[hotkey])
    assert weights[0] == pytest.approx(weights[1], abs=1e-6)
