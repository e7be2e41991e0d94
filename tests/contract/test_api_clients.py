"""Clients that apps are built with, unmodified: text, streams, tools and back, structured answers,
`/v1/responses` and completions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.contract.environments import node_with, python_with, run
from tests.router.test_tools import FAMILIES, start  # noqa: F401  # the fixture

# ruff: noqa: F811

HERE = Path(__file__).parent
PYTHON = {
    "openai": ["openai==3.57.0"],
    "langchain": ["langchain-openai==1.7.4", "litellm==1.110.2"],
    "litellm": ["langchain-openai==1.7.4", "litellm==1.110.2"],
}
NODE = (
    "openai@6.49.0",
    "ai@6.0.326",
    "@ai-sdk/openai-compatible@2.0.92",
    "@ai-sdk/openai@3.0.141",
    "zod@4.6.7",
)
CITY = {"name": "Rome", "population": 7}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def reply(prompt: str) -> str:
    """What the model behind the router writes."""
    if "it rains in Oslo" in prompt:
        return "Take a coat."
    if '"City"' in prompt:  # a tool by which a client asks for an object
        return CALL.replace("get_weather", "City").replace('{"city": "Oslo"}', json.dumps(CITY))
    if "get_weather" in prompt:
        return CALL
    return json.dumps(CITY) if "json" in prompt else "Hello there."


@pytest.fixture
async def url(start) -> str:
    api, script = await start(FAMILIES["chatml"][0])
    script.reply = reply
    return str(api.base_url).rstrip("/").removesuffix("/v1")


def check(found: dict[str, object]) -> None:
    assert found["hello"] == found["streamed"] == found["responses"] == "Hello there."
    assert found["tokens"] > 3
    call = [["get_weather", {"city": "Oslo"}]]
    assert found["called"] == found["streamed call"] == call
    assert found["after"] == "Take a coat."
    assert found["city"] == CITY
    assert "Hello there.".startswith(found["completed"])
    assert found["completed"]
    for more, expected in (
        ("by a call", CITY),
        ("city again", CITY),
        ("parsed response", CITY),
        ("streamed response", "Hello there."),
        ("after a response", "Take a coat."),
    ):
        assert found.get(more, expected) == expected


@pytest.mark.parametrize("client", PYTHON)
async def test_python_clients(url: str, tmp_path: Path, client: str) -> None:
    python = python_with(*PYTHON[client])
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}
    out = await run(python, HERE / "client_journeys.py", client, url, cwd=tmp_path, env=offline)
    check(json.loads(out.splitlines()[-1]))


@pytest.mark.parametrize("client", ["openai", "ai"])
async def test_javascript_clients(url: str, client: str) -> None:
    library = node_with(*NODE)
    shutil.copy(HERE / "client_journeys.mjs", library)  # imports are looked up from its folder
    out = await run("node", "client_journeys.mjs", client, url, cwd=library)
    check(json.loads(out.splitlines()[-1]))
