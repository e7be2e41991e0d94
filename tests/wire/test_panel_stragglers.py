"""How long a panel waits for whom, on a clock that jumps from one event to the next."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moesubnet.errors import PeerLate, PeerRefused, PeerResting, PeerUnavailable
from moesubnet.wire.panel import Panel
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.patience import (
    LATE_IN_A_ROW,
    LEAST_PATIENCE_S,
    LEAST_S,
    MULTIPLE,
    PATIENCE,
    REMEMBERED,
    TOKEN_S,
    UNKNOWN_S,
    Paces,
    deadline_s,
)
from moesubnet.wire.protocol import StepRequest, StepResponse, StepRows, Want

pytestmark = pytest.mark.usefixtures("impatient")

BASE_S = 60.0
TOKENS = 2  # of a call for one more token: the token and the law after it


class JumpingLoop(asyncio.SelectorEventLoop):
    """Time passes only when everybody waits, and then at once."""

    now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now_s = max(self.now_s, self._scheduled[0].when())
        super()._run_once()


class Expert:
    """Answers after `takes_s`, or fails then."""

    commits = False

    def __init__(self, hotkey: str, takes_s: float, error: Exception | None = None) -> None:
        self.hotkey, self.takes_s, self.error = hotkey, takes_s, error
        self.asked: list[tuple[float, int, int]] = []  # when, from which base, how many ids
        self.waits_s = 0.0  # for a connection of ours

    async def step(
        self, request: StepRequest, *, timeout_s: float, on_its_way: Any
    ) -> StepResponse:
        (step,) = request.sequences
        now_s = asyncio.get_running_loop().time()
        self.asked.append((now_s, step.base_len, len(step.append_ids)))
        await asyncio.sleep(self.waits_s)
        on_its_way()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(self.takes_s)
        except TimeoutError:
            raise PeerUnavailable("no answer") from None
        if self.error is not None:
            raise self.error
        return StepResponse((StepRows(step.first_row, np.zeros((1, 4), np.float32)),))


def run(main: Any) -> Any:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)


def panel_of(*experts: Expert, rest_s: float = 1.0, paces: Paces | None = None) -> Panel:
    clients: Any = {expert.hotkey: expert for expert in experts}
    return Panel(clients, base_s=BASE_S, want=Want("full"), rest_s=rest_s, paces=paces)


def known(*experts: Expert) -> Paces:
    """What answers of these have shown."""
    paces = Paces()
    for expert in experts:
        paces.took(expert.hotkey, 1, expert.takes_s)  # type: ignore[arg-type]
    return paces


def ask_once(
    weights: dict[str, float] | None, *experts: Expert, paces: Paces | None = None
) -> tuple[float, dict[str, type]]:
    """How long one call takes, and what each expert's answer was."""

    async def main() -> tuple[float, dict[str, type]]:
        panel = panel_of(*experts, paces=paces)
        answers = await panel.advance([PanelSequence("s")], [[1]], weights=weights)
        now_s = asyncio.get_running_loop().time()
        return now_s, {hotkey: type(answer) for hotkey, answer in answers.items()}

    return run(main())


def test_a_straggler_is_cut_when_the_greater_part_has_answered() -> None:
    took_s, answers = ask_once(
        {"a": 0.4, "b": 0.3, "slow": 0.3}, Expert("a", 1.0), Expert("b", 1.5), Expert("slow", 3.1)
    )
    assert took_s == 1.5 * PATIENCE
    assert answers == {"a": StepResponse, "b": StepResponse, "slow": PeerLate}


def test_a_distant_expert_has_a_moment_even_after_very_quick_ones() -> None:
    near, far = Expert("near", 0.001), Expert("far", LEAST_PATIENCE_S)
    took_s, answers = ask_once({"near": 0.9, "far": 0.1}, near, far)
    assert answers["far"] is StepResponse
    assert took_s == LEAST_PATIENCE_S
    took_s, answers = ask_once({"near": 0.9, "far": 0.1}, near, Expert("far", 0.3))
    assert answers["far"] is PeerLate
    assert took_s == pytest.approx(0.001 + LEAST_PATIENCE_S)


