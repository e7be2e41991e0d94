"""From token ids to text as it may be shown: whole characters only, never past a stop sequence."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import cache

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


@cache
def _byte_of_symbol() -> dict[str, int]:
    """The byte that each symbol of a byte-level vocabulary stands for (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table |= {chr(256 + index): byte for index, byte in enumerate(others)}
    return table


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """The raw bytes of one token of a byte-level tokenizer; of other kinds, its decoded text."""
    symbols = tokenizer.id_to_token(token_id) or ""
    table = _byte_of_symbol()
    if is_byte_level(tokenizer) and all(s in table for s in symbols):
        return bytes(table[symbol] for symbol in symbols)
    decoded: str = tokenizer.decode([token_id], skip_special_tokens=False)
    return decoded.encode()


def is_byte_level(tokenizer: Tokenizer) -> bool:
    return type(tokenizer.decoder).__name__ == "ByteLevel"


class _BytesDecoder:
    """Characters as soon as their bytes are there; bytes that are no UTF-8 are U+FFFD at once."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._hidden = {token_id for token_id, token in added.items() if token.special}
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        for token_id in prompt_ids:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        hidden = token_id in self._hidden
        return self._utf8.decode(b"" if hidden else token_bytes(self._tokenizer, token_id))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _AnyDecoder:
    """For vocabularies whose tokens are no byte strings, such as those that mark words."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> None:
        # The prompt's last ids prime the decoder, so that a leading space is decoded as one.
        self._stream = DecodeStream(list(prompt_ids), skip_special_tokens=True)
        self._tokenizer = tokenizer
        self._held: list[int] = []

    def push(self, token_id: int) -> str:
        text = self._stream.step(self._tokenizer, token_id)
        self._held = [] if text else [*self._held, token_id]
        return text or ""

    def finish(self) -> str:
        text: str = self._tokenizer.decode(self._held)
        return text


class TextStream:
    """Text of one choice as it grows.

    `push` returns what may be shown now: a multi-byte character waits for its last byte, and text
    that could be the beginning of a stop sequence waits until it is decided. After `stopped`
    nothing more comes; the stop sequence itself is never shown.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str], prompt_ids: Sequence[int]
    ) -> None:
        decoder = _BytesDecoder if is_byte_level(tokenizer) else _AnyDecoder
        self._decoder = decoder(tokenizer, prompt_ids[-8:])
        self._stops = tuple(stops)
        self._held = ""
        self._shown_chars = 0
        self.stopped = False

    @property
    def chars(self) -> int:
        """Characters so far, those held back included."""
        return self._shown_chars + len(self._held)

    def push(self, token_id: int) -> str:
        """Text released by this token, possibly empty."""
        if self.stopped:
            return ""
        return self._show(self._decoder.push(token_id), final=False)

    def finish(self) -> str:
        """What was held back when the stream ends without a stop sequence."""
        return "" if self.stopped else self._show(self._decoder.finish(), final=True)

    def _show(self, text: str, *, final: bool) -> str:
        self._held += text
        ends = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return self._release(min(ends)[0])
        return self._release(len(self._held) - (0 if final else self._undecided_chars()))

    def _undecided_chars(self) -> int:
        """Length of the longest suffix that is a proper prefix of a stop sequence."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0

    def _release(self, chars: int) -> str:
        text, self._held = self._held[:chars], self._held[chars:]
        self._shown_chars += len(text)
        return text
