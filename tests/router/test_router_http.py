"""The router's HTTP against callers that are wrong, slow, many or gone."""

import asyncio
import contextlib
import re

import aiohttp
import openai
import pytest
from aiohttp import web

from moesubnet.router import answering, door
from moesubnet.router.app import build_app
from moesubnet.router.openai_api import ApiError
from moesubnet.router.prompts import CHARS_A_TOKEN, SHORT_CHARS, Prompts
from moesubnet.router.service import Service
from moesubnet.wire.listening import serve as listen
from tests.conftest import TINY_CONTEXT, TINY_TEXT

from .conftest import client

HELLO = {"role": "user", "content": "the quick"}


async def refusal(url: str, path: str = "completions", **body: object) -> dict[str, object]:
    """Status and error of a request that must be refused."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/{path}", json={"model": "mixture"} | body) as response,
    ):
        error = (await response.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error | {"status": response.status}


@pytest.mark.parametrize(
    ("option", "param"),
    [
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"n": "2"}, "n"),
        ({"n": 0}, "n"),
        ({"seed": 2**70}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"stop": ""}, "stop.0"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt.1"),
        ({"prompt": [True]}, "prompt.0"),
        ({"prompt": [[1], ["a"]]}, "prompt.1.0"),
        ({"prompt": [-1]}, "prompt.0"),
        ({"prompt": ["a"] * 33}, "prompt"),
        ({"prompt": ["a"] * 5, "n": 8}, "prompt"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"moesubnet": {"provenance": "yes"}}, "moesubnet.provenance"),
    ],
)
async def test_a_wrong_option_is_named(serve, parrot, option, param) -> None:
    error = await refusal(await serve(), **option)
    assert (error["status"], error["param"]) == (400, param)
    assert error["type"] == "invalid_request_error"
    assert parrot.opened == 0


@pytest.mark.parametrize(
    ("option", "param"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [HELLO, {"role": "alien", "content": "x"}]}, "messages.1.role"),
        ({"messages": [HELLO, {"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None),
        ({"messages": [HELLO | {"tool_calls": [{"id": "1"}]}]}, "messages.0.tool_calls.0.function"),
        ({"messages": [HELLO], "max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"messages": [HELLO], "top_logprobs": 2}, "top_logprobs"),
        ({"messages": [HELLO], "logprobs": 1}, "logprobs"),
    ],
)
async def test_a_wrong_chat_option_is_named(serve, option, param) -> None:
    error = await refusal(await serve(), "chat/completions", **option)
    assert (error["status"], error["param"]) == (400, param or "messages.0.content.0.type")


async def test_an_answer_can_be_sent_back_as_the_client_dumps_it(serve) -> None:
    api = client(await serve())
    answer = await api.chat.completions.create(
        model="mixture", messages=[HELLO], max_tokens=1, temperature=0
    )
    said = answer.choices[0].message.model_dump()
    assert "tool_calls" in said
    again = await api.chat.completions.create(
        model="mixture", messages=[HELLO, said, HELLO], max_tokens=1
    )
    assert again.choices[0].finish_reason == "length"


async def test_a_body_of_many_errors_is_refused_without_wording_them(serve) -> None:
    error = await refusal(await serve(), **{f"k{i}": 1 for i in range(10_000)})
    assert error["status"] == 400
    assert len(str(error["message"])) < 200


@pytest.mark.parametrize("huge", [TINY_CONTEXT, 10**9, 2**52])
async def test_a_huge_max_tokens_is_a_matter_of_context(serve, huge) -> None:
    url = await serve()
    error = await refusal(url, prompt="the", max_tokens=huge)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    error = await refusal(url, "chat/completions", messages=[HELLO], max_tokens=huge)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("completions", '{"prompt": "a", "model": "mixture", "prompt": "b"}', "prompt"),
        ("chat/completions", '{"messages": [{"role": "user", "content": "", "role": ""}]}', "role"),
        ("responses", '{"model": "mixture", "input": "", "metadata": {"a": "", "a": ""}}', "a"),
    ],
)
async def test_a_repeated_key_is_refused_by_name(serve, parrot, path, body, key) -> None:
    url = await serve()
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/{path}", data=body) as r:
        error = (await r.json())["error"]
        assert (r.status, error["code"]) == (400, "invalid_json")
        assert f'"{key}"' in error["message"]
    assert parrot.opened == 0


class CountedTokenizer:
    """Counts the characters that are tokenised."""

    def __init__(self, real) -> None:
        self.real, self.chars = real, 0

    def encode_batch_fast(self, texts, **options):
        self.chars += sum(map(len, texts))
        return self.real.encode_batch_fast(texts, **options)


@pytest.fixture
def counted(monkeypatch) -> list[CountedTokenizer]:
    """The tokenizers of the services that are made from here on."""
    made: list[CountedTokenizer] = []
    build = Prompts.__init__

    def init(self, spec, tokenizer) -> None:
        build(self, spec, tokenizer)
        made.append(CountedTokenizer(tokenizer))
        self._encoder._tokenizer = made[-1]

    monkeypatch.setattr(Prompts, "__init__", init)
    return made


@pytest.mark.parametrize("text", ["a", " ", "the quick brown fox ", "\U0001f600"])
async def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenised(
    serve, counted, text
) -> None:
    url = await serve()
    long = text * (900_000 // len(text.encode()))
    halves = [{"role": "user", "content": long[: len(long) // 2]}] * 2
    parts = [{"role": "user", "content": [{"type": "text", "text": long[:250]}] * 700}]
    for path, body in (
        ("completions", {"prompt": long}),
        ("completions", {"prompt": [long]}),
        ("completions", {"prompt": ["the"] * 3 + [long[:30_000]]}),
        ("completions", {"prompt": [1] * TINY_CONTEXT, "max_tokens": 0}),
        ("chat/completions", {"messages": halves}),
        ("chat/completions", {"messages": parts}),
        ("responses", {"input": long}),
        ("responses", {"input": "hi", "instructions": long}),
    ):
        error = await refusal(url, path, **body)
        assert (error["status"], error["code"]) == (400, "context_length_exceeded")
        assert "at least" in str(error["message"])
    [tokenizer] = counted
    assert tokenizer.chars < 20


async def test_of_a_text_that_is_far_too_long_only_the_beginning_is_tokenised(
    serve, counted, monkeypatch
) -> None:
    url = await serve()
    monkeypatch.setattr(Prompts, "_check_bytes", lambda *_: None)
    error = await refusal(url, prompt="the quick brown fox " * 10_000)
    assert error["code"] == "context_length_exceeded"
    [tokenizer] = counted
    assert tokenizer.chars <= TINY_CONTEXT * CHARS_A_TOKEN


async def test_a_text_is_read_the_same_at_once_or_in_a_thread(spec, tokenizer, monkeypatch) -> None:
    prompts = Prompts(spec, tokenizer)
    expected = tokenizer.encode(TINY_TEXT, add_special_tokens=False).ids
    assert len(TINY_TEXT) <= SHORT_CHARS
    assert (await prompts.ids(TINY_TEXT, "prompt")).tolist() == expected
    monkeypatch.setattr("moesubnet.router.prompts.SHORT_CHARS", 0)
    assert (await prompts.ids(TINY_TEXT, "prompt")).tolist() == expected
    # A space more than fits is refused, by a count that is never above the true one.
    for words in range(1, 4 * TINY_CONTEXT, 7):
        text = "fox " * words
        true = len(tokenizer.encode(text, add_special_tokens=False).ids)
        try:
            assert len(await prompts.ids(text, "prompt")) == true
        except ApiError as error:
            least = int(re.findall(r"at least (\d+) tokens", str(error))[0])
            assert TINY_CONTEXT <= least <= true


async def test_messages_in_too_many_pieces_are_refused(serve) -> None:
    url = await serve()
    parts = [{"type": "text", "text": ""}] * 5_000
    for messages in (
        [HELLO | {"content": parts}],
        [HELLO | {"content": parts[:500]}] * 10,
        [HELLO | {f"k{i}": None for i in range(100)}],
        [HELLO] * 1_025,
    ):
        error = await refusal(url, "chat/completions", messages=messages)
        assert (error["status"], error["param"]) == (400, "messages")


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], None])
async def test_an_empty_prompt_of_any_form_is_answered(serve, prompt) -> None:
    api = client(await serve())
    answer = await api.completions.create(
        model="mixture", prompt=prompt, max_tokens=60, temperature=0
    )
    assert [choice.text for choice in answer.choices] == [TINY_TEXT]
    assert answer.usage.prompt_tokens == 0


async def test_every_form_of_prompt_is_answered_n_times_in_order(serve, tokenizer) -> None:
    api = client(await serve())
    first, second = (tokenizer.encode(text).ids for text in ("the quick", "the quick brown"))
    for prompt in (["the quick", "the quick brown"], [first, second]):
        answer = await api.completions.create(
            model="mixture", prompt=prompt, n=2, max_tokens=1, temperature=0
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        texts = [choice.text for choice in answer.choices]
        assert texts[0] == texts[1] != texts[2] == texts[3]
        assert answer.usage.prompt_tokens == len(first) + len(second)
        assert answer.usage.completion_tokens == 4


async def test_a_stream_of_several_choices_is_each_of_them_whole(serve, parrot) -> None:
    api = client(await serve())
    stream = await api.completions.create(
        model="mixture",
        prompt="the quick",
        n=3,
        max_tokens=50,
        temperature=0,
        stop="STOP",
        logprobs=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts, ends, tokens = ["", "", ""], [[], [], []], 0
    chunks = [chunk async for chunk in stream]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.text
        ends[choice.index].append(choice.finish_reason)
        tokens += len(choice.logprobs.tokens)
    assert texts == [TINY_TEXT[len("the quick") : TINY_TEXT.index("STOP")]] * 3
    for reasons in ends:
        assert reasons[-1] == "stop"
        assert not any(reasons[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == tokens
    assert len({chunk.id for chunk in chunks}) == 1
    assert parrot.opened == parrot.closed == 3


@pytest.mark.parametrize("stop", ["é", "世", "界 S", "ïve café 世"])
async def test_a_stop_sequence_of_split_characters_ends_a_stream(serve, stop) -> None:
    api = client(await serve())
    stream = await api.chat.completions.create(
        model="mixture", messages=[HELLO], temperature=0, stop=stop, stream=True
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "\ufffd" not in text
    assert TINY_TEXT.endswith(text + TINY_TEXT[TINY_TEXT.index(stop) :])
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_key_needs_its_scheme_in_any_case(serve) -> None:
    url = await serve(api_keys=["secret"])
    async with aiohttp.ClientSession() as http:
        for header, status in {
            "Bearer secret": 200,
            "bearer  secret ": 200,
            "secret": 401,
            "Basic secret": 401,
            "Bearer": 401,
            "Bearer secret2": 401,
            "": 401,
        }.items():
            headers = {"Authorization": header}
            async with http.get(f"{url}/v1/models", headers=headers) as response:
                assert response.status == status
                assert ("WWW-Authenticate" in response.headers) == (status == 401)


async def test_a_wrong_method_is_told_the_right_one(serve) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{await serve()}/v1/completions") as r:
        assert (r.status, r.headers["Allow"]) == (405, "POST")
        assert (await r.json())["error"]["code"] == "method_not_allowed"


async def test_an_unforeseen_failure_is_a_500_that_clients_can_parse(serve, parrot) -> None:
    parrot.failure, parrot.fail_after = RuntimeError("a bug"), 0
    api = client(await serve())
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            await api.completions.create(model="mixture", prompt="the", stream=stream)
        assert caught.value.code == "internal_error"
        assert "bug" not in caught.value.message
    assert parrot.opened == parrot.closed


async def raw(url: str, head: str):
    """A connection that has sent a request's beginning."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.replace("\n", "\r\n").encode())
    await writer.drain()
    return reader, writer


