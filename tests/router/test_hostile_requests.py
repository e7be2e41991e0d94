"""Requests that are made to take long or to fail: each a typed refusal, and nobody waits for it."""

from __future__ import annotations

import json
import threading

import aiohttp
import pytest

from moesubnet.spec.prompt import PromptEncoder

ASKED = [{"role": "user", "content": "the"}]


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


def of_schema(schema: str) -> tuple[str, str]:
    form = '{"type": "json_schema", "json_schema": {"name": "x", "schema": HERE}}'
    return chat_with("response_format", form.replace("HERE", schema))


def chat_with(name: str, value: str) -> tuple[str, str]:
    """value: as JSON, of whatever kind."""
    return "chat/completions", chat()[1].removesuffix("}") + f', "{name}": {value}}}'


def calls(arguments: str, count: int = 1) -> list[dict[str, object]]:
    called = {"id": "a", "function": {"name": "f", "arguments": arguments}}
    return [*ASKED, {"role": "assistant", "tool_calls": [called] * count}]


def chat(**said: object) -> tuple[str, str]:
    return "chat/completions", json.dumps({"model": "mixture", "messages": ASKED} | said)


def completion(**said: object) -> tuple[str, str]:
    return "completions", json.dumps({"model": "mixture", "prompt": "the"} | said)


def respond(given: object) -> tuple[str, str]:
    return "responses", json.dumps({"model": "mixture", "input": given})


CALL = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
HOSTILE = {
    "deep JSON": chat_with("metadata", nested(1_000_000)),
    "deep schema": of_schema('{"items": ' + nested(190) + "}"),
    "deep items": of_schema('{"items": ' * 190 + "{}" + "}" * 190),
    "deep arguments": chat(messages=calls(nested(1_000_000))),
    "arguments are a list": chat(messages=calls("[1]")),
    "a multiple of true": of_schema('{"type": "number", "multipleOf": true}'),
    "a multiple of infinity": of_schema('{"type": "number", "multipleOf": 1e400}'),
    "a number of a million digits": of_schema('{"maximum": ' + "9" * 1_000_000 + "}"),
    "a seed of a million digits": chat_with("seed", "9" * 1_000_000),
    "many choices": completion(n=10**9),
    "many choices of many prompts": completion(prompt=["the"] * 32, n=8),
    "many biases": completion(logit_bias={str(token_id): 1 for token_id in range(100_000)}),
    "long stops": completion(stop=["x" * 10_000] * 4),
    "many stops": completion(stop=["x"] * 10_000),
    "endless": completion(max_tokens=2**52),
    "many calls at once": chat(messages=calls("{}", 200)),
    "many calls at once, as items": respond([CALL] * 1_000),
    "many variables": chat(chat_template_kwargs={f"a{i}": i for i in range(1_000)}),
    "a long variable": chat(chat_template_kwargs={"a": "x" * 1_000_000}),
    "the template itself": chat(chat_template_kwargs={"chat_template": "{{ 1 }}"}),
    "how it is rendered": chat(chat_template_kwargs={"continue_final_message": True}),
}


@pytest.mark.parametrize(("path", "body"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_it_is_refused_by_what_is_wrong_with_it(serve, path, body) -> None:
    url = await serve(says={"context_tokens": 4_096})
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/{path}", data=body) as response,
    ):
        said = json.loads(await response.text())["error"]
    assert response.status == 400, said
    assert said["type"] == "invalid_request_error"
    assert len(said["message"]) < 1_000


@pytest.mark.parametrize("where", ["content", "reasoning_content", "name", "arguments"])
async def test_a_long_conversation_is_not_read_by_whoever_serves_the_others(
    serve, monkeypatch, where
) -> None:
    """Wherever in a message the text stands."""
    readers, chat_ = [], PromptEncoder.chat

    def noted(self: PromptEncoder, *args: object, **options: object) -> object:
        readers.append(threading.current_thread())
        return chat_(self, *args, **options)

    monkeypatch.setattr(PromptEncoder, "chat", noted)
    url, text = await serve(says={"context_tokens": 4_096}), "a b " * 1_000
    message = {"role": "assistant", "content": "a", where: text}
    if where == "arguments":
        [_, message] = calls(json.dumps({"a": text}))
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/chat/completions", data=chat(messages=[*ASKED, message])[1]) as got,
    ):
        assert got.status == 200, await got.text()
    [reader] = readers
    assert reader is not threading.main_thread()
