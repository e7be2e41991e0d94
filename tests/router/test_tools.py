"""Tools and reasoning, through the official client, over every kind of family."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import openai
import pytest

from moesubnet.mixture.law import Law, alone
from moesubnet.router.app import build_app
from moesubnet.router.model import Forecast
from moesubnet.router.service import Service
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.listening import serve as listen
from moesubnet.wire.protocol import Proof
from tests.families import Family, families
from tests.spec.test_calls import MISTRAL

from .conftest import client

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
STOP = {"name": "stop"}
TOOLS = [{"type": "function", "function": tool} for tool in (WEATHER, STOP)]
ASKED = [{"role": "user", "content": "the weather?"}]


class Script:
    """A model that would write `says` and then end, and keeps the prompts that it was given. Where
    it may not, it writes whatever it may: its laws list every token."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.says = ""
        self.reply: Callable[[str], str] | None = None  # what it would write after a prompt
        self.prompts: list[str] = []

    def open(self) -> ScriptSession:
        return ScriptSession(self)

    def dearest_rao_per_mtoken(self) -> int:
        return 0

    def table(self) -> list[dict[str, object]]:
        return [{"serving": True, "hotkey": "script"}]


class ScriptSession:
    waited_s = 0.0

    def __init__(self, model: Script, at: int = 0) -> None:
        self.model, self.at = model, at
        tokenizer = model.family.tokenizer
        self.ids = tokenizer.encode(model.says, add_special_tokens=False).ids

    def forecast(self) -> Forecast:
        size = self.model.family.spec.vocab_size
        rng = np.random.default_rng(self.at)
        p = rng.dirichlet(np.full(size, 0.1)) * 1e-3 + 1e-9
        end = self.model.family.tokenizer.token_to_id(self.model.family.stops[0])
        p[self.ids[self.at] if self.at < len(self.ids) else end] += 1.0
        return Forecast(alone(Law(np.log(p / p.sum()))), {"script": 1.0})

    async def start(self, prompt_ids: np.ndarray, drawing: object) -> Forecast:
        ids = prompt_ids.tolist()
        tokenizer, reply = self.model.family.tokenizer, self.model.reply
        self.model.prompts.append(tokenizer.decode(ids, skip_special_tokens=False))
        if reply is not None:
            says = reply(self.model.prompts[-1])
            self.ids = tokenizer.encode(says, add_special_tokens=False).ids
        return self.forecast()

    async def append(self, token_id: int, drawing: object) -> Forecast:
        self.at += 1
        return self.forecast()

    def fork(self) -> ScriptSession:
        return ScriptSession(self.model, self.at)

    def proofs(self) -> dict[str, Proof]:
        return {}

    def answered(self) -> dict[str, tuple[int, int]]:
        return {}

    def close(self, *, is_over: bool = False) -> None:
        pass


@pytest.fixture
async def start(tmp_path):
    """`start(family)` → (official client, the script behind it)."""
    servers = []

    async def started(family: Family) -> tuple[openai.AsyncOpenAI, Script]:
        family.tokenizer.save(str(tmp_path / "tokenizer.json"))
        said = family.spec
        spec = said.model_copy(
            update={
                "tokenizer": said.tokenizer.model_copy(update={"path": "tokenizer.json"}),
                "context_tokens": 4096,
            }
        )
        script = Script(family)
        service = Service(LoadedSpec(tmp_path, "0" * 64, spec), {"mixture": script})
        servers.append(await listen(build_app(lambda: service), "127.0.0.1", 0, grace_s=1.0))
        return client(f"http://127.0.0.1:{servers[-1].port}"), script

    yield started
    for server in servers:
        await server.close()


def mistral() -> Family:
    plain = families()["inst tokens"]
    tokenizer = type(plain.tokenizer).from_str(plain.tokenizer.to_str())
    tokenizer.add_special_tokens(["[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"])
    return replace(plain, name="mistral", template=MISTRAL, tokenizer=tokenizer)


FAMILIES = {
    "chatml": (
        families()["chatml"],
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
    ),
    "headers": (
        families()["headers"],
        '{"name": "get_weather", "arguments": {"city": "Oslo"}}',
    ),
    "mistral": (
        mistral(),
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}, "id": "abc123DEF"}]',
    ),
}
each_family = pytest.mark.parametrize(("family", "call"), FAMILIES.values(), ids=FAMILIES.keys())


def ask(api, **options):
    return api.chat.completions.create(
        model="mixture", messages=ASKED, tools=TOOLS, temperature=0, **options
    )


