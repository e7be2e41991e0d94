"""`/v1/responses`, no-op options and pages from elsewhere, by the official client and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import openai
import pytest

from moesubnet.errors import NobodyAnswers
from tests.router.conftest import ParrotModel, client

Serve = Callable[..., Any]
PAGE = "https://app.example"


async def test_a_response_is_written_whole(serve: Serve) -> None:
    url = await serve()
    answer = await client(url).responses.create(
        model="mixture", input="the quick brown", max_output_tokens=4, metadata={"a": "b"}
    )
    assert answer.output_text
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage.output_tokens == 4
    assert answer.usage.total_tokens == answer.usage.input_tokens + 4
    assert answer.metadata == {"a": "b"}
    assert answer.store is False


async def test_a_response_streams_typed_events_that_add_up(serve: Serve) -> None:
    url = await serve()
    stream = await client(url).responses.create(
        model="mixture", input="the quick brown", max_output_tokens=6, stream=True
    )
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] == "response.incomplete"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    final = events[-1].response
    assert final.output_text == text != ""
    assert final.usage.output_tokens == 6


async def test_a_conversation_may_be_sent_back_as_it_came(serve: Serve) -> None:
    url = await serve()
    first = await client(url).responses.create(
        model="mixture", input="the quick", instructions="be brief", max_output_tokens=3
    )
    history: list[Any] = [{"role": "user", "content": "the quick"}]
    history += [item.model_dump(exclude_none=True) for item in first.output]
    history.append({"role": "user", "content": [{"type": "input_text", "text": "and"}]})
    second = await client(url).responses.create(
        model="mixture", input=history, instructions="be brief", max_output_tokens=2
    )
    assert second.usage.input_tokens > first.usage.input_tokens


async def test_what_a_response_cannot_be_is_refused_by_name(serve: Serve) -> None:
    url = await serve()
    for option, value in [
        ("previous_response_id", "resp_1"),
        ("tools", [{"type": "web_search"}]),
        ("background", True),
        ("reasoning", {"effort": "high"}),
    ]:
        with pytest.raises(openai.BadRequestError) as refused:
            await client(url).responses.create(model="mixture", input="the", **{option: value})
        assert option in refused.value.body["param"]


async def test_a_failure_in_the_middle_ends_a_response_as_failed(
    serve: Serve, parrot: ParrotModel
) -> None:
    url = await serve()
    parrot.fail_after, parrot.failure = 12, NobodyAnswers()
    stream = await client(url).responses.create(
        model="mixture", input="the quick", max_output_tokens=40, stream=True
    )
    events = [event async for event in stream]
    assert events[-1].type == "response.failed"
    assert "retry" in events[-1].response.error.message


async def test_options_without_effect_are_taken(serve: Serve) -> None:
    url = await serve()
    answer = await client(url).chat.completions.create(
        model="mixture",
        messages=[{"role": "user", "content": "the"}],
        max_tokens=2,
        metadata={"team": "red"},
        store=False,
        user="u",
        service_tier="auto",
    )
    assert answer.choices[0].finish_reason == "length"


async def post(url: str, **headers: str) -> tuple[int, dict[str, str]]:
    body = b'{"model": "mixture", "prompt": "the", "max_tokens": 1}'
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/completions", data=body, headers=headers) as answer,
    ):
        return answer.status, dict(answer.headers)


async def test_a_page_from_elsewhere_may_call_only_where_that_was_allowed(serve: Serve) -> None:
    closed, opened = await serve(), await serve(origins=[PAGE])
    assert (await post(closed, Origin=PAGE))[0] == 403
    status, headers = await post(opened, Origin=PAGE)
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, PAGE)
    assert "x-ratelimit-remaining-requests" in headers["Access-Control-Expose-Headers"]
    assert (await post(opened, Origin="https://other.example"))[0] == 403
    assert (await post(closed, Origin="http://[x"))[0] == 403
    assert (await post(closed, Origin="http://localhost:3000"))[0] == 200
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    async with (
        aiohttp.ClientSession() as http,
        http.options(f"{opened}/v1/completions", headers=asked) as answer,
    ):
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Headers"] == "authorization"


async def test_a_name_made_to_point_here_needs_a_key(serve: Serve) -> None:
    rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert (await post(await serve(), **rebound))[0] == 403
    keyed = await serve(api_keys=["secret"])
    assert (await post(keyed, **rebound, Authorization="Bearer secret"))[0] == 200
    assert (await post(keyed, **rebound, Authorization="Bearer guess"))[0] == 401
