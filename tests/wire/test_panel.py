"""The panel against real servers: lockstep, catching up, and experts that fail or lie."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import numpy as np
import pytest

from moesubnet.errors import (
    AuthError,
    BadDistribution,
    EngineError,
    MoesubnetError,
    Overloaded,
    PeerRefused,
    PeerUnavailable,
    UnknownBase,
    WireError,
)
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.panel import Panel
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.protocol import StepRequest, StepResponse, StepRows, Want
from tests.step_answers import dense_rows

pytestmark = pytest.mark.usefixtures("impatient")

V = 40
FULL = Want("full")
URIS = ["//Bob", "//Charlie", "//Dave"]


def law_of(seed: int, ids: Any) -> np.ndarray:
    """The same law as the fake expert's, written down again."""
    digest = hashlib.sha256(bytes([seed]) + np.asarray(ids, np.uint32).tobytes()).digest()
    weights = np.frombuffer((digest * 2)[:V], np.uint8).astype(np.float64) + 1
    return np.asarray(np.log(weights / weights.sum()))


def assert_law(row: np.ndarray, seed: int, ids: Any) -> None:
    np.testing.assert_allclose(np.exp(row), np.exp(law_of(seed, ids)), rtol=0.02)


def rows(answer: Any) -> tuple[StepRows, ...]:
    assert isinstance(answer, StepResponse), answer
    return answer.rows


async def three(stage: Any) -> tuple[list[Any], dict[Any, ExpertClient]]:
    pairs = [await stage.expert(uri, seed) for seed, uri in enumerate(URIS)]
    return [expert for expert, _ in pairs], {client.hotkey: client for _, client in pairs}


def panel_of(clients: dict[Any, ExpertClient], **more: Any) -> Panel:
    return Panel(clients, **({"base_s": 5.0, "want": FULL} | more))


def after(seconds: float) -> Any:
    async def manner(request: StepRequest) -> None:
        await asyncio.sleep(seconds)

    return manner


def always(error: Exception) -> Any:
    async def manner(request: StepRequest) -> None:
        raise error

    return manner


def saying(logprobs: np.ndarray) -> Any:
    async def manner(request: StepRequest) -> bytes:
        made = [StepRows(s.first_row, logprobs[: s.rows]) for s in request.sequences]
        return StepResponse(tuple(made)).to_bytes("f32")

    return manner


async def test_every_expert_answers_for_every_sequence_at_every_step(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients)
    texts = [np.array([1, 2, 3, 4, 5]), np.array([9, 8, 7, 6, 5])]
    sequences = [PanelSequence(f"walk-{i}") for i in range(2)]
    for t in range(5):
        answers = await panel.advance(sequences, [text[t : t + 1] for text in texts])
        assert list(answers) == list(clients)
        for seed, answer in enumerate(answers.values()):
            for text, got in zip(texts, rows(answer), strict=True):
                assert got.first == t + 1
                assert got.logprobs.shape == (1, V)
                assert_law(got.logprobs[0], seed, text[: t + 1])
    for expert in experts:  # only what was lacking was sent: one id a step
        assert [len(r.sequences[0].append_ids) for r in expert.requests] == [1] * 5
        assert [r.sequences[0].base_len for r in expert.requests] == [0, 1, 2, 3, 4]


async def test_the_law_of_the_first_token_and_of_a_whole_window(stage: Any) -> None:
    _, clients = await three(stage)
    panel = panel_of(clients)
    sequence = PanelSequence("s")
    answers = await panel.advance([sequence], [[]])
    for seed, answer in enumerate(answers.values()):
        assert_law(rows(answer)[0].logprobs[0], seed, [])
    answers = await panel.advance([sequence], [[3, 1, 4, 1, 5]], first=0)
    for seed, answer in enumerate(answers.values()):
        (got,) = rows(answer)
        assert got.logprobs.shape == (6, V)
        for p in range(6):
            assert_law(got.logprobs[p], seed, [3, 1, 4, 1, 5][:p])


async def test_a_dead_expert_loses_only_its_own_answer(stage: Any) -> None:
    _, clients = await three(stage)
    dead = await stage.client("//Eve", 1)
    panel = panel_of(clients | {dead.hotkey: dead})
    answers = await panel.advance([PanelSequence("s")], [[1, 2]])
    assert isinstance(answers[dead.hotkey], PeerUnavailable)
    assert sum(isinstance(a, StepResponse) for a in answers.values()) == 3


