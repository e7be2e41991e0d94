"""Which streams one pass serves: all who are about to be back, and texts that begin together."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VirtualTimeLoop, run

from moesubnet.engine.base import Query
from moesubnet.miner.batcher import ALONE_CHUNK_STEPS, Batcher
from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.types import Hotkey
from moesubnet.wire import returns as returns_module
from moesubnet.wire.departures import Departures, Parcel, carry
from moesubnet.wire.protocol import Want
from moesubnet.wire.returns import Returns
from tests.played import PASS_S, STREAM_S, TOKEN_S, Played, Thread

from .conftest import ALICE, FakeEngine, u32


async def test_streams_that_were_parted_go_on_together(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, caller = FakeEngine(), Hotkey(ALICE.ss58_address)
    batcher = Batcher(engine)
    # However long the machine takes: nothing here is decided by the clock.
    hour = property(lambda _: 3_600.0, lambda *_: None)
    monkeypatch.setattr(Returns, "parted_s", hour, raising=False)
    monkeypatch.setattr(returns_module, "LATEST", 1e9)

    async def stream(name: str, tokens: int) -> None:
        for length in range(1, tokens + 1):
            query = Query(f"{caller}/{name}", u32(*range(length)), length)
            await batcher.rows(caller, [query], Want("full"), [length - 1])
        batcher.forget(f"{caller}/{name}")

    engine.gate.clear()
    first = asyncio.create_task(stream("first", 3))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(stream(f"other{i}", 3)) for i in range(3)]
    await asyncio.sleep(0.05)
    engine.gate.set()
    await asyncio.wait_for(asyncio.gather(first, *others), 60.0)
    assert [len(batch) for batch in engine.batches] == [1, 3, 4, 4]
    await batcher.close()


async def test_going_on_in_the_house_is_no_return() -> None:
    engine, caller = FakeEngine(), Hotkey(ALICE.ss58_address)
    batcher = Batcher(engine)
    for length, leaves in ((1, False), (2, False), (3, True)):
        query = Query(f"{caller}/text", u32(*range(length)), length)
        await batcher.rows(caller, [query], Want("full"), [length - 1], leaves=leaves)
        assert list(batcher._returns._left_s) == [query.session] * leaves
    assert not batcher._returns._usual_s
    await batcher.close()


@dataclass(frozen=True)
class Stream:
    """prompt, tokens: how many; wire_s: each way; write_s: on the router's one core."""

    caller: str
    prompt: int = 50
    tokens: int = 32
    begins_s: float = 0.0
    wire_s: float = 0.001
    write_s: float = 0.002


def played(*streams: Stream, is_gathered: bool = True) -> tuple[Played, list[list[float]]]:
    """When each stream had its answers, the prompt's first."""
    engine = Played(PASS_S, STREAM_S, TOKEN_S)

    async def main() -> list[list[float]]:
        batcher, loop = Batcher(engine), asyncio.get_running_loop()
        batcher._thread.shutdown()
        batcher._thread = Thread(engine)
        callers = {s.caller: Caller(batcher, s.caller, s.wire_s) for s in streams}
        return await asyncio.gather(
            *(callers[s.caller].write(s, str(i), loop) for i, s in enumerate(streams))
        )

    def run_in_executor(loop: Any, executor: Any, fn: Any, *args: Any) -> asyncio.Future[Any]:
        return asyncio.wrap_future(executor.submit(fn, *args), loop=loop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VirtualTimeLoop, "run_in_executor", run_in_executor)
        if not is_gathered:
            patch.setattr(Returns, "due_s", lambda _, now_s, *__: now_s)
            patch.setattr(Batcher, "_steps_wait_for_prompts", lambda *_: False)
        return engine, run(main())


class Caller:
    """A router: one core that writes all its streams, and the lanes that their steps leave in."""

    def __init__(self, batcher: Batcher, name: str, wire_s: float) -> None:
        self._batcher, self._name, self._wire_s = batcher, Hotkey(name), wire_s
        self._core = asyncio.Lock()
        self._asked: dict[Parcel, tuple[Query, int]] = {}
        self._departures = Departures(self._send)

    async def write(
        self, stream: Stream, name: str, loop: asyncio.AbstractEventLoop
    ) -> list[float]:
        session, answered_s = f"{self._name}/{name}", []
        await asyncio.sleep(stream.begins_s)
        for length in range(stream.prompt, stream.prompt + stream.tokens):
            async with self._core:
                await asyncio.sleep(stream.write_s)
            parcel = Parcel(b"", 0, 1e9, lambda: None, stream=name)
            query = Query(session, u32(*[0] * length), length)
            self._asked[parcel] = query, length - 1 if answered_s else 0
            if answered_s:
                await self._departures.step(parcel)
            else:
                await carry(self._send, [parcel], partial(self._departures.answered, [parcel]))
            answered_s.append(loop.time())
        self._batcher.forget(session)
        return answered_s

    async def _send(self, parcels: Sequence[Parcel], come: Callable[[], None]) -> None:
        """As `lane_route` answers: what is ready together comes together."""
        await asyncio.sleep(self._wire_s)
        left = {asyncio.create_task(self._step(parcel)) for parcel in parcels}
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(self._wire_s)
            for task in done:
                task.result().give((200, b"", 0, b""))
            come()

    async def _step(self, parcel: Parcel) -> Parcel:
        query, known = self._asked.pop(parcel)
        await self._batcher.rows(self._name, [query], Want("full"), [known])
        return parcel


