"""Python clients, unmodified, run by their own interpreter: `… openai|langchain|litellm URL`.

Each prints one JSON object of what it made of the router's answers.
"""

import json
import sys
from typing import Literal

from pydantic import BaseModel

client, url = sys.argv[1:]
BASE = f"{url}/v1"


class City(BaseModel):
    """Where it is."""

    name: Literal["Oslo", "Rome"]
    population: int


class GetWeather(BaseModel):
    """The weather of a city."""

    city: Literal["Oslo", "Rome"]


def openai() -> dict[str, object]:
    from openai import OpenAI, pydantic_function_tool

    api = OpenAI(base_url=BASE, api_key="any", max_retries=0)
    fixed = {"model": "mixture", "temperature": 0}
    tools = [pydantic_function_tool(GetWeather, name="get_weather")]

    def said(text: str) -> list[dict[str, object]]:
        return [{"role": "user", "content": text}]

    hello = api.chat.completions.create(**fixed, messages=said("hello"))
    chunks = list(api.chat.completions.create(**fixed, messages=said("hello"), stream=True))
    asked = api.chat.completions.parse(**fixed, messages=said("weather?"), tools=tools)
    message = asked.choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "it rains in Oslo"}
    history = [*said("weather?"), message, result]
    with api.chat.completions.stream(**fixed, messages=said("weather?"), tools=tools) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls[0].function
    parsed = api.chat.completions.parse(**fixed, messages=said("json"), response_format=City)
    again = [*said("json"), parsed.choices[0].message, *said("hello")]
    response = api.responses.create(**fixed, input="hello")
    with api.responses.stream(**fixed, input="hello") as events:
        last = events.get_final_response()
    weather = {"type": "function", "name": "get_weather", "strict": True}
    weather["parameters"] = tools[0]["function"]["parameters"]
    items = api.responses.create(**fixed, input="weather?", tools=[weather]).output
    (item,) = [one for one in items if one.type == "function_call"]
    result = {"type": "function_call_output", "call_id": item.call_id, "output": "it rains in Oslo"}
    talk = [*said("weather?"), item.model_dump(exclude_none=True), result]
    return {
        "hello": hello.choices[0].message.content,
        "tokens": hello.usage.completion_tokens,
        "streamed": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
        "called": [[call.function.name, call.function.parsed_arguments.model_dump()]],
        "streamed call": [[streamed.name, streamed.parsed_arguments.model_dump()]],
        "after": api.chat.completions.create(**fixed, messages=history, tools=tools)
        .choices[0]
        .message.content,
        "city": parsed.choices[0].message.parsed.model_dump(),
        "city again": api.chat.completions.parse(**fixed, messages=again, response_format=City)
        .choices[0]
        .message.parsed.model_dump(),
        "parsed response": api.responses.parse(
            **fixed, input="json", text_format=City
        ).output_parsed.model_dump(),
        "responses": response.output_text,
        "streamed response": last.output_text,
        "after a response": api.responses.create(**fixed, input=talk, tools=[weather]).output_text,
        "completed": api.completions.create(**fixed, prompt="hello", max_tokens=4).choices[0].text,
    }


def langchain() -> dict[str, object]:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI, OpenAI

    @tool
    def get_weather(city: Literal["Oslo", "Rome"]) -> str:
        """The weather of a city."""
        return f"it rains in {city}"

    model = ChatOpenAI(model="mixture", base_url=BASE, api_key="any", temperature=0, max_retries=0)
    hello = model.invoke("hello")
    talk = [HumanMessage("weather?")]
    talk.append(model.bind_tools([get_weather]).invoke(talk))
    for call in talk[-1].tool_calls:
        talk.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]))
    pieces = model.bind_tools([get_weather]).stream("weather?")
    joined = next(pieces)
    for piece in pieces:
        joined += piece
    legacy = OpenAI(model="mixture", base_url=BASE, api_key="any", temperature=0, max_tokens=4)
    return {
        "hello": hello.content,
        "tokens": hello.usage_metadata["output_tokens"],
        "streamed": "".join(piece.content for piece in model.stream("hello")),
        "called": [[call["name"], call["args"]] for call in talk[1].tool_calls],
        "streamed call": [[call["name"], call["args"]] for call in joined.tool_calls],
        "after": model.bind_tools([get_weather]).invoke(talk).content,
        "city": model.with_structured_output(City, method="json_schema")
        .invoke("json")
        .model_dump(),
        "by a call": model.with_structured_output(City, method="function_calling")
        .invoke("json")
        .model_dump(),
        "responses": ChatOpenAI(
            model="mixture", base_url=BASE, api_key="any", temperature=0, use_responses_api=True
        )
        .invoke("hello")
        .text,
        "completed": legacy.invoke("hello"),
    }


def litellm() -> dict[str, object]:
    import litellm

    weather = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
                "required": ["city"],
            },
        },
    }
    fixed = {"model": "openai/mixture", "api_base": BASE, "api_key": "any", "temperature": 0}

    def ask(text: str, **options: object):
        messages = [{"role": "user", "content": text}]
        return litellm.completion(**fixed, **({"messages": messages} | options))

    hello = ask("hello")
    asked = ask("weather?", tools=[weather]).choices[0].message
    call = asked.tool_calls[0]
    said = {"role": "tool", "tool_call_id": call.id, "content": "it rains in Oslo"}
    history = [{"role": "user", "content": "weather?"}, asked.model_dump(), said]
    chunks = list(ask("weather?", tools=[weather], stream=True))
    rebuilt = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls[0]
    return {
        "hello": hello.choices[0].message.content,
        "tokens": hello.usage.completion_tokens,
        "streamed": "".join(
            chunk.choices[0].delta.content or "" for chunk in ask("hello", stream=True)
        ),
        "called": [[call.function.name, json.loads(call.function.arguments)]],
        "streamed call": [[rebuilt.function.name, json.loads(rebuilt.function.arguments)]],
        "after": ask("", messages=history, tools=[weather]).choices[0].message.content,
        "city": json.loads(ask("json", response_format=City).choices[0].message.content),
        "responses": litellm.responses(input="hello", **fixed).output[0].content[0].text,
        "completed": litellm.text_completion(
            prompt="hello", max_tokens=4, **(fixed | {"model": "text-completion-openai/mixture"})
        )
        .choices[0]
        .text,
    }


print(json.dumps({"openai": openai, "langchain": langchain, "litellm": litellm}[client]()))
