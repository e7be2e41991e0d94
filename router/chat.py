"""The body of `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moesubnet.router.openai_api import (
    MAX_MESSAGES,
    MAX_TOP_LOGPROBS,
    ApiError,
    Form,
    JsonObject,
    Name,
    Sampling,
)
from moesubnet.router.tools import Function, ToolUse, tool_use
from moesubnet.wire.strict_json import parse_json

MAX_TOOLS = 128
MAX_VARIABLES = 16


class TextPart(Form):
    type: Literal["text"]
    text: str


class CalledFunction(Form):
    name: str = Field(max_length=128)
    arguments: str
    parsed_arguments: Any = None  # what the official client made of them, sent back beside them

    def values(self) -> JsonObject:
        """Raises ApiError 400 for what is no JSON object."""
        try:
            values = parse_json(self.arguments.encode() or b"{}")
        except ValueError as error:
            text = f"The arguments of a call of '{self.name}' are no JSON: {str(error)[:100]}"
            raise ApiError(400, text, param="messages", code="invalid_value") from None
        if not isinstance(values, dict):
            text = f"The arguments of a call of '{self.name}' are no JSON object."
            raise ApiError(400, text, param="messages", code="invalid_value")
        return values


class Call(BaseModel):
    """A call in an assistant's message."""

    model_config = ConfigDict(extra="ignore", strict=True)
    id: str = Field(max_length=128)
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    """One message. Fields of other kinds of message may be there, but empty."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[Call], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_call_id: str | None = Field(default=None, max_length=128)

    @model_validator(mode="after")
    def _nothing_is_dropped(self) -> Self:
        for key, value in (self.model_extra or {}).items():
            # `parsed` is what the official client made of the content that it sends back.
            if key != "parsed" and value not in (None, [], ""):
                text = f"Unsupported parameter: '{key}' of a message is not supported."
                raise ApiError(400, text, param="messages", code="unsupported_parameter")
        if self.content is None and not self.tool_calls:
            text = f"A message of role '{self.role}' needs content."
            raise ApiError(400, text, param="messages", code="invalid_value")
        if (self.role == "tool") != (self.tool_call_id is not None):
            text = "A tool's message, and no other, has a tool_call_id."
            raise ApiError(400, text, param="messages", code="invalid_value")
        if (self.tool_calls or self.reasoning_content) and self.role != "assistant":
            text = "Only an assistant's message has calls and reasoning."
            raise ApiError(400, text, param="messages", code="invalid_value")
        return self

    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or ())

    @property
    def chars(self) -> int:
        """Of all that it says."""
        called = sum(len(call.function.arguments) for call in self.tool_calls or ())
        return len(self.text()) + len(self.name or "") + len(self.reasoning_content or "") + called


class JsonSchema(Form):
    """A schema that the answer must have; it does, whatever `strict` says."""

    name: Name
    description: str | None = None
    schema_: JsonObject = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Form):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _a_schema_where_one_is_meant(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            text = "response_format has json_schema exactly where its type is json_schema."
            raise ApiError(400, text, param="response_format", code="invalid_value")
        return self

    @property
    def schema_(self) -> JsonObject | None:
        """Of the text; None for any."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


class ChatTool(Form):
    type: Literal["function"]
    function: Function


class ToolName(Form):
    name: str = Field(max_length=64)


class NamedTool(Form):
    type: Literal["function"]
    function: ToolName


Variable = bool | int | float | Annotated[str, Field(max_length=512)]
VariableName = Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Variables = dict[VariableName, Variable]


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    source = "messages"
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    max_tokens: int | None = Field(default=None, ge=1, lt=2**53)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**53)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: list[ChatTool] = Field(default=[], max_length=MAX_TOOLS, fail_fast=True)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Variables = Field(default={}, max_length=MAX_VARIABLES)

    @property
    def schema_(self) -> JsonObject | None:
        return None if self.response_format is None else self.response_format.schema_

    def conversation(self) -> list[Message]:
        return self.messages

    def tool_use(self) -> ToolUse:
        functions = [tool.function for tool in self.tools]
        parallel = self.parallel_tool_calls is not False
        if isinstance(self.tool_choice, NamedTool):
            return tool_use(
                functions, "required", self.tool_choice.function.name, parallel=parallel
            )
        return tool_use(functions, self.tool_choice, None, parallel=parallel)

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs")
        if self.max_tokens and self.max_completion_tokens not in (None, self.max_tokens):
            text = "max_tokens and max_completion_tokens differ; give one of them."
            raise ApiError(400, text, param="max_tokens")
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


def as_template_knows(message: Message, *, arguments_as_text: bool) -> dict[str, Any]:
    """A message as chat templates read it; what a message does not say is not there."""
    said: dict[str, Any] = {"role": message.role, "content": message.text()}
    for key in ("name", "reasoning_content", "tool_call_id"):
        if (value := getattr(message, key)) is not None:
            said[key] = value
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": call.function.arguments
                    if arguments_as_text
                    else call.function.values(),
                },
            }
            for call in message.tool_calls
        ]
    return said