async def test_a_slow_expert_costs_the_deadline_once_and_catches_up(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients, base_s=0.4)
    sequence = PanelSequence("s")
    await panel.advance([sequence], [[1]])
    experts[1].manner = after(5.0)
    start_s = asyncio.get_running_loop().time()
    answers = await panel.advance([sequence], [[2]])
    assert asyncio.get_running_loop().time() - start_s < 1.5
    assert [isinstance(a, StepResponse) for a in answers.values()] == [True, False, True]
    experts[1].manner = None
    answers = await panel.advance([sequence], [[3]])
    for seed, answer in enumerate(answers.values()):
        assert_law(rows(answer)[0].logprobs[0], seed, [1, 2, 3])
    assert experts[1].requests[-1].sequences[0].append_ids.tolist() == [2, 3]


async def test_an_expert_that_failed_rests_and_comes_back(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients, rest_s=0.3)
    sequence = PanelSequence("s")
    experts[0].manner = always(Overloaded("full"))
    for token in range(4):
        answers = await panel.advance([sequence], [[token]])
        assert [isinstance(a, StepResponse) for a in answers.values()] == [False, True, True]
    assert len(experts[0].requests) == 1
    experts[0].manner = None
    await asyncio.sleep(0.35)
    answers = await panel.advance([sequence], [[4]])
    assert_law(rows(next(iter(answers.values())))[0].logprobs[0], 0, range(5))
    # A success forgives: the next failure rests as short as the first.
    experts[0].manner = always(Overloaded("full"))
    await panel.advance([sequence], [[5]])
    asked = len(experts[0].requests)
    await asyncio.sleep(0.35)
    await panel.advance([sequence], [[6]])
    assert len(experts[0].requests) == asked + 1


async def test_rests_double_while_an_expert_keeps_failing(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients, rest_s=0.1)
    experts[0].manner = always(EngineError("dead"))
    sequence, start = PanelSequence("s"), time.monotonic()
    for _ in range(30):
        await panel.advance([sequence], [[]], members=[next(iter(clients))])
        await asyncio.sleep(0.03)
    doublings = np.log2((time.monotonic() - start) / 0.1 + 1)
    assert 2 <= len(experts[0].requests) <= doublings + 2  # at 0, 0.1, 0.3, 0.7 s …


async def test_sequences_that_fail_at_once_count_as_one_failure(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients, rest_s=0.2)
    experts[0].manner = always(EngineError("dead"))
    await asyncio.gather(*(panel.advance([PanelSequence(f"s{n}")], [[n]]) for n in range(8)))
    experts[0].manner = None
    await asyncio.sleep(0.3)  # one rest, and none that was doubled seven times
    answers = await panel.advance([PanelSequence("s")], [[4]])
    assert isinstance(next(iter(answers.values())), StepResponse)


async def test_an_expert_that_lost_its_sessions_is_resent_everything_at_once(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients)
    sequences = [PanelSequence("a"), PanelSequence("b")]
    await panel.advance(sequences, [[1, 2, 3], [4, 5, 6]])
    experts[2].held.clear()
    answers = await panel.advance(sequences, [[7], [8]])
    for seed, answer in enumerate(answers.values()):
        assert_law(rows(answer)[0].logprobs[0], seed, [1, 2, 3, 7])
        assert_law(rows(answer)[1].logprobs[0], seed, [4, 5, 6, 8])
    assert len(experts[2].requests) == 3
    assert experts[2].requests[-1].sequences[0].append_ids.tolist() == [1, 2, 3, 7]


async def test_only_the_lost_session_is_resent(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients)
    sequences = [PanelSequence("a"), PanelSequence("b")]
    await panel.advance(sequences, [[1, 2, 3], [4, 5, 6]])
    (lost,) = [key for key in experts[0].held if key[1] == "b"]
    del experts[0].held[lost]
    answers = await panel.advance(sequences, [[7], [8]])
    assert_law(rows(next(iter(answers.values())))[1].logprobs[0], 0, [4, 5, 6, 8])
    last = experts[0].requests[-1].sequences
    assert [s.append_ids.tolist() for s in last] == [[7], [4, 5, 6, 8]]


async def test_a_truncated_sequence_rolls_every_expert_back(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients)
    sequence = PanelSequence("s")
    await panel.advance([sequence], [[1, 2, 3, 4]])
    sequence.truncate(2)
    answers = await panel.advance([sequence], [[9]])
    for seed, answer in enumerate(answers.values()):
        assert_law(rows(answer)[0].logprobs[0], seed, [1, 2, 9])
    assert experts[0].requests[-1].sequences[0].base_len == 2


