"""The OpenAI wire format: requests in, choices out, errors in the shape their clients parse.

Only what a mixture of base models can honour is accepted; an option that would be ignored is
refused by name, because silence about an ignored option is a wrong answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from moesubnet.errors import EngineError, MoesubnetError, NobodyAnswers
from moesubnet.wire.strict_json import parse_as

MAX_CHOICES = 8
MAX_PROMPTS = 32  # also times n
MAX_ERRORS = 64  # wording more takes longer than reading the request
MAX_TOP_LOGPROBS = 20
MAX_MESSAGES = 1_024
MAX_PARTS = 4_096  # of all messages together; validating a hundred thousand takes a second
MAX_FIELDS = 64  # of a request
MAX_MESSAGE_FIELDS = 16
MAX_BIASES = 1_024

JsonObject = dict[str, Any]
# How the log-probability of an echoed token came about: said by experts who had been sent the
# token, or before they were.
Echo = Literal["self_reported", "blind"]
Name = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]  # of a schema, of a tool
UNAVAILABLE = (NobodyAnswers, EngineError)  # what models raise; see `unavailable`


class ApiError(Exception):
    """An error that the caller sees, in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        retry_after_s: float | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.headers = headers
        self.body: JsonObject = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }


def unavailable(error: MoesubnetError) -> ApiError:
    """The 503 for a model that cannot answer now."""
    if isinstance(error, NobodyAnswers):
        text, code = "No expert can answer right now.", "no_expert_available"
    else:
        text, code = "The student is restarting.", "student_unavailable"
    text += " Please retry shortly."
    return ApiError(503, text, kind="server_error", code=code, retry_after_s=5.0)


def context_length_exceeded(asked: str, context_tokens: int, param: str) -> ApiError:
    """The 400 that clients catch to shorten their prompt."""
    return ApiError(
        400,
        f"This model's maximum context length is {context_tokens} tokens. However, you requested "
        f"{asked}. Please shorten the prompt or lower max_tokens.",
        code="context_length_exceeded",
        param=param,
    )


class Form(BaseModel):
    """A part of a request. What it does not know is refused, not dropped."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Form):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Extension(Form):
    """Our own opt-in field, `extra_body={"moesubnet": {...}}` in the official client."""

    provenance: bool = False  # report, per token, the weight of every expert
    # The most that all experts who are asked may cost together.
    max_rao_per_mtoken: int | None = Field(default=None, ge=0, lt=2**53)


Temperature = Annotated[float, Field(ge=0.0, le=2.0)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]
Bias = Annotated[float, Field(ge=-100.0, le=100.0)]
TokenKey = Annotated[str, Field(pattern="^[0-9]{1,9}$")]  # JSON's keys are text
Stops = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=4)]


class Sampling(Form):
    """What all endpoints share."""

    source: ClassVar[str]  # the field that holds the prompt
    format_source: ClassVar[str] = "response_format"

    model: str = Field(max_length=128)
    temperature: Temperature = 1.0
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops = []
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: Annotated[dict[TokenKey, Bias], Field(max_length=MAX_BIASES)] = {}
    stream: bool = False
    stream_options: StreamOptions | None = None
    moesubnet: Extension = Extension()

    # Accepted and without effect here; docs/router.md says so.
    user: str | None = Field(default=None, max_length=512)
    safety_identifier: str | None = Field(default=None, max_length=512)
    prompt_cache_key: str | None = Field(default=None, max_length=512)
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=16),
    ] = {}
    store: bool = False  # nothing is stored, whatever is asked
    service_tier: Literal["auto", "default"] | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options needs stream to be true.", param="stream_options")
        return self

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if len(data) > MAX_FIELDS:
            raise ApiError(400, "The request has too many fields.")
        data = {key: value for key, value in data.items() if value is not None}
        _check_messages(data.get(cls.source), cls.source)
        if isinstance(data.get("stop"), str):
            data["stop"] = [data["stop"]]
        return data


def _check_messages(messages: object, source: str) -> None:
    """Refuse what takes long to validate: very many parts, or fields that nobody knows."""
    if not isinstance(messages, list):
        return  # validation will say so
    parts = 0
    for message in messages[:MAX_MESSAGES]:
        if isinstance(message, dict):
            content = message.get("content")
            parts += len(content) if isinstance(content, list) else 0
            if len(message) > MAX_MESSAGE_FIELDS:
                raise ApiError(400, "A message has too many fields.", param=source)
    if parts > MAX_PARTS:
        text = f"The messages have more than {MAX_PARTS} parts of content."
        raise ApiError(400, text, param=source)


# Of a prompt's four forms the wrong ones are given up at their first entry.
Texts = Annotated[list[str], Field(fail_fast=True, max_length=MAX_PROMPTS)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(fail_fast=True)]
ManyTokenIds = Annotated[list[TokenIds], Field(fail_fast=True, max_length=MAX_PROMPTS)]


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    source = "prompt"
    prompt: str | Texts | TokenIds | ManyTokenIds = ""
    max_tokens: int = Field(default=16, ge=0, lt=2**53)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | Literal["blind"] = False
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @property
    def echo_kind(self) -> Echo | None:
        if self.echo == "blind":
            return "blind"
        return "self_reported" if self.echo else None

    def prompts(self) -> list[str | list[int]]:
        """One entry per prompt: text, or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt or isinstance(self.prompt[0], int):
            return [list(self.prompt)]  # type: ignore[arg-type]
        return list(self.prompt)


