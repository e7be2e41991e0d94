"""Where a tokenizer may cut a text that has only begun.

Pre-tokenizers look ahead: whether the last of two spaces belongs to the next word, whether `'s` is
one piece, how digits are grouped shows only later. So the text is continued in every way that the
known ones tell apart, and each way that cuts what is there otherwise counts as possible.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

from moesubnet.engine.bytes_lexicon import Lexicon

Cuts = tuple[int, ...]

_MEMO = 1 << 14
# First those after which most texts are cut: a check ends with the first that fits.
_NEXT = [
    *("", "a", " a", "!", "1", "\n", " ", "A", "é", "世", "\u0301", "😀"),
    *(
        "12",
        "123",
        "1234",
        "1a",
        "12a",
        "  ",
        "  a",
        " \n",
        "\n\n",
        "\na",
        " 1",
        " !",
        "\t",
        "\r\n",
    ),
    *(
        "'",
        "'s",
        "'a",
        "s",
        "t",
        "re",
        "e",
        "ve",
        "m",
        "ll",
        "l",
        "d",
        "S",
        "T",
        "RE",
        "E",
        "LL",
        "L",
    ),
    *("s a", "aB", "Ab", "_", "-", "/", "!\n", "!/", "\u00a0", "\u200d", "٣", "٣a"),
]


class Borders:
    """Of one tokenizer. A border is a position that no token reaches over."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._splitter = lexicon.splitter
        self._spaced = lexicon.spaced
        added = lexicon.added_texts[::-1]  # the longest is found first
        self._added = re.compile("|".join(map(re.escape, added))) if added else None
        self._added_texts = added
        self._longest_added = max(map(len, added), default=0)
        self._possible: dict[bytes, frozenset[Cuts]] = {}

    @property
    def is_trivial(self) -> bool:
        """Whether texts are never cut."""
        return self._splitter is None and self._added is None

    def of(self, text: str) -> Cuts:
        """The borders of a whole text, in bytes, but for its beginning."""
        cuts: list[int] = []
        done = 0
        for found in self._added.finditer(text) if self._added else ():
            if found.start() > done:
                cuts += self._split(text[done : found.start()], done)
            cuts.append(found.end())
            done = found.end()
        if done < len(text):
            cuts += self._split(text[done:], done)
        if text.isascii():
            return tuple(cuts)
        ends = [0]
        for char in text:
            ends.append(ends[-1] + len(char.encode()))
        return tuple(ends[cut] for cut in cuts)

    def possible(self, raw: bytes) -> frozenset[Cuts]:
        """All ways in which a text that begins with these bytes may be cut inside them, or at
        their end; empty if no text begins so."""
        known = self._possible.get(raw)
        if known is None:
            if len(self._possible) > _MEMO:
                self._possible.clear()
            known = self._possible[raw] = frozenset(self.ways(raw))
        return known

    def ways(self, raw: bytes) -> Iterator[Cuts]:
        """The same one by one, the likeliest first, some more than once."""
        if (known := self._possible.get(raw)) is not None:
            yield from known
            return
        parted = parted_utf8(raw)
        if parted is None:
            return
        text, begun = parted
        if self.is_trivial:
            yield ()
            return
        if begun:
            for char in completions(begun):
                yield self._within(text + char, len(raw))
            return
        for more in _NEXT if self._splitter else ("", "a"):
            yield self._within(text + more, len(raw))
        tail = text[-self._longest_added :] if self._added else ""
        for size in range(len(tail), 0, -1):
            for added in self._added_texts:
                if len(added) > size and added.startswith(tail[-size:]):
                    yield self._within(text + added[size:], len(raw))

    def _within(self, text: str, size: int) -> Cuts:
        return tuple(cut for cut in self.of(text) if cut <= size)

    def _split(self, text: str, start: int) -> list[int]:
        if self._splitter is None:
            return [start + len(text)]
        spaced = text.replace(" ", "▁") if self._spaced else text
        return [start + end for _, (_, end) in self._splitter.pre_tokenize_str(spaced)]


def parted_utf8(raw: bytes) -> tuple[str, bytes] | None:
    """Whole characters, and the bytes of one that has begun; None if it is no UTF-8."""
    try:
        return raw.decode(), b""
    except UnicodeDecodeError as error:
        begun = raw[error.start :]
        if error.reason != "unexpected end of data" or not completions(begun):
            return None
        return raw[: error.start].decode(), begun


@cache
def completions(begun: bytes) -> tuple[str, ...]:
    """Characters that begin with these bytes, two of every class that there is."""
    found: dict[str, list[str]] = {}
    for raw in _filled(begun, (begun[0] >= 0xE0) + (begun[0] >= 0xF0) + 2 - len(begun)):
        try:
            char = raw.decode()
        except UnicodeDecodeError:
            continue
        alike = found.setdefault(unicodedata.category(char), [])
        if len(alike) < 2:
            alike.append(char)
    return tuple(char for alike in found.values() for char in alike)


def _filled(begun: bytes, missing: int) -> Iterator[bytes]:
    """Every byte that may be next; of the last after others only some."""
    if missing < 2:
        yield from (begun + bytes([byte]) for byte in range(0x80, 0xC0))
        return
    for byte in range(0x80, 0xC0):
        for end in (b"\x80", b"\x95", b"\xa9", b"\xbf"):
            yield begun + bytes([byte]) + end * (missing - 1)
