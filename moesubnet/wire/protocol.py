"""The bodies on the wire: those of `/v1/step`, which travel in lanes, and the JSON ones."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from moesubnet.units import MAX_PRICE_RAO_PER_MTOKEN
from moesubnet.wire.distributions import Rows
from moesubnet.wire.responses import (
    ROWS_SCHEMA,
    Proof,
    StepResponse,
    max_answer_bytes,
    read_answers,
)
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import (
    SESSION_PATTERN,
    STEP_SCHEMA,
    Ids,
    Kind,
    SequenceStep,
    StepLimits,
    StepRequest,
    Want,
    base_hash,
    is_short,
    want_for,
)

__all__ = [
    "ROWS_SCHEMA",
    "STEP_SCHEMA",
    "Card",
    "CloseRequest",
    "ExpertCard",
    "GenerateChunk",
    "GenerateRequest",
    "Ids",
    "Kind",
    "Proof",
    "RouterCard",
    "Rows",
    "SequenceStep",
    "StepLimits",
    "StepRequest",
    "StepResponse",
    "StepRows",
    "StreamReceipt",
    "Want",
    "base_hash",
    "is_short",
    "max_answer_bytes",
    "read_answers",
    "want_for",
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


TokenId = Annotated[int, Field(ge=0, lt=2**32)]
WeightsUrl = Annotated[str, Field(pattern=r"^https?://[!-~]{1,240}$")]


class Card(_Model):
    """What a neuron says of itself, at `path`. Claims, checked elsewhere."""

    path: ClassVar[str]
    hotkey: str = Field(max_length=48)
    spec_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    version: str = Field(max_length=32)


class RouterCard(Card):
    """Of a router's node."""

    path = "/v1/router"


class ExpertCard(Card):
    """Of a miner."""

    path = "/v1/expert"
    model_commitment: str = Field(pattern=r"^[0-9a-f]{64}$")
    weights_url: WeightsUrl | None = None  # of what `model_commitment` names; None: private
    name: str = Field(max_length=64)
    context_tokens: int = Field(ge=1, le=2**24)
    vocab_size: int = Field(ge=2, le=2**24)
    max_sequences: int = Field(ge=1, le=4_096)
    commits: bool = False  # to the tails of rows, when asked
    lists: int = Field(default=0, ge=0, le=2**24)  # tokens of a row at most; 0: as many as asked
    draws_ahead: bool = False  # tokens of its own, where a step says how (`ahead`)
    tells_prompts: bool = True  # False: each position that is asked costs it a pass of its own
    engine: str = Field(max_length=64)
    price_rao_per_mtoken: int = Field(ge=0, le=MAX_PRICE_RAO_PER_MTOKEN)


class CloseRequest(_Model):
    """`POST /v1/close`, JSON; answered with `{}`: these sessions of the sender are over."""

    sessions: list[Annotated[str, Field(pattern=SESSION_PATTERN)]] = Field(
        min_length=1, max_length=256
    )


class GenerateRequest(_Model):
    """`POST /v1/generate`, JSON; answered as a stream of GenerateChunk lines (ndjson)."""

    prompt_ids: list[TokenId] = Field(max_length=65_536)
    max_tokens: int = Field(ge=1, le=65_536)
    temperature: float = Field(default=1.0, ge=0.0, le=10.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, lt=2**63)


class GenerateChunk(_Model):
    """Some tokens with their log-probabilities; the last chunk says why it ended.

    After it comes one StreamReceipt line.
    """

    ids: list[TokenId] = Field(default=[], max_length=4_096)
    logprobs: list[Annotated[float, Field(le=0.0, allow_inf_nan=False)]] = Field(
        default=[], max_length=4_096
    )
    finish_reason: Literal["stop", "length"] | None = None


class StreamReceipt(_Model):
    """The last line of a stream: a receipt for every byte before this line."""

    receipt: str = Field(max_length=130)
