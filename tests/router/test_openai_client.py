"""The official client, unmodified, against the router's real HTTP."""

import asyncio
import json
import math

import aiohttp
import openai
import pytest

from moesubnet.router.prompts import Prompts
from tests.conftest import TINY_CONTEXT, TINY_TEXT

from .conftest import client


async def test_models_are_listed_and_found(serve) -> None:
    api = client(await serve())
    assert [model.id async for model in api.models.list()] == ["mixture"]
    assert (await api.models.retrieve("mixture")).owned_by == "moesubnet"
    with pytest.raises(openai.NotFoundError) as caught:
        await api.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


async def test_a_completion_continues_the_prompt(serve, parrot) -> None:
    api = client(await serve())
    answer = await api.completions.create(
        model="mixture", prompt="the quick", max_tokens=50, temperature=0
    )
    assert "the quick" + answer.choices[0].text == TINY_TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert parrot.opened == parrot.closed == 1


async def test_streamed_pieces_join_to_the_unstreamed_text(serve) -> None:
    api = client(await serve())
    stream = await api.completions.create(
        model="mixture",
        prompt="the quick",
        max_tokens=50,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert "the quick" + text == TINY_TEXT
    assert "\ufffd" not in text
    assert chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_stop_sequence_is_never_shown_even_across_tokens(serve) -> None:
    api = client(await serve())
    for stop in ("STOP", "y dog; na", ["zzz", "fox jumps"]):
        answer = await api.completions.create(
            model="mixture", prompt="the quick", max_tokens=50, temperature=0, stop=stop
        )
        first = stop if isinstance(stop, str) else stop[-1]
        assert answer.choices[0].finish_reason == "stop"
        assert "the quick" + answer.choices[0].text == TINY_TEXT[: TINY_TEXT.index(first)]


async def test_any_stop_id_of_the_spec_ends_the_text_and_is_no_part_of_it(
    serve, parrot, tokenizer
) -> None:
    written = parrot.ids[len(tokenizer.encode("the quick", add_special_tokens=False)) :]
    api = client(await serve(says={"stop_ids": (0, written[4])}))
    answer = await api.completions.create(
        model="mixture", prompt="the quick", max_tokens=50, temperature=0
    )
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].text == tokenizer.decode(written[:4])
    assert answer.usage.completion_tokens == 4


