"""How long a panel waits for whom, on a clock that jumps from one event to the next."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.errors import PeerLate, PeerRefused, PeerResting, PeerUnavailable
from moesubnet.wire.panel import LEAST_PATIENCE_S, PATIENCE, Panel, PanelSequence
from moesubnet.wire.protocol import StepRequest, StepResponse, StepRows, Want

DEADLINE_S = 60.0


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

    def __init__(self, hotkey: str, takes_s: float, error: Exception | None = None) -> None:
        self.hotkey, self.takes_s, self.error = hotkey, takes_s, error
        self.asked: list[tuple[float, int, int]] = []  # when, from which base, how many ids

    async def step(self, request: StepRequest, *, timeout_s: float) -> StepResponse:
        (step,) = request.sequences
        now_s = asyncio.get_running_loop().time()
        self.asked.append((now_s, step.base_len, len(step.append_ids)))
        await asyncio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return StepResponse((StepRows(step.first_row, np.zeros((1, 4), np.float32)),))


def run(main: Any) -> Any:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)


def panel_of(*experts: Expert, rest_s: float = 1.0) -> Panel:
    clients: Any = {expert.hotkey: expert for expert in experts}
    return Panel(clients, deadline_s=DEADLINE_S, want=Want("full"), rest_s=rest_s)


def ask_once(weights: dict[str, float] | None, *experts: Expert) -> tuple[float, dict[str, type]]:
    """How long one call takes, and what each expert's answer was."""

    async def main() -> tuple[float, dict[str, type]]:
        answers = await panel_of(*experts).advance([PanelSequence("s")], [[1]], weights=weights)
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


def test_the_one_that_matters_is_waited_for() -> None:
    took_s, answers = ask_once({"heavy": 0.6, "light": 0.4}, Expert("heavy", 9), Expert("light", 1))
    assert took_s == 9
    assert set(answers.values()) == {StepResponse}


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
    assert took_s == DEADLINE_S
    assert answers["hung"] is PeerUnavailable


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.001, 10.0)), min_size=1, max_size=8))
def test_nobody_whose_answer_came_in_time_is_cut(them: list[tuple[float, float]]) -> None:
    """Whatever the weights and times: the call ends by twice the time of the greater part, and
    exactly the answers that came until then are there."""
    experts = [Expert(str(i), takes_s) for i, (_, takes_s) in enumerate(them)]
    weights = {str(i): weight for i, (weight, _) in enumerate(them)}
    took_s, answers = ask_once(weights, *experts)
    limit_s, given = np.inf, 0.0
    for takes_s in sorted(t for _, t in them):
        given = sum(w for w, t in them if t <= takes_s)
        if given > 0 and given >= sum(w for w, t in them if t > takes_s):
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
