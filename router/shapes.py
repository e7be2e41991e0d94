"""How an answer is written down in OpenAI's JSON, whole or in pieces."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod

from moesubnet.router import openai_api as api
from moesubnet.router.service import Choice, Delta


class Shape(ABC):
    """How an answer is written down; the two endpoints differ in nothing else."""

    object = ""
    chunk_object = ""
    prefix = ""

    def __init__(self, model: str, *, with_logprobs: bool) -> None:
        self.model = model
        self.with_logprobs = with_logprobs
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created_s = int(time.time())

    def envelope(self, kind: str) -> api.JsonObject:
        return {"id": self.id, "object": kind, "created": self.created_s, "model": self.model}

    @abstractmethod
    def choice(self, index: int, text: str, delta: Delta | Choice) -> api.JsonObject:
        """A whole choice."""

    def opening(self, index: int) -> api.JsonObject | None:
        """A first chunk, where the endpoint has one."""
        return None

    @abstractmethod
    def chunk_choice(self, index: int, delta: Delta) -> api.JsonObject:
        """A piece of a choice."""


class CompletionShape(Shape):
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

    def chunk_choice(self, index: int, delta: Delta) -> api.JsonObject:
        return self.choice(index, delta.text, delta)


class ChatShape(Shape):
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prefix = "chatcmpl"

    def _logprobs(self, delta: Delta | Choice) -> api.JsonObject | None:
        return api.chat_logprobs(delta.tokens) if self.with_logprobs else None

    def choice(self, index: int, text: str, delta: Delta | Choice) -> api.JsonObject:
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(delta),
            "finish_reason": delta.finish_reason,
        }

    def opening(self, index: int) -> api.JsonObject | None:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk_choice(self, index: int, delta: Delta) -> api.JsonObject:
        return {
            "index": index,
            "delta": {"content": delta.text} if delta.text else {},
            "logprobs": self._logprobs(delta) if delta.tokens else None,
            "finish_reason": delta.finish_reason,
        }