async def test_max_tokens_ends_with_length(serve) -> None:
    api = client(await serve())
    answer = await api.completions.create(
        model="mixture", prompt="the", max_tokens=3, temperature=0, logprobs=2
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "length"
    assert len(choice.logprobs.tokens) == answer.usage.completion_tokens == 3
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.token_logprobs[0] == pytest.approx(math.log(0.99), abs=1e-4)
    assert all(len(top) == 2 for top in choice.logprobs.top_logprobs)
    offsets = choice.logprobs.text_offset
    assert offsets[0] == 0
    assert offsets == sorted(offsets)


async def test_chat_streams_with_a_role_first_and_logprobs(serve) -> None:
    api = client(await serve())
    stream = await api.chat.completions.create(
        model="mixture",
        messages=[{"role": "user", "content": "the quick"}],
        max_completion_tokens=8,
        temperature=0,
        stream=True,
        logprobs=True,
        top_logprobs=3,
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    tokens = [
        token
        for chunk in chunks
        for c in chunk.choices
        if c.logprobs
        for token in c.logprobs.content
    ]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert len(tokens) == 8
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == text
    assert all(len(token.top_logprobs) == 3 for token in tokens)
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_the_same_seed_writes_the_same_and_choices_differ(serve) -> None:
    api = client(await serve())

    async def write(seed: int) -> list[str]:
        answer = await api.completions.create(
            model="mixture", prompt="the", max_tokens=24, temperature=2.0, n=3, seed=seed
        )
        return [choice.text for choice in sorted(answer.choices, key=lambda c: c.index)]

    first, again, other = await write(7), await write(7), await write(8)
    assert first == again
    assert first != other
    assert len(set(first)) > 1


async def test_several_prompts_and_token_ids_are_answered_in_order(serve, tokenizer) -> None:
    api = client(await serve())
    ids = tokenizer.encode("the quick").ids
    answer = await api.completions.create(
        model="mixture", prompt=["the quick", "the quick brown"], max_tokens=4, temperature=0
    )
    by_ids = await api.completions.create(model="mixture", prompt=ids, max_tokens=4, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert by_ids.choices[0].text == answer.choices[0].text
    with pytest.raises(openai.BadRequestError):
        await api.completions.create(model="mixture", prompt=[10**6], max_tokens=1)


async def test_a_prompt_over_the_context_is_refused_by_its_code(serve) -> None:
    api = client(await serve())
    for call in (
        api.completions.create(model="mixture", prompt="the " * TINY_CONTEXT, max_tokens=4),
        api.chat.completions.create(
            model="mixture", messages=[{"role": "user", "content": "the " * TINY_CONTEXT}]
        ),
        api.completions.create(model="mixture", prompt="the", max_tokens=TINY_CONTEXT),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await call
        assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "extra",
    [
        {"tools": [{"type": "function"}]},
        {"best_of": 4},
        {"unheard_of": 1},
    ],
)
async def test_an_option_that_would_be_ignored_is_refused_by_name(serve, extra) -> None:
    api = client(await serve())
    with pytest.raises(openai.BadRequestError) as caught:
        await api.completions.create(model="mixture", prompt="the", extra_body=extra)
    assert next(iter(extra)) in caught.value.param


async def test_every_token_says_which_experts_wrote_it(serve) -> None:
    api = client(await serve())
    raw = await api.completions.with_raw_response.create(
        model="mixture",
        prompt="the",
        max_tokens=3,
        temperature=0,
        extra_body={"moesubnet": {"provenance": True}},
    )
    assert raw.headers["x-moesubnet-experts"] == "parrot=0.7500,baseline=0.2500"
    tokens = raw.parse().model_extra["moesubnet"][0]["tokens"]
    assert [token["experts"] for token in tokens] == [{"parrot": 0.75, "baseline": 0.25}] * 3


async def test_a_wrong_key_is_refused_everywhere_but_health(serve) -> None:
    url = await serve(api_keys=["secret", "other"])
    with pytest.raises(openai.AuthenticationError):
        await client(url, "wrong").models.list()
    async with aiohttp.ClientSession() as http:
        headers = {"Authorization": "Bearer caf\udce9"}  # one byte that is no UTF-8
        async with http.get(f"{url}/v1/models", headers=headers) as response:
            assert response.status == 401
    assert [model.id async for model in client(url, "other").models.list()] == ["mixture"]
    async with aiohttp.ClientSession() as http, http.get(f"{url}/healthz") as response:
        assert response.status == 200


async def test_over_capacity_is_429_with_retry_after(serve) -> None:
    url = await serve(max_running=0)
    with pytest.raises(openai.RateLimitError) as caught:
        await client(url).completions.create(model="mixture", prompt="the")
    assert caught.value.response.headers["retry-after"] == "1"


async def test_garbage_is_answered_in_openai_shape(serve) -> None:
    url = await serve()
    bodies = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": 3}', b"[" * 100_000]
    async with aiohttp.ClientSession() as http:
        for path in ("/v1/completions", "/v1/chat/completions"):
            for body in bodies:
                async with http.post(url + path, data=body) as response:
                    assert response.status == 400
                    assert set((await response.json())["error"]) == {
                        "message",
                        "type",
                        "param",
                        "code",
                    }
        async with http.post(f"{url}/v1/completions", data=b" " * (5 * 2**20)) as response:
            assert response.status == 413
        async with http.get(f"{url}/v1/nowhere") as response:
            assert response.status == 404
            assert (await response.json())["error"]["code"] == "unknown_url"


async def test_a_failure_before_the_first_byte_keeps_its_status(serve, parrot) -> None:
    parrot.fail_after = 0
    api = client(await serve())
    with pytest.raises(openai.InternalServerError) as caught:
        await api.completions.create(model="mixture", prompt="the", stream=True)
    assert caught.value.status_code == 503


async def test_a_failure_mid_stream_is_an_error_event_not_a_silent_end(
    serve, parrot, caplog
) -> None:
    parrot.fail_after = 6
    url = await serve()
    body = {"model": "mixture", "prompt": "the", "stream": True, "temperature": 0}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/completions", json=body) as r:
        assert r.status == 200
        events = [line[6:] for line in (await r.text()).splitlines() if line.startswith("data: ")]
    assert json.loads(events[-1])["error"]["code"] == "no_expert_available"
    assert parrot.opened == parrot.closed
    assert [r for r in caplog.records if "broke off" in r.getMessage()]  # the status was sent: 200


async def test_text_offsets_count_what_a_stop_sequence_holds_back(serve) -> None:
    api = client(await serve())
    answer = await api.completions.create(
        model="mixture", prompt="the", max_tokens=8, temperature=0, logprobs=0, stop=TINY_TEXT[3:40]
    )
    choice = answer.choices[0]
    lengths = [len(token) for token in choice.logprobs.tokens]
    assert choice.logprobs.text_offset == [sum(lengths[:i]) for i in range(len(lengths))]


async def test_an_unforeseen_failure_ends_a_stream_at_once(serve, parrot) -> None:
    parrot.failure = RuntimeError("a bug")
    parrot.fail_after = 6
    url = await serve()
    body = {"model": "mixture", "prompt": "the", "stream": True, "temperature": 0, "n": 2}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/completions", json=body) as r:
        with pytest.raises(aiohttp.ClientPayloadError):
            await asyncio.wait_for(r.read(), 5.0)
    assert parrot.opened == parrot.closed


async def test_a_long_prompt_does_not_hold_up_the_others(serve, monkeypatch) -> None:
    monkeypatch.setattr(Prompts, "_check_bytes", lambda *_: None)
    monkeypatch.setattr("moesubnet.router.prompts.CHARS_A_TOKEN", 10**9)
    url = await serve()
    async with aiohttp.ClientSession() as http:
        body = {"model": "mixture", "prompt": TINY_TEXT * 3000, "max_tokens": 1}
        slow = asyncio.create_task(http.post(f"{url}/v1/completions", json=body))
        pauses_s = []
        while not slow.done():
            begin_s = asyncio.get_running_loop().time()
            await asyncio.sleep(0.001)
            pauses_s.append(asyncio.get_running_loop().time() - begin_s)
        async with await slow as response:
            assert response.status == 400
    assert len(pauses_s) > 10, "nothing else ran while the prompt was tokenised"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_sessions(serve, parrot, stream) -> None:
    parrot.goes_on.clear()
    url = await serve()
    body = {"model": "mixture", "prompt": "the", "stream": stream, "max_tokens": 60, "n": 4}

    async def ask() -> None:
        async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/completions", json=body):
            await asyncio.Event().wait()

    asking = asyncio.create_task(ask())
    while parrot.opened < 4:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.wait([asking])
    for _ in range(100):
        if parrot.opened == parrot.closed:
            break
        await asyncio.sleep(0.02)
    assert parrot.opened == parrot.closed == 4
