"""A server of the OpenAI API as a giver of laws: token ids go in, log-probabilities by id come out.

The standard's `POST /v1/completions` takes token ids as a prompt but names tokens by their text,
which is no name. Two servers do better, and either form is read here, whoever sends it: llama.cpp's
lists `{"id": …, "logprob": …}`, vLLM names tokens `token_id:…` (`return_tokens_as_token_ids`) and
knows the laws inside a prompt (`prompt_logprobs`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np

from moesubnet.engine.base import TokenIds
from moesubnet.errors import EngineError
from moesubnet.mixture.law import Law
from moesubnet.wire.strict_json import parse_json

log = logging.getLogger(__name__)

ANSWER_S = 120.0  # a long prompt's first answer, on a CPU
PAUSES_S = (0.5, 1.0, 2.0)  # before trying again; in all less than routers wait for a step
BUSY = (429, 502, 503, 504)
MAX_BYTES, ENTRY_BYTES = 1 << 16, 512  # of an answer, and for each log-probability in it
MASS_TOLERANCE = 1e-2  # servers round, and some compute in half precision
LEAST_TAIL = 1e-6  # what rounding may hide of the tokens that are not listed
MIN_LOGPROB = -100.0


class CannotTell(EngineError):
    """The server answered, and what is asked is not in its answer."""


@dataclass(frozen=True)
class Completion:
    """law: of the next token. inside: laws of positions 1 … len(prompt) − 1, where asked.
    prompt_tokens, cached_tokens: as the server counts; None if it does not say."""

    law: Law
    inside: Sequence[Law]
    prompt_tokens: int | None
    cached_tokens: int | None


class CompletionServer:
    """url: with or without `/v1`. key: sent as a bearer token. vocab_size: of ids that count; a
    model may have more.

    shape: of what it does not list. model: the server's name for it. steer: what it is made to
    generate, where that leaves laws as they are. (llama.cpp's gives no law where it generated a
    part of a character.)
    """

    def __init__(self, url: str, *, key: str, vocab_size: int, shape: Law | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = ""
        self.steer: int | None = None
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._vocab_size, self.shape = vocab_size, shape
        self._session: aiohttp.ClientSession | None = None
        self._troubled = self._is_away = False  # away: it was asked often enough, in vain

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def models(self) -> list[dict[str, Any]]:
        """What it serves, each with an `id`."""
        answer = await self._ask("GET", "/v1/models", None, MAX_BYTES)
        listed = answer.get("data")
        if not isinstance(listed, list) or not listed:
            raise CannotTell("it lists no model at /v1/models")
        return [m for m in listed if isinstance(m, dict) and isinstance(m.get("id"), str)]

    async def slots(self) -> int | None:
        """How many sequences llama.cpp's server keeps; None from others."""
        try:
            answer = await self._ask("GET", "/props", None, 1 << 20)
        except EngineError:
            return None
        return _count(answer.get("total_slots")) or None

    async def tokenize(self, text: str) -> list[int]:
        """The ids of a text, without those of a beginning. llama.cpp reads `content`, vLLM and
        SGLang read `prompt`."""
        body = {
            "model": self.model,
            "content": text,
            "prompt": text,
            "add_special": False,
            "add_special_tokens": False,
            "parse_special": False,
        }
        answer = await self._ask("POST", "/tokenize", body, MAX_BYTES + 64 * len(text))
        ids = answer.get("tokens")
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise CannotTell("its /tokenize gives no list of ids")
        return ids

    async def complete(
        self, prompt: TokenIds, count: int, *, inside: bool = False, salt: str = ""
    ) -> Completion:
        """The likeliest `count` tokens after the prompt, fewer where it lists no more; also of each
        position inside it. salt: prompts of different ones share no cache, where the server can.

        Raises EngineError, CannotTell.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": prompt.tolist(),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": count,
            "return_tokens_as_token_ids": True,
        }
        if self.steer is not None:
            body["logit_bias"] = {str(self.steer): 100}
        if salt:
            body["cache_salt"] = salt
        if inside:
            body["prompt_logprobs"] = count
        entries = (count + 1) * (len(prompt) if inside else 1)
        limit = MAX_BYTES + 16 * len(prompt) + ENTRY_BYTES * entries
        answer = await self._ask("POST", "/v1/completions", body, limit)
        try:
            choice = answer["choices"][0]
            law = self._law(_entries(choice["logprobs"]))
            told = choice["prompt_logprobs"][1:] if inside else []
            laws = [self._law(_inside(row)) for row in told]
        except KeyError as missing:
            raise CannotTell(f"no {missing} in its answers to /v1/completions") from None
        except (TypeError, IndexError, ValueError, AttributeError, OverflowError) as error:
            raise CannotTell(
                f"its log-probabilities are in no form that names tokens by id ({error})"
            ) from error
        if inside and len(laws) != len(prompt) - 1:
            raise CannotTell("it gives no law of each position in the prompt")
        usage = _member(answer, "usage")
        details = _member(usage, "prompt_tokens_details")
        return Completion(
            law, laws, _count(usage.get("prompt_tokens")), _count(details.get("cached_tokens"))
        )

    def _law(self, entries: Iterable[tuple[int, float]]) -> Law:
        """Of (id, log-probability) in any order; ids outside the vocabulary join the tail."""
        pairs = [(token, logp) for token, logp in entries if 0 <= token < self._vocab_size]
        ids, place = np.unique(np.array([token for token, _ in pairs], np.int64), return_index=True)
        logp = np.array([logp for _, logp in pairs], np.float64)[place]
        if not len(ids):
            raise ValueError("nothing of the vocabulary")
        mass = float(np.exp(np.minimum(logp, 1.0)).sum())
        if not 0.0 < mass <= 1.0 + MASS_TOLERANCE:
            raise ValueError(f"their mass is {mass}")
        tail = max(1.0 - mass, LEAST_TAIL) if len(ids) < self._vocab_size else 0.0
        logp = np.maximum(logp - np.log(mass + tail), MIN_LOGPROB).astype(np.float32)
        return Law(logp, ids, tail / (mass + tail), self.shape)

    async def _ask(self, method: str, path: str, body: object, limit: int) -> Any:
        """A JSON object of at most `limit` bytes. While it is busy or away it is tried again; once
        that was in vain, each question is one try, until one is answered."""
        problem = ""
        for pause_s in (*(() if self._is_away else PAUSES_S), None):
            try:
                status, data = await self._once(method, path, body, limit)
            except aiohttp.ServerTimeoutError as error:  # of the connection
                problem = f"{self.url} does not answer: {error}"
            except TimeoutError:  # nobody waits for a second answer that takes as long
                raise EngineError(f"{self.url}{path} took more than {ANSWER_S:.0f} s") from None
            except (aiohttp.ClientError, OSError) as error:
                problem = f"{self.url} does not answer: {error or type(error).__name__}"
            else:
                if status == 200:
                    self._is_away = False
                    self._tell("")
                    return _object(data, path)
                problem = f"{self.url}{path} answers {status}: {_shown(data)}"
                if status not in BUSY:
                    raise EngineError(problem)
            self._tell(problem)
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        self._is_away = True
        raise EngineError(problem)

    def _tell(self, problem: str) -> None:
        """Say that it is away or busy, and that it is back, each once: callers may not wait until
        a question has failed."""
        if problem and not self._troubled:
            log.warning("%s; it is asked again", problem)
        elif self._troubled and not problem:
            log.info("%s answers again", self.url)
        self._troubled = bool(problem)

    async def _once(self, method: str, path: str, body: object, limit: int) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=5.0),
                connector=aiohttp.TCPConnector(limit=0),
            )
        async with self._session.request(
            method, self.url + path, json=body, allow_redirects=False
        ) as answer:
            data = bytearray()
            async for part in answer.content.iter_any():
                data += part
                if len(data) > limit:
                    answer.close()
                    raise EngineError(f"{self.url}{path} answers more than {limit} bytes")
            return answer.status, bytes(data)


def _entries(logprobs: Any) -> Iterable[tuple[int, float]]:
    """(id, log-probability) of the first generated token's candidates."""
    if "content" in logprobs:
        return [(_id(e["id"]), float(e["logprob"])) for e in logprobs["content"][0]["top_logprobs"]]
    named: Mapping[str, float] = logprobs["top_logprobs"][0]
    if any(not name.startswith("token_id:") for name in named):
        raise ValueError("it names tokens by their text")
    return [(int(name.removeprefix("token_id:")), float(p)) for name, p in named.items()]


def _inside(row: Mapping[str, Mapping[str, float]]) -> Iterable[tuple[int, float]]:
    return [(int(token), float(entry["logprob"])) for token, entry in row.items()]


def _id(value: Any) -> int:
    if type(value) is not int:
        raise ValueError("an id is no integer")
    return value


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**31 else None


def _member(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object in an answer; empty where there is none."""
    value = answer.get(name)
    return value if isinstance(value, dict) else {}


def _object(data: bytes, path: str) -> dict[str, Any]:
    try:
        answer = parse_json(data)
    except ValueError as error:
        raise EngineError(f"{path} answers no JSON: {error}") from error
    if not isinstance(answer, dict):
        raise EngineError(f"{path} answers no JSON object")
    return answer


def _shown(data: bytes) -> str:
    text = data[:300].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text)
