"""How an answer is written down in OpenAI's JSON, whole or in pieces."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

from moesubnet.router import openai_api as api
from moesubnet.router.choices import Choice, Delta
from moesubnet.router.reading import Part


class Shape(Protocol):
    """One endpoint's way of answering one request. Frames are whole server-sent events."""

    @property
    def id(self) -> str:
        """The answer's, as its reader sees it."""
        ...

    def whole(self, choices: Sequence[Choice], prompt_tokens: int) -> api.JsonObject: ...

    def opening(self) -> Iterator[bytes]:
        """Before the first piece, once it is known that there will be one."""
        ...

    def piece(self, index: int, delta: Delta) -> Iterator[bytes]: ...

    def closing(self, prompt_tokens: int, completion_tokens: int) -> Iterator[bytes]: ...

    def failure(self, error: api.ApiError) -> Iterator[bytes]:
        """Instead of `closing`, after a failure in the middle."""
        ...


class ChoicesShape(ABC):
    """What completions and chat share: choices in an envelope."""

    object = ""
    chunk_object = ""
    prefix = ""

    def __init__(self, body: api.Sampling, choices: int, *, with_logprobs: bool) -> None:
        self._body = body
        self._choices = choices
        self._with_usage = bool(body.stream_options and body.stream_options.include_usage)
        self.with_logprobs = with_logprobs
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._created_s = int(time.time())

    @property
    def id(self) -> str:
        return self._id

    def whole(self, choices: Sequence[Choice], prompt_tokens: int) -> api.JsonObject:
        answer = self._envelope(self.object)
        answer["choices"] = [
            self.choice(i, choice.text, choice) for i, choice in enumerate(choices)
        ]
        answer["usage"] = api.usage(
            prompt_tokens, sum(api.written(choice.tokens) for choice in choices)
        )
        if self._body.moesubnet.provenance:
            answer["moesubnet"] = [api.provenance(choice.tokens) for choice in choices]
        return answer

    def opening(self) -> Iterator[bytes]:
        for index in range(self._choices):
            if (first := self.first_chunk(index)) is not None:
                yield self._chunk([first])

    def piece(self, index: int, delta: Delta) -> Iterator[bytes]:
        *early, last = self.chunk_choices(index, delta)
        for choice in early:
            yield self._chunk([choice])
        yield self._chunk([last], delta)

    def closing(self, prompt_tokens: int, completion_tokens: int) -> Iterator[bytes]:
        if self._with_usage:
            yield self._chunk([], usage=api.usage(prompt_tokens, completion_tokens))
        yield api.sse("[DONE]")

    def failure(self, error: api.ApiError) -> Iterator[bytes]:
        yield api.sse(error.body)

    @abstractmethod
    def choice(self, index: int, text: str, delta: Delta | Choice) -> api.JsonObject:
        """A whole choice."""

    def first_chunk(self, index: int) -> api.JsonObject | None:
        """A first chunk, where the endpoint has one."""
        return None

    @abstractmethod
    def chunk_choices(self, index: int, delta: Delta) -> list[api.JsonObject]:
        """A piece of a choice, in as many chunks as clients take it; at least one."""

    def _envelope(self, kind: str) -> api.JsonObject:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created_s,
            "model": self._body.model,
        }

    def _chunk(
        self,
        choices: list[api.JsonObject],
        delta: Delta | None = None,
        usage: api.JsonObject | None = None,
    ) -> bytes:
        chunk = self._envelope(self.chunk_object)
        chunk["choices"] = choices
        if self._with_usage:
            chunk["usage"] = usage
        if delta is not None and self._body.moesubnet.provenance:
            chunk["moesubnet"] = api.provenance(delta.tokens)
        return api.sse(chunk)


class CompletionShape(ChoicesShape):
    object = chunk_object = "text_completion"
    prefix = "cmpl"

    def choice(self, index: int, text: str, delta: Delta | Choice) -> api.JsonObject:
        logprobs = api.completion_logprobs(delta.tokens) if self.with_logprobs else None
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": delta.finish_reason,
        }

    def chunk_choices(self, index: int, delta: Delta) -> list[api.JsonObject]:
        return [self.choice(index, delta.text, delta)]


class ChatShape(ChoicesShape):
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prefix = "chatcmpl"

    def _logprobs(self, delta: Delta | Choice) -> api.JsonObject | None:
        return api.chat_logprobs(delta.tokens) if self.with_logprobs else None

    def choice(self, index: int, text: str, delta: Delta | Choice) -> api.JsonObject:
        return {
            "index": index,
            "message": message_of(delta.parts),
            "logprobs": self._logprobs(delta),
            "finish_reason": delta.finish_reason,
        }

    def first_chunk(self, index: int) -> api.JsonObject | None:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk_choices(self, index: int, delta: Delta) -> list[api.JsonObject]:
        chunks: list[api.JsonObject] = [
            {"index": index, "delta": piece, "logprobs": None, "finish_reason": None}
            for piece in [_delta_of(part) for part in delta.parts] or [{}]
        ]
        chunks[-1]["logprobs"] = self._logprobs(delta) if delta.tokens else None
        chunks[-1]["finish_reason"] = delta.finish_reason
        return chunks


def message_of(parts: Sequence[Part]) -> api.JsonObject:
    """A whole message of chat. Without text and with calls its content is null."""

    def joined(kind: str, index: int = 0) -> str:
        return "".join(part.text for part in parts if (part.kind, part.index) == (kind, index))

    calls = [
        _call(part.call_id, part.text, joined("arguments", part.index))
        for part in parts
        if part.kind == "call"
    ]
    text = joined("text")
    message: api.JsonObject = {"role": "assistant", "content": text, "refusal": None}
    if reasoning := joined("reasoning"):
        message["reasoning_content"] = reasoning
    if calls:
        message |= {"content": text or None, "tool_calls": calls}
    return message


def _delta_of(part: Part) -> api.JsonObject:
    """A piece of a message, as chat streams it."""
    if part.kind == "call":
        return {"tool_calls": [{"index": part.index} | _call(part.call_id, part.text, "")]}
    if part.kind == "arguments":
        return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}
    return {"content" if part.kind == "text" else "reasoning_content": part.text}


def _call(call_id: str, name: str, arguments: str) -> api.JsonObject:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}