async def test_a_body_that_trickles_is_given_up(serve, monkeypatch) -> None:
    monkeypatch.setattr(door, "BODY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(door, "MAX_READING_BYTES", 400)
    url = await serve()
    reader, writer = await raw(
        url, "POST /v1/completions HTTP/1.1\nHost: x\nContent-Length: 100\n\n{"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 408 " in head.splitlines()[0]
    writer.close()
    # What it took is free again, and more than there is would be refused.
    body = {"model": "mixture", "prompt": "the"}
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/completions", json=body) as response:
            assert response.status == 200
        async with http.post(f"{url}/v1/completions", data=b" " * 101) as response:
            assert response.status == 429


async def test_lengths_that_are_claimed_and_never_come_take_nothing_from_anybody(serve) -> None:
    url = await serve()
    head = f"POST /v1/completions HTTP/1.1\nHost: x\nContent-Length: {door.MAX_BODY_BYTES}\n\n"
    silent = [await raw(url, head) for _ in range(64)]
    answer = await client(url).completions.create(model="mixture", prompt="the", max_tokens=1)
    assert answer.choices
    for _, writer in silent:
        writer.close()


async def test_a_body_that_is_too_large_is_refused_claimed_or_not(serve, monkeypatch) -> None:
    monkeypatch.setattr(door, "MAX_BODY_BYTES", 100)
    url = await serve()

    async def chunks():
        for _ in range(20):
            yield b" " * 10

    async with aiohttp.ClientSession() as http:
        for data in (b" " * 101, chunks()):
            async with http.post(f"{url}/v1/completions", data=data) as response:
                assert response.status == 413
                assert (await response.json())["error"]["code"] == "request_too_large"


async def test_a_reader_that_takes_nothing_loses_its_stream(serve, parrot, monkeypatch) -> None:
    write, written = web.StreamResponse.write, []

    async def full(response: web.StreamResponse, data: bytes) -> None:
        written.append(data)
        await (write(response, data) if len(written) < 3 else asyncio.Event().wait())

    monkeypatch.setattr(web.StreamResponse, "write", full)
    monkeypatch.setattr(answering, "WRITE_TIMEOUT_S", 0.05)
    url = await serve(max_running=1)
    body = {"model": "mixture", "prompt": "the", "max_tokens": 60, "stream": True}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/completions", json=body) as r:
        with pytest.raises(aiohttp.ClientError):
            await r.read()
    assert parrot.opened == parrot.closed == 1
    assert len(written) == 3


async def test_a_choice_takes_a_place_and_a_large_request_takes_all(serve, parrot) -> None:
    parrot.pause_s = 600.0
    url = await serve(max_running=8)
    api = client(url)

    async def status(n: int, prompts: int = 1) -> int:
        try:
            await api.completions.create(
                model="mixture", prompt=["the"] * prompts, n=n, max_tokens=8, temperature=0
            )
        except openai.RateLimitError:
            return 429
        return 200

    async def until_open(count: int) -> None:
        for _ in range(1_000):
            if parrot.opened - parrot.closed == count:
                return
            await asyncio.sleep(0.01)

    five = asyncio.create_task(status(5))
    await until_open(5)
    assert await status(4) == 429
    parrot.pause_s = 0.0
    assert await status(3) == 200
    five.cancel()
    await until_open(0)
    assert await status(8, prompts=4) == 200


async def test_a_thousand_callers_at_once_are_served_or_told_to_come_back(serve, parrot) -> None:
    parrot.pause_s = 0.01
    url = await serve()
    body = {"model": "mixture", "prompt": "the", "max_tokens": 4}

    async def call(http: aiohttp.ClientSession) -> int:
        async with http.post(f"{url}/v1/completions", json=body) as response:
            answer = await response.json()
            assert ("choices" in answer) == (response.status == 200)
            assert response.status == 200 or response.headers["Retry-After"] == "1"
            return response.status

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        statuses = await asyncio.gather(*(call(http) for _ in range(1_000)))
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 64
        assert await call(http) == 200
    assert parrot.opened == parrot.closed == statuses.count(200) + 1


async def test_a_caller_that_leaves_in_the_middle_of_its_body_leaves_nothing(serve, parrot) -> None:
    url = await serve(max_running=1)
    for _ in range(3):
        _, writer = await raw(
            url, "POST /v1/completions HTTP/1.1\nHost: x\nContent-Length: 100\n\n{"
        )
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    answer = await client(url).completions.create(model="mixture", prompt="the", max_tokens=1)
    assert answer.choices
    assert parrot.opened == 1


async def test_a_router_that_stops_takes_nothing_new_and_finishes_what_it_began(
    spec, parrot
) -> None:
    parrot.pause_s = 0.02
    service = Service(spec, {"mixture": parrot})
    listening = await listen(build_app(lambda: service), "127.0.0.1", 0, grace_s=60.0)
    url = f"http://127.0.0.1:{listening.port}"
    stream = await client(url).completions.create(
        model="mixture", prompt="the quick", max_tokens=20, temperature=0, stream=True
    )
    chunks = [await anext(stream)]
    stopping = asyncio.create_task(listening.close())
    refused = False
    while not refused:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", listening.port)
            writer.close()
        except ConnectionError:
            refused = True
    chunks += [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "length"
    await stopping
    assert parrot.opened == parrot.closed


async def test_models_without_a_chat_template_refuse_conversations_and_name_what_works(serve):
    url = await serve(says={"chat_template": ""})
    mine = client(url)
    said = [{"role": "user", "content": "the quick"}]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    attempts = {
        "messages": mine.chat.completions.create(model="mixture", messages=said),
        "messages with tools": mine.chat.completions.create(
            model="mixture", messages=said, tools=[tool]
        ),
        "input": mine.responses.create(model="mixture", input="the quick"),
    }
    for asked, attempt in attempts.items():
        with pytest.raises(openai.BadRequestError, match="at /v1/completions") as refused:
            await attempt
        assert refused.value.code == "no_chat_template"
        assert refused.value.param == asked.split()[0]
    answer = await mine.completions.create(model="mixture", prompt="the quick", max_tokens=2)
    assert answer.choices[0].text
    assert not (await mine.models.list()).data[0].chats
