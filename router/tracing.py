"""A span for every request, by OpenTelemetry's conventions for generative AI (extra `otel`).

Tokens, models and durations; never text, keys or callers, and nothing is passed on to experts.
Where spans go is said by OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT;
without one nothing is traced.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from moesubnet.errors import ConfigError
from moesubnet.router.ledger import Usage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

ENDPOINTS = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
OPERATIONS = {  # by path, as gen_ai.operation.name has them
    "/v1/completions": "text_completion",
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
}
SPAN: web.RequestKey[Span] = web.RequestKey("span")


def open_provider(environment: Mapping[str, str] = os.environ) -> TracerProvider | None:
    """What makes spans and sends them on, if the environment says where to. `shutdown()` sends
    the last ones. Raises ConfigError where the extra is missing."""
    if not any(environment.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"{' or '.join(ENDPOINTS)} is set, and tracing needs the extra: "
            "pip install 'moesubnet[otel]'"
        ) from error
    named = Resource.create(
        {"service.name": environment.get("OTEL_SERVICE_NAME") or "moesubnet-router"}
    )
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def traced(provider: TracerProvider) -> Middleware:
    """Spans around what is asked for, continuing the caller's trace (`traceparent`)."""
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer, propagator = provider.get_tracer("moesubnet.router"), TraceContextTextMapPropagator()

    @web.middleware
    async def trace(request: web.Request, handler: Handler) -> web.StreamResponse:
        operation = OPERATIONS.get(request.path)
        if operation is None or request.method != "POST":
            return await handler(request)
        fixed = {"gen_ai.operation.name": operation, "gen_ai.provider.name": "moesubnet"}
        context = propagator.extract(request.headers)
        with tracer.start_as_current_span(
            operation, context=context, kind=SpanKind.SERVER, attributes=fixed
        ) as span:
            request[SPAN] = span
            response = await handler(request)
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= 400:
                span.set_attribute("error.type", str(response.status))
                span.set_status(Status(StatusCode.ERROR))
            return response

    return trace


def describe(request: web.Request, used: Usage) -> None:
    """Say on a request's span what it used."""
    span = request.get(SPAN)
    if span is not None:
        operation = OPERATIONS[request.path]
        span.update_name(f"{operation} {used.model}")
        span.set_attribute("gen_ai.request.model", used.model)
        span.set_attribute("gen_ai.usage.input_tokens", used.prompt_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", used.completion_tokens)
        span.set_attribute("moesubnet.experts", len(used.owed or {}))


def note_first_token(request: web.Request) -> None:
    span = request.get(SPAN)
    if span is not None:
        span.add_event("first token")