def test_eight_texts_that_begin_together_are_written_together() -> None:
    """A pass for each of their tokens, and a few more while they find together."""
    streams = [Stream("router", prompt=50 + i % 3) for i in range(8)]
    engine, _ = played(*streams)
    apart, _ = played(*streams, is_gathered=False)
    assert sum(engine.steps) == sum(apart.steps) == 8 * 31
    assert len(engine.steps) <= 31 + 3
    assert len(apart.steps) >= 2 * 31
    # Once the miner knows what a pass takes nobody goes ahead of prompts that came with its own.
    later = [replace(stream, begins_s=20.0) for stream in streams]
    again, _ = played(*streams, *later)
    assert len(again.steps) - len(engine.steps) <= 31 + 1


@pytest.mark.parametrize("count", [1, 16, 64])
def test_many_texts_have_their_first_tokens_after_three_rounds(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """On a device that batches: a round is the router's own work for all of them, and three passes
    at most, of which one is under way when it begins. All that a first token waits for is a prompt
    and its blind tokens."""
    for name, value in (("PASS_S", 0.015), ("STREAM_S", 0.0), ("TOKEN_S", 0.0)):
        monkeypatch.setattr(sys.modules[__name__], name, value)
    streams = [Stream("router", prompt=48 + i % 5, tokens=12) for i in range(count)]
    _, answered = played(*streams)
    first_s = [times_s[BLIND_PROMPT_TOKENS] for times_s in answered]
    assert max(first_s) <= 3 * (count * streams[0].write_s + 3 * 0.015)


@given(
    st.sampled_from([0.0005, 0.02, 0.3]), st.sampled_from([0.0005, 0.01]), st.sampled_from([5, 90])
)
@settings(max_examples=12)
def test_a_text_alone_is_written_as_if_nobody_ever_waited(
    wire_s: float, write_s: float, prompt: int
) -> None:
    stream = Stream("router", prompt, tokens=9, wire_s=wire_s, write_s=write_s)
    assert played(stream)[1] == played(stream, is_gathered=False)[1]


def test_a_far_router_is_not_slower_for_near_ones_that_are_gathered() -> None:
    near = [Stream("near", tokens=64) for _ in range(8)]
    far = Stream("far", tokens=16, wire_s=0.2)
    _, [*_, gathered] = played(*near, far)
    _, [*_, apart] = played(*near, far, is_gathered=False)
    assert gathered[-1] <= 1.1 * apart[-1]


def test_a_long_prompt_is_not_waited_for() -> None:
    """Texts that begin with it go on as if it were another caller's."""
    short = [Stream("router", tokens=8) for _ in range(3)]
    _, beside = played(*short, Stream("router", prompt=3_000, tokens=2))
    _, apart = played(*short, Stream("other", prompt=3_000, tokens=2))
    for answered_s, alone_s in zip(beside[:3], apart[:3], strict=True):
        assert answered_s[-1] <= alone_s[-1] + PASS_S


def drawn(rng: random.Random) -> list[Stream]:
    wires_s = {"near": 0.001, "far": rng.choice([0.02, 0.1, 0.3])}
    callers = [rng.choice(["near", "far"]) for _ in range(rng.randint(1, 8))]
    return [
        Stream(
            caller,
            prompt=rng.choice([4, 50, 60, 200, 900]),
            tokens=rng.randint(1, 12),
            begins_s=rng.choice([0.0, 0.1, 1.0]),
            wire_s=wires_s[caller],
            write_s=rng.choice([0.0005, 0.002, 0.006]),
        )
        for caller in callers
    ]


def test_gathering_saves_passes_and_makes_nobody_wait_long() -> None:
    """Against the same streams where nobody waits, whatever their distances and lengths."""
    rng, saved_s, most_s = random.Random(0), 0.0, ALONE_CHUNK_STEPS * (PASS_S + STREAM_S)
    for _ in range(25):
        streams = drawn(rng)
        engine, gathered = played(*streams)
        apart, alone = played(*streams, is_gathered=False)
        assert engine.busy_s <= 1.1 * apart.busy_s + PASS_S, streams
        saved_s += 1.0 - engine.busy_s / apart.busy_s
        for stream, a, b in zip(streams, gathered, alone, strict=True):
            took_s, alone_s = a[-1] - stream.begins_s, b[-1] - stream.begins_s
            assert took_s <= 1.25 * alone_s + most_s, (stream, streams)
    assert saved_s > 25 * 0.02
