"""The private text that walks are drawn from. Every text is used once, ever: a miner that has seen
it cannot be measured on it again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Container, Mapping, Sequence, Set

import numpy as np
import numpy.typing as npt

from moesubnet.errors import ConfigError, PoolSpent
from moesubnet.host.paths import text_files
from moesubnet.spec.documents import Conversation, Document, read_texts
from moesubnet.units import TOKENS, Grain
from moesubnet.validator.conversations import Conversations, Turn
from moesubnet.validator.records import Window
from moesubnet.validator.shapes import Shape

PREFIX_TOKENS = 32
STEP_TOKENS = 16
WINDOW_TOKENS = PREFIX_TOKENS + STEP_TOKENS
ONE_WINDOW = Shape(PREFIX_TOKENS, STEP_TOKENS)  # of walks that need not look like users'
TRIES = 16  # to find a place with as much text as a walk is long
LEAST_KNOWN = 12  # tokens of a published walk that tell it from another text


class TextPool:
    """Private documents, cut into windows that do not overlap, of which a walk takes one or
    several; and conversations, of which a chat takes one."""

    def __init__(
        self,
        documents: Mapping[bytes, npt.NDArray[np.uint32]],
        grain: Grain = TOKENS,
        conversations: Conversations | None = None,
    ) -> None:
        """documents: token ids by SHA-256 of the text."""
        self.grain, self.window = grain, window_units(grain)
        self._documents = {k: ids for k, ids in documents.items() if len(ids) >= self.window}
        self.conversations = conversations or Conversations({})
        self.tokens = sum(len(ids) for ids in self._documents.values())
        if not self._documents and not self.conversations:
            raise ConfigError(
                f"the private text has no document of {self.window} {grain.unit}; give longer text"
            )

    @classmethod
    def load(
        cls,
        pattern: str,
        encode: Callable[[str], Sequence[int]],
        grain: Grain = TOKENS,
        turns: Callable[[Conversation], Sequence[Turn]] | None = None,
    ) -> TextPool:
        """Every file that matches `pattern`: .jsonl lines with a "text" or "messages", or one
        document each. turns: what walks may ask of a conversation, raises PromptError; None where
        there can be none. Raises ConfigError.
        """
        texts = {_key(text): text for path in text_files([pattern]) for text in read_texts(path)}
        if not texts:
            raise ConfigError(f"no text in {pattern!r}")
        said = {key: text for key, text in texts.items() if isinstance(text, Conversation)}
        documents = {
            key: np.array(encode(text.text), np.uint32)
            for key, text in texts.items()
            if isinstance(text, Document)
        }
        if said and turns is None:
            raise ConfigError(
                "on a subnet over bytes private text cannot be given as conversations: give it as "
                'lines of {"text": …}'
            )
        return cls(documents, grain, Conversations(said, turns) if turns else None)

    def free_windows(self, used: Mapping[bytes, Set[int] | None]) -> int:
        """How many windows were never used. `used` as `State.used_starts` gives it."""
        return sum(self._free(document, used) for document in self._documents)

    def repeats(
        self, used: Mapping[bytes, Set[int] | None], published: Sequence[npt.NDArray[np.uint32]]
    ) -> list[tuple[bytes, int]]:
        """(document, start) of unused windows that begin as a used one, an earlier one, or any
        window of a published walk: their labels may be known; and of conversations alike. Costs
        what windows there are."""
        prefix = self.grain.units(PREFIX_TOKENS)
        pieces = [ids[at:] for ids in published for at in range(0, len(ids), self.window)]
        known = {_beginning(ids, prefix) for ids in pieces}
        trimmed = {len(ids) for ids in pieces if self.grain.units(LEAST_KNOWN) <= len(ids) < prefix}
        unused: dict[bytes, tuple[bytes, int]] = {}
        again: list[tuple[bytes, int]] = []
        for document, ids in sorted(self._documents.items()):
            taken = used.get(document, frozenset())
            if taken is None:
                continue
            for start in self._starts(ids):
                begins = _beginning(ids[start:], prefix)
                if any(_beginning(ids[start:], length) in known for length in trimmed):
                    known.add(begins)
                if start in taken:
                    known.add(begins)
                elif begins in unused:
                    again.append((document, start))
                else:
                    unused[begins] = (document, start)
        again += [window for begins, window in unused.items() if begins in known]
        return again + self.conversations.repeats(used, published)

    def draw_chats(
        self,
        chats: Sequence[Sequence[Shape]],
        conversing: Sequence[bool],
        used: Mapping[bytes, Set[int] | None],
        seed: bytes,
    ) -> list[list[Window]]:
        """Fresh text for the turns of chats, chosen by `seed`; for fewer when less is left.

        conversing: which of them are conversations, as long as there is text of both kinds. Raises
        PoolSpent when none is left.
        """
        kinds = list(zip(chats, conversing, strict=True))
        said, written = ([chat for chat, is_said in kinds if is_said == kind] for kind in (1, 0))
        walks = self.conversations.draw(said, used, seed)
        written += said[len(walks) :]
        lasts = [chat[-1] for chat in written]
        windows = self.draw(lasts, used, seed) if lasts and self.free_windows(used) else []
        walks += map(turns_of, windows, written)
        if left := written[len(windows) :]:
            drawn = {walk[-1].document: None for walk in walks}
            walks += self.conversations.draw(left, {**used, **drawn}, seed)
        if not walks:
            raise self._spent()
        return walks

    def draw(
        self, shapes: Sequence[Shape], used: Mapping[bytes, Set[int] | None], seed: bytes
    ) -> list[Window]:
        """Fresh text for walks of these shapes, chosen by `seed`; for fewer when less is left.

        Where a document does not go on for so long the prefix is shorter. Raises PoolSpent when
        none is left.
        """
        fresh = self._draw_places(TRIES * len(shapes), used, random.Random(seed))
        drawn: dict[bytes, set[int]] = {}  # by document, beside what was used before
        windows: list[Window] = []
        for shape in shapes:
            best, starts = 0, range(0)
            for index, (document, start) in enumerate(fresh):
                before, now = used.get(document) or (), drawn.get(document, ())
                found = self._free_from(document, start, shape.units, before, now)
                if len(found) > len(starts):
                    best, starts = index, found
                if len(found) * self.window >= shape.units:
                    break
            if not starts:
                break
            document, _ = fresh.pop(best)
            drawn.setdefault(document, set()).update(starts)
            windows.append(self._window(document, starts, shape))
        return windows

    def _draw_places(
        self, most: int, used: Mapping[bytes, Set[int] | None], lots: random.Random
    ) -> list[tuple[bytes, int]]:
        """(document, start) of free windows. Costs what documents there are, and what windows
        those have that come up. Raises PoolSpent."""
        documents = sorted(self._documents)
        ends = np.cumsum([self._free(document, used) for document in documents])
        if not documents or not ends[-1]:
            raise self._spent()
        total = int(ends[-1])
        free: dict[bytes, list[int]] = {}
        places: list[tuple[bytes, int]] = []
        for place in lots.sample(range(total), min(most, total)):
            index = int(np.searchsorted(ends, place, side="right"))
            document, before = documents[index], int(ends[index - 1]) if index else 0
            if document not in free:
                starts, taken = self._starts(self._documents[document]), used.get(document) or ()
                free[document] = [start for start in starts if start not in taken]
            places.append((document, free[document][place - before]))
        return places

    def _spent(self) -> PoolSpent:
        said = f" and {len(self.conversations):,} conversations" if self.conversations else ""
        return PoolSpent(
            f"all {self.tokens:,} {self.grain.unit} of private text{said} are used, and none is "
            "used twice: the last vote is repeated until you add fresh text under --text and "
            "restart"
        )

    def _free_from(
        self,
        document: bytes,
        start: int,
        units: int,
        used: Container[int],
        drawn: Container[int],
    ) -> range:
        """The windows from `start` on that are free without a gap, as many as `units` take."""
        stop = min(start + units, self._starts(self._documents[document]).stop)
        going_on = range(start, stop, self.window)
        free = itertools.takewhile(lambda at: at not in used and at not in drawn, going_on)
        return going_on[: len(list(free))]

    def _window(self, document: bytes, starts: range, shape: Shape) -> Window:
        ids = self._documents[document][starts[0] : starts[-1] + self.window][: shape.units]
        is_cut = len(ids) < shape.units
        first = len(ids) - min(shape.steps, len(ids) // 2) if is_cut else shape.prefix
        return Window(document, tuple(starts), ids, first)

    def _free(self, document: bytes, used: Mapping[bytes, Set[int] | None]) -> int:
        starts = used.get(document, frozenset())
        if starts is None:  # another spec cut it into other windows
            return 0
        windows = self._starts(self._documents[document])
        return len(windows) - sum(start in windows for start in starts)

    def _starts(self, ids: npt.NDArray[np.uint32]) -> range:
        """Where the windows of a document begin."""
        return range(0, len(ids) - self.window + 1, self.window)


def _key(text: Document | Conversation) -> bytes:
    if isinstance(text, Document):
        return hashlib.sha256(text.text.encode()).digest()
    return hashlib.sha256(json.dumps(text.messages, sort_keys=True).encode()).digest()


def turns_of(window: Window, chat: Sequence[Shape]) -> list[Window]:
    """The walks of a chat, through text that was drawn for its last; less those that are too long
    where the text is shorter."""
    earlier = [
        Window(window.document, (), window.ids[: shape.units], shape.prefix)
        for shape in chat[:-1]
        if shape.units < window.first
    ]
    return [*earlier, window]


def window_units(grain: Grain) -> int:
    """Of what private text is used in multiples."""
    return grain.units(PREFIX_TOKENS) + grain.units(STEP_TOKENS)


def _beginning(ids: npt.NDArray[np.uint32], prefix: int) -> bytes:
    return ids[:prefix].astype("<u4").tobytes()
