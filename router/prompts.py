"""From what a caller sent to token ids; what cannot fit is refused before it costs anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from moesubnet.router import openai_api as api
from moesubnet.router.model import TokenIds
from moesubnet.router.text import is_byte_level
from moesubnet.spec.content import LoadedSpec

READERS = 2  # texts that are tokenised at once
SHORT_CHARS = 2_048  # read at once, so that no long text is ahead of it; a millisecond at most
CHARS_A_TOKEN = 8  # few texts have more: of a longer one the beginning tells


class Prompts:
    """Reads the prompts of one spec. `source` names the request's field in errors."""

    def __init__(self, spec: LoadedSpec, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = spec.spec.vocab_size
        self.room_tokens = spec.spec.context_tokens - 1  # one is the beginning-of-text token
        size = len if is_byte_level(tokenizer) else lambda token: len(token.encode())
        self._longest_bytes = max(map(size, tokenizer.get_vocab()), default=1)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="prompt")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._template = environment.from_string(spec.spec.chat_template)

    async def ids(self, prompt: str | list[int], source: str) -> TokenIds:
        """Token ids of a prompt. Raises ApiError 400 for ids outside the vocabulary, and
        `context_length_exceeded`."""
        if isinstance(prompt, str):
            return await self._read(prompt, source)
        self._check(len(prompt), source)
        if any(token_id >= self._vocab_size for token_id in prompt):
            text = f"Token ids must be below {self._vocab_size}."
            raise api.ApiError(400, text, param=source, code="invalid_value")
        return np.asarray(prompt, np.uint32)

    async def chat_ids(self, messages: Sequence[api.Message], source: str) -> TokenIds:
        """Token ids of a conversation under the spec's template."""
        rendered = [{"role": message.role, "content": message.text()} for message in messages]
        self._check_bytes(sum(len(message["content"].encode()) for message in rendered), source)
        try:
            text = self._template.render(messages=rendered, add_generation_prompt=True)
        except TemplateError as error:
            raise api.ApiError(400, f"These messages do not fit: {error}", param=source) from None
        return await self._read(text, source)

    async def _read(self, text: str, source: str) -> TokenIds:
        self._check_bytes(len(text.encode()), source)
        if len(text) <= SHORT_CHARS:
            return self._encode(text)
        loop = asyncio.get_running_loop()
        beginning = text[: self.room_tokens * CHARS_A_TOKEN]
        if 2 * len(beginning) < len(text):
            tokens = len(await loop.run_in_executor(self._readers, self._encode, beginning))
            # Where it was cut, less than a longest token may have been read as several.
            self._check(tokens - self._longest_bytes, source)
        return await loop.run_in_executor(self._readers, self._encode, text)

    def _encode(self, text: str) -> TokenIds:
        # Only the batch form lets other threads run; the fast one keeps no offsets.
        [encoded] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return np.asarray(encoded.ids, np.uint32)

    def _check_bytes(self, size: int, source: str) -> None:
        self._check(-(-size // self._longest_bytes), source)

    def _check(self, least_tokens: int, source: str) -> None:
        if least_tokens > self.room_tokens:
            asked = f"at least {least_tokens} tokens in the prompt"
            raise api.context_length_exceeded(asked, self.room_tokens, source)