def test_nobody_is_late_because_our_own_loop_is_behind() -> None:
    """Its answer is there, and read only after the moment at which it would have been cut."""

    class Behind(Expert):
        async def step(self, request: StepRequest, **rest: Any) -> StepResponse:
            answer = await super().step(request, **rest)
            loop: Any = asyncio.get_running_loop()
            loop.now_s += 60.0  # in which nothing was looked at
            for _ in range(4):
                await asyncio.sleep(0)
            return answer

    quick, behind = Expert("quick", 0.1), Behind("behind", 0.2)
    assert ask_once({"quick": 0.9, "behind": 0.1}, quick, behind)[1]["behind"] is StepResponse


def test_the_one_that_matters_is_waited_for_as_long_as_it_usually_takes_and_more() -> None:
    weights = {"heavy": 0.6, "light": 0.4}
    heavy, light = Expert("heavy", 9), Expert("light", 1)
    took_s, answers = ask_once(weights, heavy, light, paces=known(heavy, light))
    assert took_s == 9
    assert set(answers.values()) == {StepResponse}


def test_one_that_is_frozen_is_cut_by_its_own_measure_however_much_it_weighs() -> None:
    weights = {"heavy": 0.9, "light": 0.1}
    for usual_s, cut_s in ((0.03, LEAST_S), (0.3, MULTIPLE * 0.3)):
        paces = known(Expert("heavy", usual_s))
        frozen, light = Expert("heavy", 1e9), Expert("light", 0.1)
        took_s, answers = ask_once(weights, frozen, light, paces=paces)
        assert took_s == pytest.approx(cut_s + TOKENS * TOKEN_S)
        assert answers == {"heavy": PeerLate, "light": StepResponse}
    took_s, _ = ask_once(weights, Expert("heavy", 1e9), Expert("light", 0.1))
    assert took_s == pytest.approx(UNKNOWN_S + TOKENS * TOKEN_S)


def test_who_is_alone_has_until_the_deadline_whatever_is_usual() -> None:
    paces = known(Expert("heavy", 0.03))
    frozen, broken = Expert("heavy", 50), Expert("light", 0.1, PeerRefused(503))
    took_s, answers = ask_once({"heavy": 0.9, "light": 0.1}, frozen, broken, paces=paces)
    assert took_s == 50
    assert answers == {"heavy": StepResponse, "light": PeerRefused}


def test_a_long_prompt_has_the_time_that_it_takes() -> None:
    """By what the expert needed for a token of earlier prompts; an unknown one has more."""

    async def main(takes_s: float, paces: Paces) -> type:
        experts = Expert("heavy", takes_s), Expert("light", 0.1)
        answers = await panel_of(*experts, paces=paces).advance(
            [PanelSequence("s")], [[1] * 999], weights={"heavy": 0.9, "light": 0.1}
        )
        return type(answers["heavy"])

    tokens = 1_000
    assert run(main(UNKNOWN_S + tokens * TOKEN_S - 0.1, Paces())) is StepResponse
    paces = known(Expert("heavy", 0.03))
    paces.took("heavy", 500, 1.0)  # type: ignore[arg-type]
    limit_s = LEAST_S + MULTIPLE * 1.0 / 500 * tokens
    assert run(main(limit_s - 0.1, paces)) is StepResponse
    assert run(main(limit_s * 3, paces)) is PeerLate


def test_waiting_for_a_connection_of_ours_is_not_the_experts_fault() -> None:
    heavy, light = Expert("heavy", 0.03), Expert("light", 0.1)
    paces = known(heavy, light)
    heavy.waits_s = 30.0
    took_s, answers = ask_once({"heavy": 0.9, "light": 0.1}, heavy, light, paces=paces)
    assert took_s == pytest.approx(30.03)
    assert set(answers.values()) == {StepResponse}
    assert paces.patience_s("heavy", 0) == LEAST_S  # type: ignore[arg-type]