async def test_a_fork_sends_only_what_is_new_and_goes_its_own_way(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients)
    sequence = PanelSequence("s")
    await panel.advance([sequence], [[1, 2, 3]])
    fork = sequence.fork("f")
    grandchild = fork.fork("g")  # before anybody has heard of its parent
    for text, ids in ((fork, [1, 2, 3, 7]), (grandchild, [1, 2, 3, 8]), (sequence, [1, 2, 3, 9])):
        answers = await panel.advance([text], [[ids[-1]]])
        for seed, answer in enumerate(answers.values()):
            assert_law(rows(answer)[0].logprobs[0], seed, ids)
    answers = await panel.advance([fork, grandchild], [[5], [6]])
    assert_law(rows(next(iter(answers.values())))[1].logprobs[0], 0, [1, 2, 3, 8, 6])
    sent = [[(s.parent, s.append_ids.tolist()) for s in r.sequences] for r in experts[0].requests]
    assert sent == [
        [("", [1, 2, 3])],
        [("s", [7])],
        [("s", [8])],
        [("", [9])],
        [("", [5]), ("", [6])],
    ]


async def test_a_fork_whose_parent_is_gone_is_sent_whole(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients)
    sequence = PanelSequence("s")
    await panel.advance([sequence], [[1, 2, 3]])
    experts[1].held.clear()
    answers = await panel.advance([sequence.fork("f")], [[4]])
    for seed, answer in enumerate(answers.values()):
        assert_law(rows(answer)[0].logprobs[0], seed, [1, 2, 3, 4])
    (last,) = experts[1].requests[-1].sequences
    assert (last.parent, last.append_ids.tolist()) == ("", [1, 2, 3, 4])


async def test_closing_frees_what_experts_hold_and_nothing_else(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients)
    sequence, other = PanelSequence("s"), PanelSequence("o")
    await panel.advance([sequence, other], [[1, 2, 3], [4]])
    unborn = sequence.fork("f")
    clients.pop(next(iter(clients)))
    await panel.close([sequence, unborn])
    held = [sorted(name for _, name in expert.held) for expert in experts]
    assert held == [["o", "s"], ["o"], ["o"]]
    await panel.close([sequence])  # the fakes fail now, and nobody minds


async def test_a_new_expert_joins_and_another_leaves_mid_text(stage: Any) -> None:
    _, clients = await three(stage)
    names = list(clients)
    panel_clients = {names[0]: clients[names[0]]}
    panel = panel_of(panel_clients)
    sequence = PanelSequence("s")
    await panel.advance([sequence], [[1, 2]])
    panel_clients[names[1]] = clients[names[1]]
    answers = await panel.advance([sequence], [[3]])
    assert_law(rows(answers[names[1]])[0].logprobs[0], 1, [1, 2, 3])
    del panel_clients[names[0]]
    answers = await panel.advance([sequence], [[4]], members=names[:2])
    assert isinstance(answers[names[0]], PeerUnavailable)
    assert_law(rows(answers[names[1]])[0].logprobs[0], 1, [1, 2, 3, 4])


async def test_only_the_chosen_members_are_asked(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients)
    sequence = PanelSequence("s")
    names = list(clients)
    await panel.advance([sequence], [[1]], members=names[:1])
    answers = await panel.advance([sequence], [[2]], members=names[1:])
    assert set(answers) == set(names[1:])
    assert [len(e.requests) for e in experts] == [1, 1, 1]
    assert_law(rows(answers[names[2]])[0].logprobs[0], 2, [1, 2])


@pytest.mark.parametrize(
    ("manner", "error"),
    [
        (saying(np.zeros((9, V), np.float32)), BadDistribution),
        (saying(np.full((9, V), np.nan, np.float32)), BadDistribution),
        (saying(np.full((9, V - 1), -5.0, np.float32)), WireError),
        (saying(np.full((0, V), -5.0, np.float32)), WireError),
        (always(UnknownBase((10**9,))), WireError),
        (always(UnknownBase((-1,))), WireError),
        (always(UnknownBase(())), WireError),
        (always(UnknownBase((1,))), UnknownBase),
        (always(RuntimeError("a bug of theirs")), PeerRefused),
    ],
)
async def test_a_liar_loses_only_its_own_answer(stage: Any, manner: Any, error: type) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients)
    sequence = PanelSequence("s")
    await panel.advance([sequence], [[1, 2]])
    experts[1].manner = manner
    answers = list((await panel.advance([sequence], [[3]])).values())
    assert isinstance(answers[1], error)
    assert_law(rows(answers[0])[0].logprobs[0], 0, [1, 2, 3])
    assert_law(rows(answers[2])[0].logprobs[0], 2, [1, 2, 3])
    experts[1].manner = None
    answers = list((await panel.advance([sequence], [[4]])).values())
    assert_law(rows(answers[1])[0].logprobs[0], 1, [1, 2, 3, 4])


async def test_an_expert_that_denies_every_base_gets_two_requests_a_call(stage: Any) -> None:
    experts, clients = await three(stage)
    panel = panel_of(clients)
    sequence = PanelSequence("s")
    await panel.advance([sequence], [[1, 2]])
    experts[0].manner = always(UnknownBase((0,)))
    before = len(experts[0].requests)
    for _ in range(3):
        await panel.advance([sequence], [[1]], members=[next(iter(clients))])
    assert len(experts[0].requests) - before <= 6


