"""From token ids to text as it may be shown: whole characters only, never past a stop sequence."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence

from moesubnet.spec.pieces import Pieces

MOST_BYTES = 4  # of a character


class _Decoder:
    """Characters as soon as their bytes are there; bytes that are no UTF-8 are U+FFFD at once."""

    def __init__(self, pieces: Pieces, before: Sequence[int], shown: Collection[int] = ()) -> None:
        self._pieces = pieces
        self._hidden = pieces.hidden.difference(shown)
        self._begins = all(token_id in self._hidden for token_id in before)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        if not self._begins:
            for token_id in before[-MOST_BYTES:]:
                self.push(token_id)

    def push(self, token_id: int) -> str:
        if token_id in self._hidden:
            return ""
        piece = self._pieces.first if self._begins else self._pieces.inside
        self._begins = False
        return self._utf8.decode(piece(token_id))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class TextStream:
    """Text of one choice as it grows.

    `push` returns what may be shown now: a multi-byte character waits for its last byte, and text
    that could be the beginning of a stop sequence waits until it is decided. After `stopped`
    nothing more comes; the stop sequence itself is never shown.
    """

    def __init__(
        self,
        pieces: Pieces,
        stops: Sequence[str],
        before: Sequence[int] = (),
        shown: Collection[int] = (),
    ) -> None:
        """before: the ids that the text continues; none for a text of its own, such as an answer
        in a chat, which some tokenizers begin with a space that is not shown. shown: control
        tokens that are shown, by their names."""
        self._decoder = _Decoder(pieces, before, shown)
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