def test_who_is_always_cut_off_may_have_become_slower_and_is_met_anew() -> None:
    heavy, light = Expert("heavy", 1.5), Expert("light", 0.03)
    paces = known(Expert("heavy", 0.03), light)
    weights = {"heavy": 0.9, "light": 0.1}
    seen = [ask_once(weights, heavy, light, paces=paces)[1]["heavy"] for _ in range(20)]
    assert seen == [PeerLate] * LATE_IN_A_ROW + [StepResponse] * (20 - LATE_IN_A_ROW)


@given(st.lists(st.floats(0.001, 100.0), min_size=1, max_size=3 * REMEMBERED), st.data())
def test_fewer_odd_answers_than_usual_ones_move_no_patience_out_of_their_range(
    usual: list[float], data: st.DataObject
) -> None:
    recent = usual[-REMEMBERED:]
    odd = data.draw(st.lists(st.floats(0.0, 1e9), max_size=(min(len(recent), 16) - 1) // 2))
    paces = Paces()
    for seconds in [*usual, *odd]:
        paces.took("a", 1, seconds)  # type: ignore[arg-type]
    patience_s = paces.patience_s("a", 0)  # type: ignore[arg-type]
    least, most = (max(LEAST_S, MULTIPLE * f(recent)) for f in (min, max))
    assert least <= patience_s <= most


def test_deadlines_grow_with_what_is_asked() -> None:
    assert deadline_s(5.0, 0) == 5.0
    assert deadline_s(5.0, 1_000) == pytest.approx(5.0 + 1_000 * TOKEN_S)


def test_who_fails_leaves_the_decision_to_the_others() -> None:
    took_s, answers = ask_once(
        {"heavy": 0.9, "a": 0.06, "slow": 0.04},
        Expert("heavy", 1.0, PeerRefused(503)),
        Expert("a", 0.5),
        Expert("slow", 5.0),
    )
    assert took_s == 2.0
    assert list(answers.values()) == [PeerRefused, StepResponse, PeerLate]


def test_without_weights_everybody_has_until_the_deadline() -> None:
    took_s, answers = ask_once(None, Expert("a", 0.1), Expert("hung", 1e9))
    assert took_s == pytest.approx(deadline_s(BASE_S, TOKENS))
    assert answers["hung"] is PeerUnavailable


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.001, 10.0)), min_size=1, max_size=8))
@example([(0.6811269827976806, 1.0), (0.6811269827976806, 2.0), *[(0.6811269827976806, 0.5)] * 2])
def test_nobody_whose_answer_came_in_time_is_cut(them: list[tuple[float, float]]) -> None:
    """Whatever the weights and the usual times: the call ends by twice the time of the greater
    part, and exactly the answers that came until then are there."""
    experts = [Expert(str(i), takes_s) for i, (_, takes_s) in enumerate(them)]
    weights = {str(i): weight for i, (weight, _) in enumerate(them)}
    took_s, answers = ask_once(weights, *experts, paces=known(*experts))
    limit_s = np.inf
    for takes_s in sorted(t for _, t in them):
        given = sum(Fraction(w) for w, t in them if t <= takes_s)
        if given > 0 and given >= sum(Fraction(w) for w, t in them if t > takes_s):
            limit_s = max(PATIENCE * takes_s, takes_s + LEAST_PATIENCE_S)
            break
    slowest_s = max(takes_s for _, takes_s in them)
    assert took_s == pytest.approx(min(limit_s, slowest_s))
    for expert in experts:
        if abs(expert.takes_s - limit_s) > 1e-9:
            expected = StepResponse if expert.takes_s < limit_s else PeerLate
            assert answers[expert.hotkey] is expected