@each_family
async def test_a_call_is_read_and_its_answer_goes_back_in_the_familys_own_way(
    start, family, call
) -> None:
    api, script = await start(family)
    script.says = call
    answer = await ask(api)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [made] = choice.message.tool_calls
    assert (made.type, made.function.name) == ("function", "get_weather")
    assert json.loads(made.function.arguments) == {"city": "Oslo"}
    assert "The weather of a city." in script.prompts[0] or family.name == "mistral"

    script.says = "Rain."
    history = [
        *ASKED,
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": made.id, "content": "it rains"},
    ]
    answer = await api.chat.completions.create(
        model="mixture", messages=history, tools=TOOLS, temperature=0
    )
    assert answer.choices[0].message.content == "Rain."
    assert answer.choices[0].finish_reason == "stop"
    own = call.replace("abc123DEF", made.id)
    assert own.lstrip() in script.prompts[1]
    assert "it rains" in script.prompts[1]


@each_family
async def test_a_streamed_call_comes_as_openai_sends_it(start, family, call) -> None:
    api, script = await start(family)
    script.says = call
    stream = await ask(api, stream=True, logprobs=True)
    deltas, finishes = [], []
    async for chunk in stream:
        [choice] = chunk.choices
        deltas.append(choice.delta)
        finishes.append(choice.finish_reason)
    assert finishes[-1] == "tool_calls"
    assert set(finishes[:-1]) == {None}
    assert "".join(delta.content or "" for delta in deltas) == ""
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert (calls[0].id, calls[0].function.name, calls[0].function.arguments) == (
        calls[0].id or "missing",
        "get_weather",
        "",
    )
    assert all(call.index == 0 for call in calls)
    assert all(call.id is None and call.function.name is None for call in calls[1:])
    assert json.loads("".join(call.function.arguments for call in calls)) == {"city": "Oslo"}


@each_family
async def test_with_auto_a_model_may_decline(start, family, call) -> None:
    api, script = await start(family)
    for says in ("It rains.", "I see: <b>{}</b> and no call."):
        script.says = says
        answer = await ask(api)
        assert answer.choices[0].message.content == says
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].finish_reason == "stop"


@each_family
@pytest.mark.parametrize("seed", range(3))
async def test_whoever_must_call_calls_whatever_it_would_say(start, family, call, seed) -> None:
    api, script = await start(family)
    script.says = "It rains and I will call nobody."
    options = {"temperature": 1.5, "seed": seed, "max_tokens": 400}
    answer = await api.chat.completions.create(
        model="mixture", messages=ASKED, tools=TOOLS, tool_choice="required", **options
    )
    named = await api.chat.completions.create(
        model="mixture",
        messages=ASKED,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "stop"}},
        **options,
    )
    for choice in (answer.choices[0], named.choices[0]):
        if choice.finish_reason == "length":
            continue
        assert choice.message.tool_calls
        for made in choice.message.tool_calls:
            arguments = json.loads(made.function.arguments)
            if made.function.name == "get_weather":
                assert arguments["city"] in ("Oslo", "Rome")
            else:
                assert arguments == {}
    assert [made.function.name for made in named.choices[0].message.tool_calls] == ["stop"]


@each_family
async def test_with_auto_a_begun_call_is_always_a_whole_one(start, family, call) -> None:
    """The script calls a tool that is not there, with arguments that are not its own."""
    api, script = await start(family)
    script.says = call.replace("get_weather", "launch_rockets").replace("Oslo", "Mars")
    answer = await ask(api, max_tokens=400)
    [choice] = answer.choices
    if choice.finish_reason != "length":
        for made in choice.message.tool_calls:
            assert made.function.name in ("get_weather", "stop")
            json.loads(made.function.arguments)


async def test_two_calls_at_once_where_the_family_has_them(start) -> None:
    family, call = FAMILIES["chatml"]
    api, script = await start(family)
    script.says = "Both: " + call + '\n<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'
    answer = await ask(api)
    message = answer.choices[0].message
    assert message.content == "Both:"
    assert [made.function.name for made in message.tool_calls] == ["get_weather", "stop"]
    one = await ask(api, parallel_tool_calls=False)
    assert len(one.choices[0].message.tool_calls) == 1
    none = await ask(api, tool_choice="none")
    assert none.choices[0].message.tool_calls is None
    assert "get_weather" not in script.prompts[-1]


async def test_reasoning_comes_apart_and_goes_back(start) -> None:
    api, script = await start(families()["chatml"])
    script.says = "<think>\nthe sky\n</think>\n\nRain."
    answer = await api.chat.completions.create(model="mixture", messages=ASKED, temperature=0)
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content) == ("Rain.", "the sky")
    stream = await api.chat.completions.create(
        model="mixture", messages=ASKED, temperature=0, stream=True
    )
    deltas = [chunk.choices[0].delta async for chunk in stream]
    assert "".join(d.content or "" for d in deltas) == "Rain."
    thought = "".join((d.model_extra or {}).get("reasoning_content") or "" for d in deltas)
    assert thought == "the sky"
    await api.chat.completions.create(
        model="mixture", messages=[*ASKED, message.model_dump(exclude_none=True), *ASKED]
    )


