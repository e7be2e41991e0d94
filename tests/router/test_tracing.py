"""Spans of requests as a collector gets them, over real sockets."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from moesubnet.errors import ConfigError
from moesubnet.router import tracing
from moesubnet.wire.listening import serve as listen

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SECRET = "words that nobody should find"


@pytest.fixture
async def collector(monkeypatch):
    """A collector's spans so far; the environment names it."""
    spans = []

    async def take(request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            assert names["service.name"] == "moesubnet-router"
            spans.extend(span for scope in resource.scope_spans for span in scope.spans)
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    server = await listen(app, "127.0.0.1", 0, grace_s=1.0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.port}")
    yield spans
    await server.close()


def said(span) -> dict[str, object]:
    return {
        a.key: a.value.int_value if a.value.HasField("int_value") else a.value.string_value
        for a in span.attributes
    }


async def test_a_collector_gets_tokens_and_models_and_never_text(serve, collector) -> None:
    provider = tracing.open_provider()
    url = await serve(tracing=provider)
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    async with aiohttp.ClientSession(headers=headers) as http:
        for path, body in (
            ("completions", {"prompt": SECRET, "max_tokens": 3}),
            ("completions", {"prompt": SECRET, "max_tokens": 3, "stream": True}),
            ("chat/completions", {"messages": [{"role": "user", "content": SECRET}], "n": 99}),
        ):
            body |= {"model": "mixture", "user": SECRET}
            async with http.post(f"{url}/v1/{path}", json=body) as response:
                await response.read()
        async with http.get(f"{url}/v1/models") as response:
            await response.read()
    await asyncio.to_thread(provider.shutdown)

    whole, stream, refused = collector
    for span in (whole, stream):
        assert span.name == "text_completion mixture"
        attributes = said(span)
        assert attributes["gen_ai.request.model"] == "mixture"
        assert attributes["gen_ai.usage.output_tokens"] == 3
        assert attributes["gen_ai.usage.input_tokens"] > 0
        assert attributes["http.response.status_code"] == 200
        assert span.trace_id.hex() == TRACE
    assert [event.name for event in stream.events] == ["first token"]
    assert said(refused)["error.type"] == "400"
    assert refused.name == "chat"
    assert SECRET not in str(collector)


def test_without_an_endpoint_nothing_is_traced_and_a_missing_extra_is_said(monkeypatch) -> None:
    assert tracing.open_provider({}) is None
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"moesubnet\[otel\]"):
        tracing.open_provider({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
