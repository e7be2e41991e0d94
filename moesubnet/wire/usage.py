"""What a router saw of each expert in an epoch, and how long its users' texts were, signed:
`GET /v1/usage/{epoch}` of its node."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgpack
from pydantic import BaseModel, ConfigDict, Field

from moesubnet.errors import FrameError
from moesubnet.types import Hotkey, Signer
from moesubnet.wire.signing import check_signature
from moesubnet.wire.step import MAX_FURTHER

USAGE_FORMAT = "moesubnet-usage/7"
MAX_USAGE_BYTES = 2**19
MAX_ROWS = 4_096
LENGTH_KINDS = 24  # the last is of 2^11.5 units and more
ROUND_KINDS = 3  # a text's first, after one without a guess, after one with
_CONTEXT = b"moesubnet-usage/7\n"

Count = Annotated[int, Field(ge=0, lt=2**53)]
Signed = Annotated[int, Field(gt=-(2**53), lt=2**53)]


class Seen(NamedTuple):
    """Of one expert. heard_rao: what callers who rated paid, by its part of what they rated;
    liked_rao: the same times the rating, −1 … 1."""

    hotkey: Annotated[str, Field(min_length=1, max_length=64)]
    answered: Count
    late: Count
    failed: Count
    heard_rao: Count = 0
    liked_rao: Signed = 0


def length_kind(units: int) -> int:
    """Of kind k are lengths from 2^(k/2) units, at least 1, to the next kind's."""
    return min((units * units).bit_length(), LENGTH_KINDS) - 1


class Usage(BaseModel):
    """Hotkeys sorted, each once. prompts, answers: how many texts had one of each `length_kind`, as
    experts were asked for them; of kinds past the last none. A prompt that goes on with an earlier
    one, as a chat's next turn does, is none of `prompts`: by kinds alike `more` are how many were
    so much longer than that one and its answer, `pauses` how many came so many tenths of a second
    after it. chats: how many texts were conversations under the spec's template. forks: how many
    were a further choice (`n`). ahead: of how many texts an expert was once asked to go on with k
    tokens, and never with more, from k = 0. rounds: how many there were in which an expert could
    have been asked to: texts' first such ones, those after one without, those after one with;
    asked: in how many of each it was."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    format: Literal["moesubnet-usage/7"] = "moesubnet-usage/7"
    netuid: Annotated[int, Field(ge=0, lt=2**16)]
    epoch: Annotated[int, Field(ge=0, lt=2**53)]
    router: Annotated[str, Field(min_length=1, max_length=64)]
    rows: Annotated[list[Seen], Field(max_length=MAX_ROWS)]
    prompts: Annotated[list[Count], Field(max_length=LENGTH_KINDS)] = []
    answers: Annotated[list[Count], Field(max_length=LENGTH_KINDS)] = []
    more: Annotated[list[Count], Field(max_length=LENGTH_KINDS)] = []
    pauses: Annotated[list[Count], Field(max_length=LENGTH_KINDS)] = []
    chats: Count = 0
    forks: Count = 0
    ahead: Annotated[list[Count], Field(max_length=MAX_FURTHER + 1)] = []
    rounds: Annotated[list[Count], Field(max_length=ROUND_KINDS)] = []
    asked: Annotated[list[Count], Field(max_length=ROUND_KINDS)] = []

    @property
    def later(self) -> int:
        """Prompts that go on with an earlier one."""
        return sum(self.more)

    @property
    def texts(self) -> int:
        return sum(self.prompts) + self.later

    def signed(self, signer: Signer) -> bytes:
        said = self._said()
        return bytes(msgpack.packb([said, signer.sign(_CONTEXT + said)]))

    @classmethod
    def proven(cls, data: bytes, router: Hotkey) -> Usage:
        """Raises FrameError, BadSignature."""
        if len(data) > MAX_USAGE_BYTES:
            raise FrameError("a summary of usage is too large")
        try:
            said, signature = msgpack.unpackb(data, max_array_len=2, max_map_len=0, max_ext_len=0)
            content = msgpack.unpackb(said, strict_map_key=True, max_ext_len=0)
            if (given := content["format"]) != USAGE_FORMAT:
                raise FrameError(f"a summary in {str(given)!r:.40}, where {USAGE_FORMAT} is read")
            content["rows"] = [Seen(*row) for row in content["rows"]]
            found = cls.model_validate(content)
            if not isinstance(signature, bytes):
                raise TypeError("a signature is bytes")
        except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
            raise FrameError(f"not {USAGE_FORMAT}") from error
        names = [row.hotkey for row in found.rows]
        if found._said() != said or found.router != router or names != sorted(set(names)):
            raise FrameError(f"not a canonical {USAGE_FORMAT} of {router}")
        if any(abs(row.liked_rao) > row.heard_rao for row in found.rows):
            raise FrameError("more liked than was heard")
        check_signature(signature, _CONTEXT + said, router)
        return found

    def _said(self) -> bytes:
        content = self.model_dump()
        content["rows"] = [list(row) for row in self.rows]
        return bytes(msgpack.packb(content))
