"""From token ids to text as it may be shown: whole characters only, never past a stop sequence."""

from __future__ import annotations

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
    if tokenizer.decoder.__class__.__name__ == "ByteLevel" and all(s in table for s in symbols):
        return bytes(table[symbol] for symbol in symbols)
    decoded: str = tokenizer.decode([token_id], skip_special_tokens=False)
    return decoded.encode()


class TextStream:
    """Text of one choice as it grows.

    `push` returns what may be shown now: a multi-byte character waits for its last byte, and text
    that could be the beginning of a stop sequence waits until it is decided. After `stopped`
    nothing more comes; the stop sequence itself is never shown.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str], prompt_ids: Sequence[int]
    ) -> None:
        # The prompt's last ids prime the decoder, so that a leading space is decoded as one.
        self._decoder = DecodeStream(list(prompt_ids[-8:]), skip_special_tokens=True)
        self._tokenizer = tokenizer
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
        self._held += self._decoder.step(self._tokenizer, token_id) or ""
        ends = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return self._release(min(ends)[0])
        return self._release(len(self._held) - self._undecided_chars())

    def finish(self) -> str:
        """What was held back when the stream ends without a stop sequence."""
        return "" if self.stopped else self._release(len(self._held))

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