def test_a_late_expert_rests_longer_each_time_and_is_sent_all_that_it_missed() -> None:
    quick, slow = Expert("quick", 0.25), Expert("slow", 100.0)
    weights = {"quick": 0.9, "slow": 0.1}

    async def main() -> list[type]:
        panel, sequence = panel_of(quick, slow), PanelSequence("s")
        seen = []
        for token in range(80):
            answers = await panel.advance([sequence], [[token]], weights=weights)
            seen.append(type(answers["slow"]))
        slow.takes_s = 0.25
        while True:
            answers = await panel.advance([sequence], [[0]], weights=weights)
            if isinstance(answers["slow"], StepResponse):
                assert slow.asked[-1][1:] == (0, len(sequence.ids))
                await panel.advance([sequence], [[0]], weights=weights)
                assert slow.asked[-1][1:] == (len(sequence.ids) - 1, 1)
                return seen

    seen = run(main())
    assert set(seen) == {PeerLate, PeerResting}
    assert seen.count(PeerLate) == 5
    times_s = [when_s for when_s, *_ in slow.asked[:5]]
    # Asked at 0; cut 0.5 s later; then rests of 1, 2, 4, 8 s, up to the next token.
    assert np.diff(times_s) == pytest.approx([1.5, 2.5, 4.5, 8.5])
    assert len(quick.asked) > 80


def test_a_caller_that_leaves_while_stragglers_are_awaited_cancels_all() -> None:
    experts = [Expert("quick", 0.1), Expert("slow", 50.0)]

    async def main() -> None:
        panel, sequence = panel_of(*experts), PanelSequence("s")
        call = panel.advance([sequence], [[1]], weights={"quick": 0.1, "slow": 0.9})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 1.0)
        assert len(asyncio.all_tasks()) == 1
        assert sequence.held_by("slow") == 0  # type: ignore[arg-type]

    run(main())


def test_an_answer_that_is_a_future_needs_no_task_and_is_given_up_alone() -> None:
    """As a lane's is: its caller leaves, and other streams' answers there still come."""

    class Lane(Expert):
        def step(self, request: StepRequest, *, timeout_s: float, on_its_way: Any) -> Any:
            answer = asyncio.get_running_loop().create_future()
            given.append((answer, StepResponse((StepRows(0, np.zeros((1, 4), np.float32)),))))
            on_its_way()
            return answer

    given: list[tuple[asyncio.Future[StepResponse], StepResponse]] = []

    async def main() -> None:
        panels = [panel_of(Lane("a", 0.0), Lane("b", 0.0)) for _ in range(2)]
        calls = [
            asyncio.ensure_future(
                panel.advance([PanelSequence("s")], [[1]], weights={"a": 0.5, "b": 0.5})
            )
            for panel in panels
        ]
        await asyncio.sleep(0)
        assert len(given) == 4
        assert len(asyncio.all_tasks()) == 1 + len(calls)
        calls[0].cancel()
        await asyncio.sleep(0)
        assert [answer.cancelled() for answer, _ in given] == [True, True, False, False]
        for answer, response in given[2:]:
            answer.set_result(response)
        assert all(isinstance(a, StepResponse) for a in (await calls[1]).values())
        assert len(asyncio.all_tasks()) == 1

    run(main())


def test_what_an_expert_should_never_raise_reaches_who_asked() -> None:
    experts = [Expert("a", 0.1, ZeroDivisionError()), Expert("b", 50.0)]
    with pytest.raises(ZeroDivisionError):
        ask_once({"a": 0.5, "b": 0.5}, *experts)


def test_who_is_asked_first_alternates_from_token_to_token() -> None:
    """Who shares a machine with others would always answer after them, as if it waited for them."""
    order: list[str] = []

    class Noted(Expert):
        async def step(self, request: StepRequest, **more: Any) -> StepResponse:
            order.append(self.hotkey)
            return await super().step(request, **more)

    async def main() -> None:
        panel, sequence = panel_of(*(Noted(name, 0.01) for name in "abc")), PanelSequence("s")
        for token in range(4):
            answers = await panel.advance([sequence], [[token]])
            assert list(answers) == ["a", "b", "c"]

    run(main())
    assert "".join(order) == "cbaabccbaabc"
