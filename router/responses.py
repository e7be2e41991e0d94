"""The body of `POST /v1/responses`: OpenAI's newer endpoint, without memory.

Nothing is stored: `store: false` is what happens whatever is asked, `previous_response_id` is
refused, and a conversation is sent whole.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from moesubnet.router import openai_api as api
from moesubnet.router.chat import (
    MAX_TOOLS,
    MAX_VARIABLES,
    JsonSchema,
    Message,
    Variables,
)
from moesubnet.router.tools import Function, ToolUse, tool_use


class Loose(BaseModel):
    """What an earlier answer contained may be sent back as it came, with fields of no meaning
    here."""

    model_config = ConfigDict(extra="ignore", strict=True)


class InputText(Loose):
    type: Literal["input_text", "output_text"]
    text: str


InputTexts = str | Annotated[list[InputText], Field(fail_fast=True)]


class InputMessage(api.Form):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: InputTexts
    id: str | None = None
    status: str | None = None
    phase: None = None


class InputCall(Loose):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: str = Field(max_length=128)
    name: str = Field(max_length=128)
    arguments: str


class InputCallOutput(Loose):
    type: Literal["function_call_output"]
    call_id: str = Field(max_length=128)
    output: InputTexts


class ReasoningText(Loose):
    type: Literal["reasoning_text"]
    text: str


class InputReasoning(Loose):
    type: Literal["reasoning"]
    content: Annotated[list[ReasoningText], Field(fail_fast=True)] | None = None


Item = InputMessage | InputCall | InputCallOutput | InputReasoning


class PlainFormat(api.Form):
    type: Literal["text", "json_object"] = "text"


class SchemaFormat(JsonSchema):
    type: Literal["json_schema"]


class Text(api.Form):
    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] = PlainFormat()
    verbosity: Literal["medium"] | None = None


class FunctionTool(Function):
    type: Literal["function"]


class NamedFunction(api.Form):
    type: Literal["function"]
    name: str = Field(max_length=64)


class ResponsesRequest(api.Sampling):
    """POST /v1/responses."""

    source: ClassVar[str] = "input"
    format_source: ClassVar[str] = "text.format"
    n: Literal[1] = 1
    input: str | Annotated[list[Item], Field(min_length=1, max_length=api.MAX_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, lt=2**53)
    text: Text = Text()
    truncation: Literal["disabled"] | None = None
    tools: list[FunctionTool] = Field(default=[], max_length=MAX_TOOLS, fail_fast=True)
    tool_choice: Literal["auto", "none", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Variables = Field(default={}, max_length=MAX_VARIABLES)
    include: list[None] = Field(default=[], max_length=0)
    background: Literal[False] | None = None

    @property
    def schema_(self) -> api.JsonObject | None:
        wanted = self.text.format
        if isinstance(wanted, SchemaFormat):
            return wanted.schema_
        return {"type": "object"} if wanted.type == "json_object" else None

    def tool_use(self) -> ToolUse:
        parallel = self.parallel_tool_calls is not False
        if isinstance(self.tool_choice, NamedFunction):
            return tool_use(self.tools, "required", self.tool_choice.name, parallel=parallel)
        return tool_use(self.tools, self.tool_choice, None, parallel=parallel)

    def conversation(self) -> list[Message]:
        """The conversation as chat messages; instructions come first."""
        found: list[dict[str, Any]] = []
        if self.instructions:
            found.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            found.append({"role": "user", "content": self.input})
        else:
            for item in self.input:
                _say(found, item)
        return [Message.model_validate(message) for message in found]


def _say(found: list[dict[str, Any]], item: Item) -> None:
    """Add an item to a conversation: of one answer's items chat has one message."""
    if isinstance(item, InputMessage) and item.role != "assistant":
        found.append({"role": item.role, "content": _text(item.content)})
        return
    if isinstance(item, InputCallOutput):
        output = _text(item.output)
        found.append({"role": "tool", "tool_call_id": item.call_id, "content": output})
        return
    last = found[-1] if found else {}
    is_open = last.get("role") == "assistant" and not isinstance(item, InputReasoning)
    if not is_open or (isinstance(item, InputMessage) and last.get("content")):
        last = {"role": "assistant", "content": ""}
        found.append(last)
    if isinstance(item, InputMessage):
        last["content"] = _text(item.content)
    elif isinstance(item, InputReasoning):
        last["reasoning_content"] = "".join(part.text for part in item.content or ())
    else:
        calls = last.setdefault("tool_calls", [])
        calls.append(
            {"id": item.call_id, "function": {"name": item.name, "arguments": item.arguments}}
        )
        if len(calls) > MAX_TOOLS:
            text = f"An answer has more than {MAX_TOOLS} calls."
            raise api.ApiError(400, text, param="input", code="invalid_value")


def _text(content: InputTexts) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