RequestT = TypeVar("RequestT", bound=BaseModel)


def parse_request(kind: type[RequestT], body: bytes) -> RequestT:
    """Validate a request body. Raises ApiError 400 naming the first offending parameter."""
    try:
        return parse_as(kind, body)
    except ValidationError as error:
        if error.error_count() > MAX_ERRORS:
            raise ApiError(400, "Invalid request: too many errors.", code="invalid_value") from None
        worst = _most_telling(error.errors(include_url=False, include_input=False))
        # Which of a union's forms was tried ("str", "list[…]") is no part of the caller's path.
        path = [str(part) for part in worst["loc"] if "[" not in str(part) and part != "str"]
        param = ".".join(path) or None
        if worst["type"] == "extra_forbidden":
            text = f"Unsupported parameter: '{param}' is not supported by this endpoint."
            raise ApiError(400, text, param=param, code="unsupported_parameter") from None
        text = f"Invalid request: {worst['msg']}" + (f" (at '{param}')" if param else "")
        raise ApiError(400, text, param=param, code="invalid_value") from None
    except ValueError as error:
        raise ApiError(400, f"Invalid JSON: {str(error)[:200]}", code="invalid_json") from None


def _most_telling(errors: list[ErrorDetails]) -> ErrorDetails:
    """Of the first field's errors the one that got furthest into the caller's lists."""
    of_field = [error for error in errors if error["loc"][:1] == errors[0]["loc"][:1]]
    return max(
        of_field,
        key=lambda e: (e["type"] == "too_long", [x for x in e["loc"] if isinstance(x, int)]),
    )


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One emitted token with what the caller may have asked about it."""

    text: str  # the token alone, undecodable bytes as U+FFFD
    raw: bytes
    logprob: float | None  # natural log, under the mixture at temperature 1; None: a text's first
    top: list[tuple[str, bytes, float]]
    offset: int  # characters of completion text before it
    experts: dict[str, float] | None = None
    left_out: float = 0.0  # mass that nobody listed, so never drawn; bounds the total variation
    echo: Echo | None = None  # a token of the prompt


def written(tokens: Sequence[TokenRecord]) -> int:
    """How many of them are no echo."""
    return sum(token.echo is None for token in tokens)


def completion_logprobs(tokens: Sequence[TokenRecord]) -> JsonObject:
    """The legacy `logprobs` object of /v1/completions.

    Tokens are its keys, so those that are no text by themselves are told apart by their bytes.
    """

    def key(raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    said: JsonObject = {
        "tokens": [key(token.raw) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            None if token.logprob is None else {key(raw): value for _, raw, value in token.top}
            for token in tokens
        ],
        "text_offset": [token.offset for token in tokens],
    }
    if any(token.echo == "self_reported" for token in tokens):
        said["self_reported"] = [token.echo == "self_reported" for token in tokens]
    return said


def chat_logprobs(tokens: Sequence[TokenRecord]) -> JsonObject:
    """The `logprobs` object of /v1/chat/completions."""

    def entry(text: str, raw: bytes, value: float | None) -> JsonObject:
        return {"token": text, "logprob": value, "bytes": list(raw)}

    return {
        "content": [
            entry(token.text, token.raw, token.logprob)
            | {"top_logprobs": [entry(*candidate) for candidate in token.top]}
            for token in tokens
        ],
        "refusal": None,
    }


def provenance(tokens: Sequence[TokenRecord]) -> JsonObject:
    """Our `moesubnet` field: which experts wrote which token; its bytes where they are only a part
    of a character; what was left out of the mixture, if anything."""
    return {
        "tokens": [
            {"token": token.text, "experts": token.experts or {}}
            | ({} if token.text.encode() == token.raw else {"bytes": list(token.raw)})
            | ({"left_out": token.left_out} if token.left_out else {})
            | ({"self_reported": True} if token.echo == "self_reported" else {})
            for token in tokens
        ]
    }


def usage(prompt_tokens: int, completion_tokens: int) -> JsonObject:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def sse(data: JsonObject | str) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n".encode()
