"""A miner over real sockets: what honest callers get, and what the others get."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import socket
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from moesubnet.engine.base import Query
from moesubnet.engine.named import load_engine
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.errors import ConfigError, PeerRefused, PeerUnavailable, UnknownBase
from moesubnet.spec.content import LoadedSpec, SpecFile
from moesubnet.types import Hotkey
from moesubnet.wire import signing
from moesubnet.wire.protocol import GenerateRequest, StepRequest, Want

from .conftest import ALICE, BOB, MINER, POOR, FakeEngine, step_of, u32

FULL = Want("full")
V = 300
ServeMiner = Callable[..., Any]


def full(*steps: Any) -> StepRequest:
    return StepRequest(steps, Want("full"))


@pytest.fixture(scope="module")
def model_engine(tiny_model: Path, tiny_spec: LoadedSpec) -> TransformersEngine:
    return TransformersEngine(str(tiny_model), tiny_spec)


async def test_a_walk_with_drafts_gets_the_engines_rows(
    serve_miner: ServeMiner, model_engine: TransformersEngine
) -> None:
    client = await (await serve_miner(model_engine)).client(ALICE)
    text = np.random.default_rng(0).integers(0, V, 40, dtype=np.uint32)
    held = 0
    for length in range(0, 36, 3):
        draft = text[length : length + 2]
        step = step_of("walk", text[:held], text[held:length], draft)
        (rows,) = (await client.step(full(step), timeout_s=30)).rows
        (checked,) = model_engine.rows([Query("check", text[: length + 2], length)], FULL)
        expected = checked.logprobs
        np.testing.assert_allclose(rows.logprobs, expected, atol=0.02)  # float16 on the wire
        np.testing.assert_allclose(rows.draft_logprobs, expected[[0, 1], draft], atol=0.02)
        held = length + 1  # the first draft token was right, the second is rolled back


@pytest.mark.parametrize(("want", "listed"), [(Want("top_k", 5), 5), (Want("sampled_n", 40), 40)])
async def test_truncated_answers(serve_miner: ServeMiner, want: Want, listed: int) -> None:
    engine = FakeEngine()
    client = await (await serve_miner(engine)).client(ALICE)
    request = StepRequest((step_of("s", u32(), u32(7, 8)),), want)
    (rows,) = (await client.step(request, timeout_s=30)).rows
    ids, logprobs, tail = rows.row(0)
    assert len(ids) == listed
    law = engine.laws(u32(7, 8), 2)[0]
    np.testing.assert_allclose(logprobs, law[ids], atol=0.01)
    assert tail == pytest.approx(1 - np.exp(law[np.unique(ids)]).sum(), abs=0.01)


async def test_a_retry_gets_the_same_bytes_and_no_work(serve_miner: ServeMiner) -> None:
    engine = FakeEngine()
    served = await serve_miner(engine)
    request = StepRequest((step_of("s", u32(), u32(1, 2)),), Want("sampled_n", 20))
    caller, body = Hotkey(ALICE.ss58_address), request.to_bytes()
    engine.gate.clear()
    first = asyncio.create_task(served.expert.step(caller, body))
    await asyncio.sleep(0.05)
    retry = asyncio.create_task(served.expert.step(caller, body))  # while the first still runs
    await asyncio.sleep(0.05)
    engine.gate.set()
    assert await first == await retry == await served.expert.step(caller, body)
    assert len(engine.batches) == 1
    # Another caller's same body is another question.
    assert await served.expert.step(Hotkey(BOB.ss58_address), body) != await first


async def test_steps_whose_callers_left_are_not_computed_and_their_session_goes_on(
    serve_miner: ServeMiner,
) -> None:
    engine = FakeEngine()
    served = await serve_miner(engine)
    client = await served.client(ALICE)
    text = u32(*range(9))
    await client.step(full(step_of("s", u32(), text[:2])), timeout_s=30)
    engine.gate.clear()
    for end in range(3, 8):  # a router that cuts a slow miner off and comes again
        with pytest.raises(PeerUnavailable):
            await client.step(full(step_of("s", text[:2], text[2:end])), timeout_s=0.2)
    for _ in range(500):  # until it has noticed that they left
        if not served.expert._steps.waiting_tokens:
            break
        await asyncio.sleep(0.01)
    engine.gate.set()
    answer = await client.step(full(step_of("s", text[:2], text[2:])), timeout_s=30)
    np.testing.assert_allclose(answer.rows[0].logprobs[0], engine.laws(text, 9)[0], atol=0.01)
    computed = [len(query.ids) for batch in engine.batches for query in batch]
    assert computed[-1] == 9
    assert len(computed) <= 3  # and at most the one that had begun


async def test_an_unknown_base_answers_with_what_is_held(serve_miner: ServeMiner) -> None:
    client = await (await serve_miner(FakeEngine())).client(ALICE)
    text = u32(*range(10))
    await client.step(full(step_of("s", u32(), text[:4], text[4:6])), timeout_s=30)

    async def held_for(*steps: Any) -> tuple[int, ...]:
        with pytest.raises(UnknownBase) as error:
            await client.step(full(*steps), timeout_s=30)
        return error.value.held_tokens

    assert await held_for(step_of("s", text[:8], text[8:9])) == (4,)  # longer than held
    assert await held_for(step_of("s", u32(0, 1, 2, 3, 9), text[:1])) == (4,)  # draft refused
    assert await held_for(step_of("s", u32(0, 9), text[:1])) == (0,)  # other ids
    assert await held_for(step_of("t", text[:2], text[2:3])) == (0,)  # other session
    mixed = (step_of("new", u32(), text[:1]), step_of("t", text[:2], text[2:3]))
    assert await held_for(*mixed) == (0, 0)
    await client.step(full(step_of("s", text[:4], text[4:8])), timeout_s=30)  # the suffix resent


async def test_rolling_back_gives_the_rows_of_the_shorter_text(serve_miner: ServeMiner) -> None:
    engine = FakeEngine()
    client = await (await serve_miner(engine)).client(ALICE)
    text = u32(*range(10))
    await client.step(full(step_of("s", u32(), text)), timeout_s=30)
    (rows,) = (await client.step(full(step_of("s", text[:3], u32(77))), timeout_s=30)).rows
    np.testing.assert_allclose(rows.logprobs, engine.laws(u32(0, 1, 2, 77), 4), atol=0.01)


async def test_nobody_touches_anothers_session(serve_miner: ServeMiner) -> None:
    served = await serve_miner(FakeEngine())
    alice, bob = await served.client(ALICE), await served.client(BOB)
    text = u32(1, 2, 3)
    await alice.step(full(step_of("s", u32(), text)), timeout_s=30)
    with pytest.raises(UnknownBase):
        await bob.step(full(step_of("s", text, u32(4))), timeout_s=30)
    await bob.step(full(step_of("s", u32(), u32(9))), timeout_s=30)
    await alice.step(full(step_of("s", text, u32(4))), timeout_s=30)


async def test_a_session_begins_from_another_of_its_caller(serve_miner: ServeMiner) -> None:
    engine = FakeEngine()
    served = await serve_miner(engine)
    alice, bob = await served.client(ALICE), await served.client(BOB)
    text = u32(1, 2, 3, 4)
    await alice.step(full(step_of("s", u32(), text)), timeout_s=30)
    forks = [step_of(f"f{i}", text[:3], u32(i), parent="s") for i in range(2)]
    answer = await alice.step(full(*forks), timeout_s=30)
    for i, rows in enumerate(answer.rows):
        np.testing.assert_allclose(rows.logprobs, engine.laws(u32(1, 2, 3, i), 4), atol=0.01)
    await alice.step(full(step_of("s", text, u32(5))), timeout_s=30)  # untouched
    await alice.step(full(step_of("f1", u32(1, 2, 3, 1), u32(5))), timeout_s=30)
    with pytest.raises(UnknownBase):
        await bob.step(full(step_of("f", text, u32(5), parent="s")), timeout_s=30)
    with pytest.raises(UnknownBase):
        await alice.step(full(step_of("f", u32(1, 2, 9), u32(5), parent="s")), timeout_s=30)


async def test_a_caller_closes_its_sessions(serve_miner: ServeMiner) -> None:
    engine = FakeEngine()
    served = await serve_miner(engine)
    alice, bob = await served.client(ALICE), await served.client(BOB)
    for client in (alice, bob):
        await client.step(full(step_of("s", u32(), u32(1, 2))), timeout_s=30)
    await bob.close_sessions(["s", "unheard-of"], timeout_s=30)
    await alice.step(full(step_of("s", u32(1, 2), u32(3))), timeout_s=30)
    with pytest.raises(UnknownBase):
        await bob.step(full(step_of("s", u32(1, 2), u32(3))), timeout_s=30)
    assert engine.forgotten == [f"{BOB.ss58_address}/s"]


async def test_too_little_stake_is_refused(serve_miner: ServeMiner) -> None:
    client = await (await serve_miner(FakeEngine())).client(POOR)
    with pytest.raises(PeerRefused, match="403"):
        await client.step(full(step_of("s", u32(), u32(1))), timeout_s=30)


async def test_a_full_queue_answers_429_and_recovers(serve_miner: ServeMiner) -> None:
    engine = FakeEngine()
    client = await (await serve_miner(engine, queue_tokens=64)).client(ALICE)
    engine.gate.clear()
    steps = [
        asyncio.ensure_future(
            client.step(full(step_of(f"s{i}", u32(), u32(*range(15)))), timeout_s=30)
        )
        for i in range(8)
    ]
    await asyncio.sleep(0.5)
    refused = [task for task in steps if task.done()]
    assert len(refused) == 5  # 64 tokens, and 57 by Alice's stake, hold three times 16
    for task in refused:
        with pytest.raises(PeerRefused, match="429"):
            await task
    engine.gate.set()
    await asyncio.gather(*(task for task in steps if task not in refused))
    await client.step(full(step_of("again", u32(), u32(*range(15)))), timeout_s=30)


async def test_concurrent_callers_share_batches(serve_miner: ServeMiner) -> None:
    engine = FakeEngine()
    served = await serve_miner(engine)
    alice, bob = await served.client(ALICE), await served.client(BOB)
    engine.gate.clear()
    tasks = [asyncio.ensure_future(alice.step(full(step_of("0", u32(), u32(1))), timeout_s=30))]
    await asyncio.sleep(0.2)
    for i in range(1, 5):
        for client in (alice, bob):
            step = client.step(full(step_of(str(i), u32(), u32(i))), timeout_s=30)
            tasks.append(asyncio.ensure_future(step))
    await asyncio.sleep(0.3)
    engine.gate.set()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in engine.batches] == [1, 8]


async def raw(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        await writer.drain()
        return await asyncio.wait_for(reader.read(65_536), 15)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00" * 64 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/step HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /v1/step HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET /v1/blob/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/blob/" + b"0" * 64 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"DELETE /v1/expert HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_garbage_gets_a_4xx(serve_miner: ServeMiner, sent: bytes) -> None:
    served = await serve_miner(FakeEngine())
    answer = await raw(served.port, sent.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:60]
    await (await served.client(ALICE)).step(full(step_of("s", u32(), u32(1))), timeout_s=30)


@pytest.mark.parametrize("path", ["/v1/step", "/v1/generate", "/v1/close"])
@pytest.mark.parametrize("body", [b"", b"\xff" * 100, b"{}", b"MOE\x01" + b"\xff" * 60])
async def test_signed_garbage_gets_a_400(serve_miner: ServeMiner, path: str, body: bytes) -> None:
    import time

    served = await serve_miner(FakeEngine())
    headers = signing.sign_request(
        ALICE, "POST", path, body, Hotkey(MINER.ss58_address), time.time_ns()
    )
    url = f"http://127.0.0.1:{served.port}{path}"
    async with aiohttp.ClientSession() as http, http.post(url, data=body, headers=headers) as got:
        assert got.status == 400
        assert await got.json() == {"error": "malformed_request"}


async def test_ids_outside_the_vocabulary_or_context_are_refused(serve_miner: ServeMiner) -> None:
    engine = FakeEngine()
    client = await (await serve_miner(engine)).client(ALICE)
    for ids in (u32(V), np.zeros(64, np.uint32)):
        with pytest.raises(PeerRefused, match="400"):
            await client.step(full(step_of("s", u32(), ids)), timeout_s=30)
    assert engine.batches == []


async def test_generate_streams_the_models_own_text(
    serve_miner: ServeMiner, model_engine: TransformersEngine
) -> None:
    client = await (await serve_miner(model_engine)).client(ALICE)

    async def text(**options: Any) -> tuple[list[int], str | None]:
        request = GenerateRequest(prompt_ids=[5, 6], **options)
        ids: list[int] = []
        reason = None
        async with aclosing(client.generate(request, timeout_s=30)) as chunks:
            async for chunk in chunks:
                ids += chunk.ids
                reason = chunk.finish_reason or reason
        return ids, reason

    greedy, reason = await text(max_tokens=9, temperature=0.0)
    expected = [5, 6]
    while len(expected) < 11:
        (law,) = model_engine.rows([Query("check", u32(*expected), len(expected))], FULL)
        if (token := int(law.logprobs[0].argmax())) == 0:
            break
        expected.append(token)
    assert greedy == expected[2:]
    assert reason == ("length" if len(greedy) == 9 else "stop")
    assert await text(max_tokens=9, seed=3) == await text(max_tokens=9, seed=3)
    ids, reason = await text(max_tokens=1_000, seed=4, top_p=0.9)
    assert len(ids) <= 62
    assert reason in ("length", "stop")


async def test_any_stop_id_ends_generated_text_and_is_not_sent(serve_miner: ServeMiner) -> None:
    engine = FakeEngine()
    first = int(engine.laws(u32(1), 1)[0].argmax())
    second = int(engine.laws(u32(1, first), 2)[0].argmax())
    client = await (await serve_miner(engine, stop_ids=(0, second))).client(ALICE)
    request = GenerateRequest(prompt_ids=[1], max_tokens=9, temperature=0.0)
    chunks = [chunk async for chunk in client.generate(request, timeout_s=30)]
    assert [token for chunk in chunks for token in chunk.ids] == [first]
    assert chunks[-1].finish_reason == "stop"


async def test_generate_stops_when_the_caller_leaves(serve_miner: ServeMiner) -> None:
    engine = FakeEngine(context_tokens=4_096)
    served = await serve_miner(engine)
    client = await served.client(ALICE)
    request = GenerateRequest(prompt_ids=[1], max_tokens=4_000, seed=1)
    async with aclosing(client.generate(request, timeout_s=30)) as chunks:
        async for _ in chunks:
            break
    for _ in range(100):
        await asyncio.sleep(0.05)
        if any(name.startswith(ALICE.ss58_address + "/ ") for name in engine.forgotten):
            break
    else:
        pytest.fail("the stream went on")
    assert len(engine.batches) < 4_000


async def test_a_miner_serves_under_a_new_spec_where_its_engine_can(
    serve_miner: ServeMiner, tiny_spec: LoadedSpec
) -> None:
    served = await serve_miner(FakeEngine())
    client = await served.client(BOB)
    request = StepRequest((step_of("s", u32(), u32(5)),), Want("full"))
    assert (await client.step(request, timeout_s=10)).rows

    def spec(**says: Any) -> LoadedSpec:
        return replace(tiny_spec, sha256="ab" * 32, spec=tiny_spec.spec.model_copy(update=says))

    other = SpecFile(path="tokenizer.json", sha256="cd" * 32)
    for says, word in (
        ({"tokenizer": other}, "tokenizer"),
        ({"vocab_size": 299}, "vocabulary"),
        ({"bos_id": 1}, "beginning"),
        ({"context_tokens": 65}, "context"),
    ):
        with pytest.raises(ConfigError, match=f"another {word}.*restart the miner"):
            served.expert.check_can_follow(spec(**says))
    new = spec(min_caller_stake_rao=200 * 10**9, stop_ids=(3,), context_tokens=32)
    served.expert.check_can_follow(new)
    served.expert.follow(new)
    assert (await client.card(timeout_s=10)).spec_sha256 == new.sha256
    with pytest.raises(PeerRefused, match="403"):  # Bob has 100
        await client.step(request, timeout_s=10)


async def test_public_pages(serve_miner: ServeMiner, tiny_spec: LoadedSpec) -> None:
    served = await serve_miner(FakeEngine())
    client = await served.client(ALICE)
    card = await client.card(timeout_s=10)
    assert (card.hotkey, card.spec_sha256) == (MINER.ss58_address, tiny_spec.sha256)
    assert (card.vocab_size, card.context_tokens) == (V, 64)
    for digest in (tiny_spec.sha256, tiny_spec.spec.tokenizer.sha256):
        got = await client.get_public(f"/v1/blob/{digest}", max_bytes=1 << 20, timeout_s=10)
        assert hashlib.sha256(got).hexdigest() == digest
    assert b"ok" in await client.get_public("/healthz", max_bytes=1_000, timeout_s=10)


async def test_metrics_count_and_logs_keep_the_label(
    serve_miner: ServeMiner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    served = await serve_miner(FakeEngine())
    client = await served.client(ALICE)
    lost = client.step(full(step_of("other", u32(1), u32(2))), timeout_s=30)
    await asyncio.gather(
        client.step(full(step_of("secretname", u32(), u32(231, 232, 233))), timeout_s=30),
        lost,
        return_exceptions=True,
    )
    metrics = (await client.get_public("/metrics", max_bytes=1 << 20, timeout_s=10)).decode()
    for status in (200, 409):  # two steps, whatever they travelled in
        assert f'moesubnet_miner_answers_total{{route="/v1/step",status="{status}"}} 1.0' in metrics
    assert "moesubnet_miner_sessions 1.0" in metrics
    for said in (metrics, caplog.text):
        assert "secretname" not in said
        assert not re.search(r"231\D{1,3}232\D{1,3}233", said)


async def test_an_engine_that_answers_nonsense_is_a_503_and_a_line_in_the_log(
    serve_miner: ServeMiner, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FakeEngine):
        def laws(self, ids: np.ndarray, first: int) -> np.ndarray:
            rows = super().laws(ids, first)
            return rows * np.nan if 13 in ids else rows

    engine = Broken()
    served = await serve_miner(engine)
    alice, bob = await served.client(ALICE), await served.client(BOB)
    engine.gate.clear()
    first = asyncio.ensure_future(alice.step(full(step_of("a", u32(), u32(1))), timeout_s=30))
    await asyncio.sleep(0.1)
    bad = asyncio.ensure_future(alice.step(full(step_of("b", u32(), u32(13))), timeout_s=30))
    good = asyncio.ensure_future(bob.step(full(step_of("c", u32(), u32(2))), timeout_s=30))
    await asyncio.sleep(0.2)
    engine.gate.set()
    await first
    with pytest.raises(PeerRefused, match="503"):
        await bad
    await good  # though both were in one batch
    [line] = [r.getMessage() for r in caplog.records if r.name == "moesubnet.miner.failures"]
    assert "not finite" in line


async def test_the_example_engine_serves(
    serve_miner: ServeMiner, tiny_spec: LoadedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    engine = load_engine("custom_engine:CacheEngine", "none", tiny_spec)
    client = await (await serve_miner(engine)).client(ALICE)
    (rows,) = (await client.step(full(step_of("s", u32(), u32(4, 4, 9))), timeout_s=30)).rows
    assert rows.logprobs[0].argmax() == 4


async def test_an_unused_connection_does_no_harm(serve_miner: ServeMiner) -> None:
    served = await serve_miner(FakeEngine())
    with socket.create_connection(("127.0.0.1", served.port)):
        await (await served.client(ALICE)).step(full(step_of("s", u32(), u32(1))), timeout_s=30)
