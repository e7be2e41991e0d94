"""`POST /v1/responses`: OpenAI's newer endpoint, for text and without memory.

Nothing is stored: `store: false` is what happens whatever is asked, `previous_response_id` is
refused, and a conversation is sent whole.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from moesubnet.router import openai_api as api
from moesubnet.router.service import Choice, Delta


class InputText(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    type: Literal["input_text", "output_text"]
    text: str


class InputMessage(BaseModel):
    """One message; those that an earlier answer contained may be sent back as they came."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[InputText], Field(fail_fast=True)]
    id: str | None = None
    status: str | None = None
    phase: None = None


class PlainFormat(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text", "json_object"] = "text"


class SchemaFormat(api.JsonSchema):
    type: Literal["json_schema"]


class Text(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] = PlainFormat()
    verbosity: Literal["medium"] | None = None


class ResponsesRequest(api.Sampling):
    """POST /v1/responses."""

    source: ClassVar[str] = "input"
    format_source: ClassVar[str] = "text.format"
    n: Literal[1] = 1
    input: (
        str
        | Annotated[
            list[InputMessage], Field(min_length=1, max_length=api.MAX_MESSAGES, fail_fast=True)
        ]
    )
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, lt=2**53)
    text: Text = Text()
    truncation: Literal["disabled"] | None = None
    tools: list[None] = Field(default=[], max_length=0)
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None
    include: list[None] = Field(default=[], max_length=0)
    background: Literal[False] | None = None

    @property
    def schema_(self) -> api.JsonObject | None:
        wanted = self.text.format
        if isinstance(wanted, SchemaFormat):
            return wanted.schema_
        return {"type": "object"} if wanted.type == "json_object" else None

    def messages(self) -> list[api.Message]:
        """The conversation as chat messages; instructions come first."""
        found = []
        if self.instructions:
            found.append(api.Message(role="system", content=self.instructions))
        if isinstance(self.input, str):
            return [*found, api.Message(role="user", content=self.input)]
        for message in self.input:
            content = message.content
            text = content if isinstance(content, str) else "".join(part.text for part in content)
            found.append(api.Message(role=message.role, content=text))
        return found


class ResponseShape:
    """One response: a single message of text, as an object or as typed events."""

    def __init__(self, body: ResponsesRequest) -> None:
        self._body = body
        self._id = f"resp_{uuid.uuid4().hex}"
        self._item_id = f"msg_{uuid.uuid4().hex}"
        self._created_s = int(time.time())
        self._sequence = 0
        self._text = ""
        self._finish: str | None = None

    def whole(self, choices: Sequence[Choice], prompt_tokens: int) -> api.JsonObject:
        [choice] = choices
        self._text, self._finish = choice.text, choice.finish_reason
        return self._finished(prompt_tokens, len(choice.tokens))

    def opening(self) -> Iterator[bytes]:
        begun = self._response("in_progress")
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)
        item = self._item("in_progress", [])
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event("response.content_part.added", **self._at, part=_part(""))

    def piece(self, index: int, delta: Delta) -> Iterator[bytes]:
        self._text += delta.text
        self._finish = delta.finish_reason
        if delta.text:
            yield self._event(
                "response.output_text.delta", **self._at, delta=delta.text, logprobs=[]
            )

    def closing(self, prompt_tokens: int, completion_tokens: int) -> Iterator[bytes]:
        response = self._finished(prompt_tokens, completion_tokens)
        [item] = response["output"]
        yield self._event("response.output_text.done", **self._at, text=self._text, logprobs=[])
        yield self._event("response.content_part.done", **self._at, part=_part(self._text))
        yield self._event("response.output_item.done", output_index=0, item=item)
        yield self._event(f"response.{response['status']}", response=response)

    def failure(self, error: api.ApiError) -> Iterator[bytes]:
        said = error.body["error"]
        response = self._response("failed")
        response["error"] = {"code": "server_error", "message": said["message"]}
        yield self._event("response.failed", response=response)

    @property
    def _at(self) -> api.JsonObject:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._sequence} | fields
        self._sequence += 1
        return f"event: {kind}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()

    def _item(self, status: str, content: list[api.JsonObject]) -> api.JsonObject:
        return {
            "type": "message",
            "id": self._item_id,
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _finished(self, prompt_tokens: int, completion_tokens: int) -> api.JsonObject:
        status = "completed" if self._finish == "stop" else "incomplete"
        response = self._response(status)
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        response["output"] = [self._item(status, [_part(self._text)])]
        response["usage"] = {
            "input_tokens": prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt_tokens + completion_tokens,
        }
        return response

    def _response(self, status: str) -> api.JsonObject:
        body = self._body
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
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": body.temperature,
            "text": {"format": body.text.format.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": "auto",
            "tools": [],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            "metadata": body.metadata,
        }


def _part(text: str) -> api.JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
