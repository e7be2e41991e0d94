"""From what a caller sent to token ids; what cannot fit is refused before it costs anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from tokenizers import Tokenizer

from moesubnet.errors import PromptError
from moesubnet.router import openai_api as api
from moesubnet.router.model import TokenIds
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.pieces import Pieces
from moesubnet.spec.prompt import Prompt, PromptEncoder

READERS = 2  # texts that are tokenised at once
SHORT_CHARS = 2_048  # read at once, so that no long text is ahead of it; a millisecond at most
CHARS_A_TOKEN = 8  # few texts have more: of a longer one the beginning tells


class Prompts:
    """Reads the prompts of one spec. `source` names the request's field in errors."""

    def __init__(self, spec: LoadedSpec, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = spec.spec.vocab_size
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
            return await self._read(len(prompt), partial(self._encoder.text, prompt), source)
        self._check(len(prompt), source)
        if any(token_id >= self._vocab_size for token_id in prompt):
            text = f"Token ids must be below {self._vocab_size}."
            raise api.ApiError(400, text, param=source, code="invalid_value")
        return np.asarray(prompt, np.uint32)

    async def chat_ids(self, messages: Sequence[api.Message], source: str) -> TokenIds:
        """Token ids of a conversation under the spec's template."""
        said = [{"role": message.role, "content": message.text()} for message in messages]
        self._check_bytes(sum(len(message["content"].encode()) for message in said), source)
        chars = sum(len(message["content"]) for message in said)
        return await self._read(chars, partial(self._encoder.chat, said), source)

    async def _read(self, chars: int, made: Callable[[], Prompt], source: str) -> TokenIds:
        if chars <= SHORT_CHARS:
            return self._encode(made, source)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._encode, made, source)

    def _encode(self, made: Callable[[], Prompt], source: str) -> TokenIds:
        try:
            prompt = made()
            self._check_bytes(len(prompt.text.encode()), source)
            beginning = prompt.text[: self.room_tokens * CHARS_A_TOKEN]
            if 2 * len(beginning) < len(prompt.text):
                tokens = len(self._encoder.ids(self._encoder.text(beginning)))
                # Where it was cut, less than a longest token may have been read as several.
                self._check(tokens - self._longest_bytes, source)
            return np.asarray(self._encoder.ids(prompt), np.uint32)
        except PromptError as error:
            text = f"This {source} cannot be read: {error}."
            raise api.ApiError(400, text, param=source, code="invalid_value") from None

    def _check_bytes(self, size: int, source: str) -> None:
        self._check(-(-size // self._longest_bytes), source)

    def _check(self, least_tokens: int, source: str) -> None:
        if least_tokens > self.room_tokens:
            asked = f"at least {least_tokens} tokens in the prompt"
            raise api.context_length_exceeded(asked, self.room_tokens, source)
