"""How an answer is written down for `/v1/responses`, whole or as typed events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from moesubnet.router import openai_api as api
from moesubnet.router.choices import Choice, Delta
from moesubnet.router.reading import Part
from moesubnet.router.responses import NamedFunction, ResponsesRequest


class ResponseShape:
    """One response: items of reasoning, text and calls, in the order in which they are written."""

    def __init__(self, body: ResponsesRequest) -> None:
        self._body = body
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created_s = int(time.time())
        self._sequence = 0
        self._items: list[_Item] = []
        self._finish: str | None = None

    @property
    def id(self) -> str:
        return self._id

    def whole(self, choices: Sequence[Choice], prompt_tokens: int) -> api.JsonObject:
        [choice] = choices
        self._finish = choice.finish_reason
        for part in choice.parts:
            self._take(part)
        return self._finished(prompt_tokens, len(choice.tokens))

    def opening(self) -> Iterator[bytes]:
        begun = self._response("in_progress")
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)

    def piece(self, index: int, delta: Delta) -> Iterator[bytes]:
        self._finish = delta.finish_reason
        for part in delta.parts:
            before = len(self._items)
            item = self._take(part)
            if len(self._items) > before:
                yield from self._ended(before - 1)
                yield from self._begun()
            if part.text and part.kind != "call":
                more: api.JsonObject = {"logprobs": []} if part.kind == "text" else {}
                yield self._event(
                    f"response.{item.delta_name}.delta", **item.at, delta=part.text, **more
                )

    def closing(self, prompt_tokens: int, completion_tokens: int) -> Iterator[bytes]:
        if not self._items:
            self._take(Part("text", ""))
            yield from self._begun()
        yield from self._ended(len(self._items) - 1)
        response = self._finished(prompt_tokens, completion_tokens)
        yield self._event(f"response.{response['status']}", response=response)

    def failure(self, error: api.ApiError) -> Iterator[bytes]:
        said = error.body["error"]
        response = self._response("failed")
        response["error"] = {"code": "server_error", "message": said["message"]}
        yield self._event("response.failed", response=response)

    def _take(self, part: Part) -> _Item:
        """The item that a part belongs to, which is the last."""
        kind = "call" if part.kind == "arguments" else part.kind
        if not self._items or self._items[-1].kind != kind or part.kind == "call":
            self._items.append(_Item(kind, len(self._items), part))
        item = self._items[-1]
        if part.kind != "call":
            item.text += part.text
        return item

    def _begun(self) -> Iterator[bytes]:
        item = self._items[-1]
        whole = item.as_json("in_progress", with_content=False)
        yield self._event("response.output_item.added", output_index=item.index, item=whole)
        if item.kind == "text":
            yield self._event("response.content_part.added", **item.at, part=_output_text(""))

    def _ended(self, index: int) -> Iterator[bytes]:
        if index < 0:
            return
        item = self._items[index]
        yield self._event(f"response.{item.delta_name}.done", **item.at, **item.done)
        if item.kind == "text":
            part = _output_text(item.text)
            yield self._event("response.content_part.done", **item.at, part=part)
        whole = item.as_json(self._status_of(index))
        yield self._event("response.output_item.done", output_index=index, item=whole)

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._sequence} | fields
        self._sequence += 1
        return f"event: {kind}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()

    @property
    def _status(self) -> str:
        return "incomplete" if self._finish == "length" else "completed"

    def _status_of(self, index: int) -> str:
        return self._status if index == len(self._items) - 1 else "completed"

    def _finished(self, prompt_tokens: int, completion_tokens: int) -> api.JsonObject:
        if not self._items:
            self._take(Part("text", ""))
        response = self._response(self._status)
        if self._status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        response["output"] = [item.as_json(self._status_of(item.index)) for item in self._items]
        response["usage"] = {
            "input_tokens": prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt_tokens + completion_tokens,
        }
        return response

    def _response(self, status: str) -> api.JsonObject:
        body, choice = self._body, self._body.tool_choice or "auto"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_s,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": body.temperature,
            "text": {"format": body.text.format.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": choice.model_dump() if isinstance(choice, NamedFunction) else choice,
            "tools": [tool.model_dump() for tool in body.tools],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            "metadata": body.metadata,
        }


class _Item:
    """One item of the output. first: the part with which it began."""

    def __init__(self, kind: str, index: int, first: Part) -> None:
        self.kind, self.index, self.text, self._first = kind, index, "", first
        prefix = {"text": "msg", "reasoning": "rs", "call": "fc"}[kind]
        self.id = f"{prefix}_{uuid.uuid4().hex}"

    @property
    def delta_name(self) -> str:
        return {
            "text": "output_text",
            "reasoning": "reasoning_text",
            "call": "function_call_arguments",
        }[self.kind]

    @property
    def at(self) -> api.JsonObject:
        place = {"item_id": self.id, "output_index": self.index}
        return place if self.kind == "call" else place | {"content_index": 0}

    @property
    def done(self) -> api.JsonObject:
        """What its last event says."""
        if self.kind == "call":
            return {"arguments": self.text, "name": self._first.text}
        return {"text": self.text} | ({"logprobs": []} if self.kind == "text" else {})

    def as_json(self, status: str, *, with_content: bool = True) -> api.JsonObject:
        said: api.JsonObject = {"id": self.id, "status": status}
        if self.kind == "call":
            call = {"call_id": self._first.call_id, "name": self._first.text}
            return {"type": "function_call", **said, **call, "arguments": self.text}
        if self.kind == "reasoning":
            content = [{"type": "reasoning_text", "text": self.text}] if with_content else []
            return {"type": "reasoning", **said, "summary": [], "content": content}
        content = [_output_text(self.text)] if with_content else []
        return {"type": "message", **said, "role": "assistant", "content": content}


def _output_text(text: str) -> api.JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
