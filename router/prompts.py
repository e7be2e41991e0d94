"""From what a caller sent to token ids; what cannot fit is refused before it costs anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from moesubnet.errors import PromptError
from moesubnet.router import openai_api as api
from moesubnet.router.chat import Message, as_template_knows
from moesubnet.router.model import TokenIds
from moesubnet.router.reading import END_THINK, THINK
from moesubnet.spec.calls import CallSyntax, call_syntax
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.pieces import Pieces
from moesubnet.spec.prompt import Prompt, PromptEncoder

READERS = 2  # texts that are tokenised at once
SHORT_CHARS = 2_048  # read at once, so that no long text is ahead of it; a millisecond at most
OURS = frozenset(
    [
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "bos_token",
        "eos_token",
        "chat_template",
        # of the function that renders it
        "conversations",
        "continue_final_message",
        "return_assistant_tokens_mask",
    ]
)  # what is not the caller's to say to the template
CHARS_A_TOKEN = 8  # few texts have more: of a longer one the beginning tells


class Prompts:
    """Reads the prompts of one spec. `source` names the request's field in errors."""

    def __init__(self, spec: LoadedSpec, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = spec.spec.vocab_size
        self._stop_ids = spec.spec.stop_ids
        self.room_tokens = spec.spec.context_tokens - 1  # one is the beginning-of-text token
        size = len if Pieces(tokenizer).is_byte_level else lambda token: len(token.encode())
        self._longest_bytes = max(map(size, tokenizer.get_vocab()), default=1)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="prompt")
        self._encoder = PromptEncoder(spec.spec, tokenizer)

    async def ids(self, prompt: str | list[int], source: str) -> TokenIds:
        """Token ids of a prompt. Raises ApiError 400 for ids outside the vocabulary, and
        `context_length_exceeded`."""
        if isinstance(prompt, str):
            self._check_bytes(len(prompt.encode()), source)
            made = partial(self._encoder.text, prompt)
            return (await self._read(len(prompt), made, source))[1]
        self._check(len(prompt), source)
        if any(token_id >= self._vocab_size for token_id in prompt):
            text = f"Token ids must be below {self._vocab_size}."
            raise api.ApiError(400, text, param=source, code="invalid_value")
        return np.asarray(prompt, np.uint32)

    async def chat_ids(
        self,
        messages: Sequence[Message],
        source: str,
        *,
        tools: Sequence[api.JsonObject] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> tuple[TokenIds, bool]:
        """Token ids of a conversation under the spec's template, and whether they end inside a
        thought. variables: what else the caller says to the template. Raises ApiError 400."""
        if wrong := OURS & set(variables or {}):
            text = f"'{min(wrong)}' is not the caller's to say to the template."
            raise api.ApiError(400, text, param="chat_template_kwargs", code="invalid_value")
        self._check_bytes(sum(len(message.text().encode()) for message in messages), source)
        chars = sum(message.chars for message in messages)
        chars += len(json.dumps(tools)) if tools else 0
        prompt, ids = await self._read(
            chars, partial(self._chat, messages, list(tools) or None, variables), source
        )
        return ids, prompt.text.rstrip().endswith(THINK)

    def _chat(
        self,
        messages: Sequence[Message],
        tools: list[api.JsonObject] | None,
        variables: Mapping[str, Any] | None,
    ) -> Prompt:
        as_text = self.calls is not None and self.calls.arguments_as_text
        said = [as_template_knows(message, arguments_as_text=as_text) for message in messages]
        if "developer" not in self._encoder.template.source:
            said = [m | {"role": "system"} if m["role"] == "developer" else m for m in said]
        return self._encoder.chat(said, tools=tools, variables=variables)

    @cached_property
    def calls(self) -> CallSyntax | None:
        """How this family writes calls; None where it has no way that holds JSON."""
        stops = [self._tokenizer.id_to_token(stop_id) or "" for stop_id in self._stop_ids]
        return call_syntax(self._encoder.template, stops)

    @cached_property
    def may_think(self) -> bool:
        """Whether an answer of this family may begin with a thought."""
        known = self._tokenizer.token_to_id(END_THINK) is not None
        return known or END_THINK in self._encoder.template.source

    async def _read(
        self, chars: int, made: Callable[[], Prompt], source: str
    ) -> tuple[Prompt, TokenIds]:
        if chars <= SHORT_CHARS:
            return self._encode(made, source)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._encode, made, source)

    def _encode(self, made: Callable[[], Prompt], source: str) -> tuple[Prompt, TokenIds]:
        try:
            prompt = made()
            self._check_bytes(len(prompt.text.encode()), source)
            beginning = prompt.text[: self.room_tokens * CHARS_A_TOKEN]
            if 2 * len(beginning) < len(prompt.text):
                tokens = len(self._encoder.ids(self._encoder.text(beginning)))
                # Where it was cut, less than a longest token may have been read as several.
                self._check(tokens - self._longest_bytes, source)
            return prompt, np.asarray(self._encoder.ids(prompt), np.uint32)
        except PromptError as error:
            text = f"This {source} cannot be read: {error}."
            raise api.ApiError(400, text, param=source, code="invalid_value") from None

    def _check_bytes(self, size: int, source: str) -> None:
        self._check(-(-size // self._longest_bytes), source)

    def _check(self, least_tokens: int, source: str) -> None:
        if least_tokens > self.room_tokens:
            asked = f"at least {least_tokens} tokens in the prompt"
            raise api.context_length_exceeded(asked, self.room_tokens, source)