async def test_an_impostor_at_the_address_is_an_auth_error(stage: Any) -> None:
    expert, client = await stage.expert("//Bob")
    impostor = await stage.client("//Eve", client.axon.port)
    panel = panel_of({client.hotkey: client, impostor.hotkey: impostor})
    answers = await panel.advance([PanelSequence("s")], [[1]])
    assert isinstance(answers[client.hotkey], StepResponse)
    # Bob refuses what is signed for Eve; had he answered, his receipt would not be Eve's.
    assert isinstance(answers[impostor.hotkey], PeerRefused | AuthError)
    assert len(expert.requests) == 1


async def test_cancelling_cancels_every_request(stage: Any) -> None:
    experts, clients = await three(stage)
    cancelled: list[int] = []
    arrived = asyncio.Event()

    def stuck(seed: int) -> Any:
        async def manner(request: StepRequest) -> None:
            if sum(len(e.requests) for e in experts) == 3:
                arrived.set()
            await asyncio.sleep(30)

        return manner

    for seed, expert in enumerate(experts):
        expert.manner = stuck(seed)
    steps = [client.step for client in clients.values()]
    for client, step in zip(clients.values(), steps, strict=True):

        async def watched(*args: Any, _step: Any = step, **kwargs: Any) -> Any:
            try:
                return await _step(*args, **kwargs)
            except asyncio.CancelledError:
                cancelled.append(1)
                raise

        client.step = watched  # type: ignore[method-assign]
    panel = panel_of(clients, base_s=20.0)
    sequence = PanelSequence("s")
    task = asyncio.create_task(panel.advance([sequence], [[1]]))
    await asyncio.wait_for(arrived.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled == [1, 1, 1]
    # The panel goes on: the ids count as said, no expert is believed to hold them.
    for expert in experts:
        expert.manner = None
    answers = await panel.advance([sequence], [[2]])
    for seed, answer in enumerate(answers.values()):
        assert_law(rows(answer)[0].logprobs[0], seed, [1, 2])


async def test_a_deadline_of_the_caller_is_not_mistaken_for_the_experts(stage: Any) -> None:
    experts, clients = await three(stage)
    experts[0].manner = after(5.0)
    panel = panel_of(clients, base_s=4.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await panel.advance([PanelSequence("s")], [[1]])


async def test_many_panels_share_the_clients(stage: Any) -> None:
    _, clients = await three(stage)

    async def walk(name: int) -> None:
        panel, sequence = panel_of(clients), PanelSequence(f"walk-{name}")
        for token in range(6):
            answers = await panel.advance([sequence], [[(name + token) % V]])
        for seed, answer in enumerate(answers.values()):
            assert_law(rows(answer)[0].logprobs[0], seed, [(name + t) % V for t in range(6)])

    await asyncio.gather(*(walk(i) for i in range(12)))


async def test_top_k_through_the_panel_is_dense_again(stage: Any) -> None:
    _, clients = await three(stage)
    panel = panel_of(clients, want=Want("top_k", 10))
    answers = await panel.advance([PanelSequence("s", [1, 2])], [[3]])
    for seed, answer in enumerate(answers.values()):
        (law_there,) = dense_rows(rows(answer)[0], V)
        np.testing.assert_allclose(np.exp(law_there).sum(), 1, atol=1e-5)
        law = law_of(seed, [1, 2, 3])
        likeliest = np.argsort(-law)[:9]
        np.testing.assert_allclose(np.exp(law_there[likeliest]), np.exp(law[likeliest]), rtol=0.02)


async def test_experts_that_die_at_random_never_break_the_text(stage: Any) -> None:
    rng = np.random.default_rng(5)
    experts, clients = await three(stage)
    panel, sequences = panel_of(clients, base_s=0.5), [PanelSequence(str(i)) for i in range(4)]
    troubles = [
        None,
        None,
        after(2.0),
        always(RuntimeError("a bug of theirs")),
        always(UnknownBase((0, 0, 0, 0))),
        saying(np.zeros((1, V), np.float32)),
    ]
    answered = 0
    for _ in range(25):
        for expert in experts:
            expert.manner = troubles[rng.integers(len(troubles))]
            if rng.random() < 0.2:
                expert.held.clear()
        answers = await panel.advance(sequences, rng.integers(0, V, (4, 1)))
        for seed, answer in enumerate(answers.values()):
            assert isinstance(answer, StepResponse | MoesubnetError)
            if isinstance(answer, StepResponse):
                answered += 1
                for sequence, got in zip(sequences, answer.rows, strict=True):
                    assert_law(got.logprobs[0], seed, sequence.ids)
    assert answered > 10
    assert all(len(sequence.ids) == 25 for sequence in sequences)
