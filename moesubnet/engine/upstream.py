"""A model that another server runs already: llama.cpp's server, vLLM, or who answers like them.

At the start it is asked for everything that serving needs, and what it cannot tell is said.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Coroutine, Sequence
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from moesubnet.engine.base import Query, TokenIds, check_batch, context_token, owner
from moesubnet.engine.completions import CannotTell, Completion, CompletionServer
from moesubnet.errors import ConfigError, EngineError
from moesubnet.mixture.baseline import Unigram, load_baseline
from moesubnet.mixture.law import Law
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import NUCLEUS_K, Want, want_for

log = logging.getLogger(__name__)

KEY_VARIABLE = "MOESUBNET_UPSTREAM_KEY"
IDENTITY = ("id", "root", "owned_by", "meta")  # what it says of a model that does not change
COUNTS = (NUCLEUS_K, 1_024, 256, 128, 64, 20, 10, 5, 1)  # of log-probabilities, tried in order
AT_ONCE = 64  # requests to a server that does not say how many sequences it keeps
STEERED_TOLERANCE = 0.02  # of a probability: what batching changes of a law
PROBE_TOKENS = 300  # more than a block of any server's cache
MEASURED_TOKENS = 32  # texts on which the price of a short list is measured
GAIN_NATS = 0.1  # what a good expert takes off the mixture; pay is explained on it
SAMPLES = (
    "The quick brown fox jumps over the lazy dog; it isn't 12,345.67 times as quick.",
    "def main(argv):\n\treturn {'a': [1, 2], \"b\": None}\n\n\n    # spaces    and\ttabs\r\n",
    "naïve café, Straße, Ελληνικά, русский текст, العربية, हिन्दी, 世界 こんにちは 한국어",
    "🙂👩‍👩‍👧 e\u0301 \u00a0\u2003 ≤ ∑ → <b>bold</b> http://example.org/?q=1&r=2 __init__ ++i;",
)
T = TypeVar("T")


class UpstreamEngine:
    """An OpenAI-compatible server as `Engine`.

    model: what the server calls it; empty for the first that it serves. upstream: the server's URL.
    A key for it is read from the environment, MOESUBNET_UPSTREAM_KEY. texts: on which the baseline
    is counted, where the spec has neither.

    lists: the most tokens of a law that it names; the others share the rest in the proportions of
    the subnet's baseline. tells_prompts: whether one request tells the laws inside a prompt; if
    not, each position is a request of its own. caches: whether it keeps what it read.
    """

    name = "upstream"

    def __init__(
        self,
        model: str,
        spec: LoadedSpec,
        *,
        threads: int = 1,
        upstream: str,
        texts: Sequence[str] | None = None,
    ) -> None:
        self._join(model, spec, upstream, texts)
        try:
            self.lists, self.tells_prompts, self.caches = self._wait(self._probe())
            self._free = asyncio.Semaphore(self._wait(self._server.slots()) or AT_ONCE)
            self._say()
        except BaseException:
            self.close()
            raise

    def _join(
        self, model: str, spec: LoadedSpec, upstream: str, texts: Sequence[str] | None
    ) -> None:
        """Find the model, see that its tokens are ours and that it gives laws of them."""
        self._loop = asyncio.new_event_loop()
        self.vocab_size = spec.spec.vocab_size
        self.context_tokens = spec.spec.context_tokens
        self._start = np.array([context_token(spec.spec)], np.uint32)
        self._spec = spec
        self._tokenizer = load_tokenizer(spec.tokenizer_path)
        self._texts = _public_text(spec) if texts is None else texts
        self._server = _server(upstream, self.vocab_size)
        self._server.shape = (load_baseline(spec) if texts is None else self._unigram(texts)).law
        try:
            about = self._wait(self._find(model))
            self._wait(self._try())
        except BaseException:
            self.close()
            raise
        said = json.dumps({name: about.get(name) for name in IDENTITY}, sort_keys=True)
        self.commitment = hashlib.sha256(said.encode()).hexdigest()

    @classmethod
    def check(
        cls, model: str, spec: LoadedSpec, *, upstream: str, texts: Sequence[str] | None = None
    ) -> None:
        """Raises EngineError unless a server is there whose model has the subnet's tokenizer and
        gives laws. What it can beyond that is asked, and said, when it is loaded."""
        self = cls.__new__(cls)
        self._join(model, spec, upstream, texts)
        self.close()

    @staticmethod
    def context_of(model: str, upstream: str) -> int | None:
        """How many tokens of a sequence the server reads, if it says so. Raises EngineError."""

        async def ask() -> int | None:
            server = _server(upstream, 1)
            try:
                return _context(_chosen(server, model, await server.models()))
            finally:
                await server.close()

        return asyncio.run(ask())

    def rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        """See `Engine.rows`."""
        check_batch(batch, self.vocab_size, self.context_tokens)
        return self._wait(self._rows(batch, want))

    def forget(self, session: str) -> None:
        """See `Engine.forget`; the server forgets by itself."""

    def close(self) -> None:
        """Let go of the server."""
        self._wait(self._server.close())
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    async def _rows(self, batch: Sequence[Query], want: Want) -> list[StepRows]:
        # a draft may be any token, and all of a law is committed to
        width = self.vocab_size if want.committed else want.width(self.vocab_size)
        # all are waited for: none may be under way when the loop stops
        found = await asyncio.gather(
            *(self._laws(q, self.lists if q.draft else min(self.lists, width)) for q in batch),
            return_exceptions=True,
        )
        for laws in found:
            if isinstance(laws, BaseException):
                raise laws
        laws_of = [laws for laws in found if not isinstance(laws, BaseException)]
        return [
            query.answer_listed(laws, self.vocab_size, want)
            for query, laws in zip(batch, laws_of, strict=True)
        ]

    async def _laws(self, query: Query, count: int) -> list[Law]:
        """Of the positions from the query's first law to its end."""
        prompt = np.concatenate((self._start, query.ids))
        salt = hashlib.sha256(owner(query.session).encode()).hexdigest()[:16]
        first, end = query.first_law, len(query.ids)
        async with self._free:
            if self.tells_prompts and end - first >= max(2, end // 4):
                whole = await self._server.complete(prompt, count, inside=True, salt=salt)
                return [*whole.inside[first:], whole.law]
            # one after the other, so that each finds what the one before it left in the cache
            return [
                (await self._server.complete(prompt[: place + 1], count, salt=salt)).law
                for place in range(first, end + 1)
            ]

    async def _find(self, model: str) -> dict[str, Any]:
        """Choose the model; what the server says of it. Raises EngineError where it cannot join."""
        about = _chosen(self._server, model, await self._server.models())
        self._server.model = about["id"]
        context = _context(about)
        if context is not None and context <= self.context_tokens:
            # one more is needed for the token that it insists on generating
            self.context_tokens = context - 1
            if context < self._spec.spec.context_tokens:
                raise EngineError(
                    f"{self._server.url} reads {context} tokens of a sequence, the subnet's "
                    f"context has {self._spec.spec.context_tokens}: start it with more "
                    "(llama.cpp: -c, of which each slot has its part; vLLM: --max-model-len)"
                )
        await self._check_tokenizer()
        return about

    async def _check_tokenizer(self) -> None:
        for text in (*SAMPLES, *(text[:2_000] for text in self._texts[:4])):
            expected = self._encode(text)
            self._tokenizer.encode_special_tokens = True  # a typed control token is text to some
            plain = self._encode(text)
            self._tokenizer.encode_special_tokens = False
            if plain != expected:
                continue
            try:
                found = await self._server.tokenize(text)
            except EngineError as error:
                raise EngineError(
                    f"{self._server.url} does not tell its tokenizer, without which nobody knows "
                    f"what its ids mean: {error}"
                ) from error
            if found != expected:
                at = next(
                    (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b),
                    min(len(expected), len(found)),
                )
                before = self._tokenizer.decode(expected[:at])[-20:]
                raise EngineError(
                    f"{self._server.model} at {self._server.url} does not have the tokenizer of "
                    f"{self._spec.tokenizer_path.parent}: after {before!r} in {text[:40]!r}… that "
                    f"one goes on with {expected[at : at + 3]}, its own with "
                    f"{found[at : at + 3]}. Serve a model of that family"
                )

    async def _try(self) -> None:
        """Raises EngineError unless it takes ids as they are and gives laws."""
        prompt = self._sample_prompt(PROBE_TOKENS)
        self._server.steer = self._encode("a")[0]
        read = (await self._server.complete(prompt, 1)).prompt_tokens
        if read not in (None, len(prompt)):
            raise EngineError(
                f"{self._server.url} read {read} tokens of a prompt of {len(prompt)} ids: it does "
                "not take token ids as they are"
            )

    async def _probe(self) -> tuple[int, bool, bool]:
        """How many it lists, whether it tells the laws inside prompts and keeps what it read."""
        prompt = self._sample_prompt(PROBE_TOKENS)
        lists, answer = await self._most_listed(prompt)
        self._server.steer = await self._harmless(prompt, answer.law)
        if self._server.steer is None:
            lists, _ = await self._most_listed(prompt)
        try:
            tells = bool((await self._server.complete(prompt, 1, inside=True)).inside)
        except EngineError:
            tells = False
        return lists, tells, bool((await self._server.complete(prompt, 1)).cached_tokens)

    async def _harmless(self, prompt: TokenIds, steered: Law) -> int | None:
        """The token to steer by, if the law does not show it."""
        token, self._server.steer = self._server.steer, None
        try:
            plain = (await self._server.complete(prompt, 5)).law
        except CannotTell:
            return token
        every = np.arange(self.vocab_size)
        distance = np.abs(np.exp(plain.at(every)) - np.exp(steered.at(every)))[plain.ids].max()
        return token if distance < STEERED_TOLERANCE else None

    async def _most_listed(self, prompt: TokenIds) -> tuple[int, Completion]:
        """How many it names of a law, and the answer that does. Most refuse what is too much, some
        give less."""
        most = want_for(self.vocab_size).width(self.vocab_size)
        for count in [most, *(count for count in COUNTS if count < most)]:
            try:
                answer = await self._server.complete(prompt, count)
            except CannotTell:
                raise
            except EngineError as error:
                problem = error
            else:
                return min(count, len(answer.law.logp)), answer
        raise problem

    def _say(self) -> None:
        """What it cannot do, and what that costs."""
        most = want_for(self.vocab_size).width(self.vocab_size)
        server = f"{self._server.model} at {self._server.url}"
        log.info("%s names %d of %d tokens of a law", server, self.lists, self.vocab_size)
        if self.context_tokens < self._spec.spec.context_tokens:
            log.info("of the context one token is left to what it insists on generating")
        if not self.tells_prompts:
            log.info(
                "%s tells only the law after a prompt: whoever asks for several positions at once "
                "(drafts, prompts that are scored) costs it a request for each",
                server,
            )
        if not self.caches:
            log.warning(
                "%s does not say that it keeps what it read: long texts go to it whole, and may "
                "cost all of their length at every token",
                server,
            )
        if self.lists < most:
            lost, exactly = self._wait(self._cost_nats())
            log.warning(
                "%s names %d tokens of a law where others name up to %d. On the subnet's public "
                "text that costs %s%.3f nats a token. Pay is a share of the nats that an expert "
                "takes off the mixture: one that would take %.2f earns %s %.0f %% of what it "
                "could. vLLM names more with --max-logprobs -1 (or %d)",
                *(server, self.lists, most, "" if exactly else "up to ", lost, GAIN_NATS),
                *("about" if exactly else "at least", 100 * max(0.0, 1 - lost / GAIN_NATS), most),
            )

    async def _cost_nats(self) -> tuple[float, bool]:
        """What the tokens left out cost on public text, and whether that is exact.

        Where the laws inside a prompt are told, so is the probability of its next token, named or
        not. Elsewhere that of an unnamed one is at most the least named one's, or all that is left.
        """
        prompt = self._sample_prompt(MEASURED_TOKENS)
        ids = prompt[1:]
        lost = []
        if self.tells_prompts:
            for law, token in zip(
                (await self._server.complete(prompt, self.lists, inside=True)).inside,
                ids.tolist(),
                strict=True,
            ):
                listed = law.head(self.lists)
                lost.append(float(law.at(token)) - float(listed.at(token)))
            return float(np.mean(lost)), True
        for place, token in enumerate(ids.tolist()):
            law = (await self._server.complete(prompt[: place + 1], self.lists)).law
            most = min(float(law.logp.min()), float(np.log(max(law.tail, 1e-30))))
            named = law.ids is None or token in law.ids
            lost.append(0.0 if named else max(0.0, most - float(law.at(token))))
        return float(np.mean(lost)), False

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _sample_prompt(self, most: int) -> TokenIds:
        """The beginning of the public text, at most so many tokens of it."""
        ids = self._encode(" ".join((*self._texts[:4], *SAMPLES))[:8_000])
        return np.array([*self._start, *ids[: min(most, self.context_tokens - 1)]], np.uint32)

    def _unigram(self, texts: Sequence[str]) -> Unigram:
        counts = np.zeros(self.vocab_size, np.int64)
        for encoded in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ids = np.array(encoded.ids, np.int64)
            counts += np.bincount(ids[ids < self.vocab_size], minlength=self.vocab_size)
        return Unigram.of_counts(counts)


def _public_text(spec: LoadedSpec) -> list[str]:
    with spec.path(spec.spec.public_text).open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in islice(lines, 4)]


def _server(url: str, vocab_size: int) -> CompletionServer:
    key = os.environ.get(KEY_VARIABLE, "")
    return CompletionServer(_checked(url), key=key, vocab_size=vocab_size)


def _chosen(
    server: CompletionServer, model: str, models: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What the server says of the model; of the first that it serves if none is named."""
    about = next((m for m in models if not model or m["id"] == model), None)
    if about is None:
        names = ", ".join(m["id"] for m in models)
        raise EngineError(f"{server.url} serves no {model!r}; --model is one of: {names}")
    return about


def _context(about: dict[str, Any]) -> int | None:
    meta = about.get("meta")
    context = meta.get("n_ctx") if isinstance(meta, dict) else about.get("max_model_len")
    return context if type(context) is int and context > 0 else None


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ConfigError(f"--upstream is a URL like http://127.0.0.1:8080, not {url!r}")
    return url
