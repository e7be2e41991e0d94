"""What each token adds to a text, as bytes, for the kinds of tokenizer that language models have.

Byte-level BPE spells a byte by a symbol (GPT-2's table). SentencePiece's children write a space as
`▁`, and a byte that no token has as `<0xE3>`; some drop the space that a text begins with. The
bytes of tokens one after the other are the text that `Tokenizer.decode` gives for all at once,
with one difference: where `<0x..>` tokens in a row are no UTF-8, decode replaces every byte of the
row, here the characters among them stay.
"""

from __future__ import annotations

import json
import re
from functools import cache, lru_cache
from typing import Any

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
KEPT = 8_192  # tokens whose spelling is remembered
_EXACT = {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}


class Pieces:
    """The pieces of one tokenizer. `hidden` are the ids that no text shows; `is_exact` is False
    for a kind of decoder that is not known to work token by token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        decoders = _kinds(tokenizer)
        self.is_byte_level = "ByteLevel" in decoders
        self.is_exact = decoders <= _EXACT
        self._has_bytes = "ByteFallback" in decoders
        added = tokenizer.get_added_tokens_decoder()
        self.hidden = frozenset(token_id for token_id, token in added.items() if token.special)
        # Something that stands before, so that a token is decoded as one in the middle of a text.
        self._before = tokenizer.encode("a", add_special_tokens=False).ids[-1:]
        self._known = len(self._decode([]))
        self._inside = lru_cache(KEPT)(self._spelled)

    def inside(self, token_id: int) -> bytes:
        """What the token adds to a text that has begun; a special one by its name."""
        return self._inside(token_id)

    def _spelled(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self.is_byte_level:
            table = byte_of_symbol()
            known = all(symbol in table for symbol in token)
            return bytes(table[symbol] for symbol in token) if known else token.encode()
        if self._has_bytes and (byte := _BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        return self._decode([token_id])[self._known :].encode()

    def first(self, token_id: int) -> bytes:
        """What a text begins with if this is its first token."""
        raw = self.inside(token_id)
        if self.is_byte_level or not raw.startswith(b" "):
            return raw
        return self._tokenizer.decode([token_id], skip_special_tokens=False).encode()

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode([*self._before, *ids], skip_special_tokens=False)
        return text


def _kinds(tokenizer: Tokenizer) -> set[str]:
    """The types of its decoder's steps; empty where it has none."""
    if tokenizer.decoder is None:
        return {"None"}
    state: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__())
    return {step["type"] for step in state.get("decoders", [state])}


@cache
def byte_of_symbol() -> dict[str, int]:
    """The byte that each symbol of a byte-level vocabulary stands for."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table |= {chr(256 + index): byte for index, byte in enumerate(others)}
    return table