async def test_a_schema_holds_behind_a_thought_that_the_template_has_begun(start) -> None:
    family = families()["chatml"]
    family = replace(family, template=family.template + "{{ '<think>\\n' }}")
    api, script = await start(family)
    script.says = 'so be it\n</think>\n\n{"a": 7}'
    answer = await api.chat.completions.create(
        model="mixture",
        messages=ASKED,
        temperature=0,
        response_format={"type": "json_object"},
    )
    message = answer.choices[0].message
    assert (message.reasoning_content, json.loads(message.content)) == ("so be it", {"a": 7})


async def test_what_callers_say_to_the_template_is_heard_and_is_no_control_token(start) -> None:
    api, script = await start(families()["chatml"])

    def said(**variables):
        return api.chat.completions.create(
            model="mixture", messages=ASKED, extra_body={"chat_template_kwargs": variables}
        )

    await said(enable_thinking=False)
    assert script.prompts[-1].endswith("<think>\n\n</think>\n\n")
    for wrong in ({"messages": "x"}, {"bos_token": "x"}, {"a b": 1}, {"x": ["list"]}):
        with pytest.raises(openai.BadRequestError) as caught:
            await said(**wrong)
        assert "chat_template_kwargs" in caught.value.param


async def test_a_developer_is_a_system_where_the_template_knows_none(start) -> None:
    api, script = await start(families()["chatml"])
    await api.chat.completions.create(
        model="mixture", messages=[{"role": "developer", "content": "be brief"}, *ASKED]
    )
    assert "<|im_start|>system\nbe brief" in script.prompts[-1]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tools": TOOLS + TOOLS}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}},
            "tool_choice",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "a", "strict": True, "parameters": {"not": {}}},
                    }
                ]
            },
            "tools.0.function.parameters",
        ),
    ],
)
async def test_tools_that_cannot_be_offered_are_refused_by_name(start, options, param) -> None:
    api, _ = await start(families()["chatml"])
    with pytest.raises(openai.BadRequestError) as caught:
        await api.chat.completions.create(model="mixture", messages=ASKED, extra_body=options)
    assert caught.value.param.startswith(param)


async def test_a_tool_whose_schema_is_beyond_the_grammar_takes_any_object(start) -> None:
    api, script = await start(families()["chatml"])
    tool = {"name": "a", "parameters": {"type": "object", "not": {}}}
    script.says = '<tool_call>\n{"name": "a", "arguments": {"x": [1]}}\n</tool_call>'
    answer = await api.chat.completions.create(
        model="mixture",
        messages=ASKED,
        tools=[{"type": "function", "function": tool}],
        temperature=0,
    )
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments) == {"x": [1]}


async def test_a_tool_that_would_end_the_router_is_refused(start) -> None:
    api, _ = await start(families()["chatml"])
    patterns = [{"type": "string", "pattern": f"^.*a.{{{i}}}$"} for i in range(10, 40)]
    heavy = {"type": "function", "function": {"name": "x", "parameters": {"allOf": patterns}}}
    with pytest.raises(openai.BadRequestError) as caught:
        await api.chat.completions.create(model="mixture", messages=ASKED, tools=[*TOOLS, heavy])
    assert (caught.value.code, caught.value.param) == ("grammar_too_complex", "tools")


async def test_a_family_without_calls_refuses_tools_by_name(start) -> None:
    api, _ = await start(families()["inst"])
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(api)
    assert caught.value.param == "tools"


async def test_responses_call_tools_and_take_their_outputs(start) -> None:
    family, call = FAMILIES["chatml"]
    api, script = await start(family)
    script.says = "<think>\nhm\n</think>\n\nLet me see.\n" + call
    tools = [{"type": "function"} | tool for tool in (WEATHER, STOP)]
    first = await api.responses.create(
        model="mixture", input="the weather?", tools=tools, temperature=0
    )
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    made = first.output[2]
    assert (made.name, json.loads(made.arguments)) == ("get_weather", {"city": "Oslo"})
    assert first.output_text == "Let me see."

    stream = await api.responses.create(
        model="mixture", input="the weather?", tools=tools, temperature=0, stream=True
    )
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    [done] = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert "".join(pieces) == done.arguments == made.arguments
    assert [item.type for item in events[-1].response.output] == [i.type for i in first.output]

    script.says = "Rain."
    history = [{"role": "user", "content": "the weather?"}]
    history += [item.model_dump(exclude_none=True) for item in first.output]
    history.append({"type": "function_call_output", "call_id": made.call_id, "output": "it rains"})
    second = await api.responses.create(model="mixture", input=history, tools=tools, temperature=0)
    assert second.output_text == "Rain."
    assert "Let me see.\n" + call in script.prompts[-1]
    assert "it rains" in script.prompts[-1]
