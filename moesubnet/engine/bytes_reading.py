"""One sequence of bytes as a model reads it: token ids that are certain, then a covering tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesubnet.engine.bytes_borders import Borders, parted_utf8
from moesubnet.engine.bytes_cover import Cover
from moesubnet.engine.bytes_lexicon import Lexicon
from moesubnet.spec.byte_unit import Section, Symbols, head_law, sections

READ_BYTES = 512  # of a text before the first law that is wanted; the rest is encoded at once
SETTLED_BYTES = 128  # what is encoded at once ends so much earlier

Encode = Callable[[str], list[int]]
Logs = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reader:
    """How texts of one kind are read: what people write, or what the model writes itself."""

    lexicon: Lexicon
    borders: Borders
    encode: Encode


@dataclass(slots=True, eq=False)
class Stretch:
    """Symbols from `begin` on, read after the tokens of `before` and `added`; it has laws from
    `first` on.

    text: where the text begins that it is a part of. lead: bytes that the cover has read before.
    """

    text: int
    begin: int
    first: int
    before: Stretch | None
    added: tuple[int, ...]
    cover: Cover
    lead: int

    @property
    def prefix(self) -> list[int]:
        """The tokens before it. Kept in parts: of bytes that are no text each begins a stretch."""
        parts: list[tuple[int, ...]] = []
        stretch: Stretch | None = self
        while stretch is not None:
            parts.append(stretch.added)
            stretch = stretch.before
        return [token for added in reversed(parts) for token in added]

    @property
    def end(self) -> int:
        return self.begin + len(self.cover.text) - self.lead

    def place(self, position: int) -> int:
        """Where the law of a position stands in the cover."""
        return position - self.begin + self.lead

    def fork(self) -> Stretch:
        parts = self.text, self.begin, self.first, self.before, self.added
        return Stretch(*parts, self.cover.fork(), self.lead)


class Reading:
    """What is known of one sequence. `laws`: float32 [257] by position."""

    def __init__(self) -> None:
        self.symbols: Symbols = np.empty(0, np.uint32)
        self.laws: dict[int, Logs] = {}
        self._stretches: list[Stretch] = []

    def fork(self) -> Reading:
        other = Reading()
        other.symbols, other.laws = self.symbols, dict(self.laws)
        other._stretches = [stretch.fork() for stretch in self._stretches]
        return other

    def common(self, symbols: Symbols) -> int:
        """How many symbols it begins with that are these."""
        size = min(len(self.symbols), len(symbols))
        same = self.symbols[:size] == symbols[:size]
        return size if same.all() else int(same.argmin())

    def follow(
        self,
        symbols: Symbols,
        first: int,
        reader_of: Callable[[Section], Reader],
        prefix_of: Callable[[Section], tuple[int, ...]],
    ) -> None:
        """Read `symbols`, for laws of the positions from `first` on. Raises PromptError."""
        kept = self.common(symbols)
        self.symbols = symbols
        self.laws = {at: law for at, law in self.laws.items() if first <= at <= kept}
        self._stretches = [s for s in self._stretches if s.first <= kept]
        if self._stretches:
            last = self._stretches[-1]
            last.cover.truncate(last.place(min(kept, last.end)))
        done = 0
        for section in sections(symbols):
            self._read_head(done + 1, first, section.begin)
            if section.end >= first:
                self._read(section, max(first, section.begin), reader_of, prefix_of)
            done = section.end
        self._read_head(done + 1, first, len(symbols) + 1)

    def _read_head(self, begin: int, first: int, end: int) -> None:
        """Have the laws from `first` on of a turn's head, which begins at `begin`."""
        for at in range(max(begin, first), end):
            self.laws.setdefault(at, head_law(self.symbols[:at], begin))

    def place(self, position: int) -> tuple[Stretch, int]:
        """The stretch that has the law of a position, and where in its cover."""
        stretch = next(s for s in reversed(self._stretches) if s.first <= position)
        return stretch, stretch.place(position)

    def _read(
        self,
        section: Section,
        first: int,
        reader_of: Callable[[Section], Reader],
        prefix_of: Callable[[Section], tuple[int, ...]],
    ) -> None:
        """Have stretches for the positions `first` … `section.end`."""
        ours = [s for s in self._stretches if s.text == section.begin]
        reader = reader_of(section)
        if not ours or ours[0].first > first or ours[-1].end + READ_BYTES < first:
            self._stretches = [s for s in self._stretches if s.text < section.begin]
            self._stretches.append(self._begin(section, first, reader, prefix_of(section)))
        while (last := self._stretches[-1]).end < section.end:
            at = last.end
            if not last.cover.push(int(self.symbols[at])):
                self._stretches.append(_past(last, int(self.symbols[at]), reader))

    def _begin(
        self, section: Section, first: int, reader: Reader, prefix: tuple[int, ...]
    ) -> Stretch:
        """A stretch that begins a little before the first law that is wanted."""
        at, lexicon = section.begin, reader.lexicon
        lead = lexicon.lead if section.turns is None else b""
        if first - at > READ_BYTES:
            settled = _settled(self.symbols[at:first].astype(np.uint8).tobytes(), reader)
            at, prefix, lead = at + settled[0], (*prefix, *settled[1]), b""
        cover = Cover(lexicon, reader.borders, lead)
        return Stretch(section.begin, at, at, None, prefix, cover, len(lead))


def _settled(raw: bytes, reader: Reader) -> tuple[int, list[int]]:
    """How many bytes of a long text's beginning are tokens already, and these."""
    cut = raw[: len(raw) - SETTLED_BYTES]
    whole = cut.decode("utf-8", "ignore") if parted_utf8(cut) else cut.decode("utf-8", "replace")
    ids, lexicon = reader.encode(whole), reader.lexicon
    kept = ids[:-2]  # what follows may still join the last
    spelled = b"".join(lexicon.bytes_of.get(token, b"") for token in kept)[len(lexicon.lead) :]
    if raw.startswith(spelled):
        return len(spelled), kept
    # Text that the tokenizer rewrites, or none: up to where a character begins, if one does nearby.
    ends = range(len(cut), max(len(cut) - 4, 0), -1)
    return next((end for end in ends if raw[end] & 0xC0 != 0x80), len(cut)), ids


def _past(stretch: Stretch, byte: int, reader: Reader) -> Stretch:
    """Going on where no text of this tokenizer goes: the bytes that are none are tokens each."""
    read, end = stretch.cover, len(stretch.cover.text)
    at = end
    while (node := read.canonical(at)) is None:
        at -= 1
    odd = bytes(read.text[at:]) or bytes([byte])
    begin = stretch.end + (at == end)
    added = (*node.path(), *reader.lexicon.each(odd))
    cover = Cover(reader.lexicon, reader.borders)
    return Stretch(stretch.text, begin, stretch.end + 1, stretch, added, cover, 0)


def fitted(prefix: Sequence[int], path: Sequence[int], room: int) -> list[int]:
    """The last of these ids, at most `room`; what is left out grows in large steps."""
    ids = [*prefix, *path]
    over = len(ids) - room
    if over <= 0:
        return ids
    step = max(1, room // 4)
    return ids[-(-over // step) * step :]
