"""What a server can and cannot, found out by asking it: whose tokens, and how much of a law."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from moesubnet.engine.base import TokenIds, context_token
from moesubnet.engine.completions import CannotTell, Completion, CompletionServer
from moesubnet.errors import EngineError
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.law import Law
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.wire.step import NUCLEUS_K, want_for

log = logging.getLogger(__name__)

COUNTS = (NUCLEUS_K, 1_024, 256, 128, 64, 20, 10, 5, 1)  # of log-probabilities, tried in order
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


class Interview:
    """With `server`, for a subnet. context_tokens: as many as both read, once the model is found.
    texts: some that are public."""

    def __init__(self, server: CompletionServer, spec: LoadedSpec, texts: Sequence[str]) -> None:
        self._server, self._spec, self._texts = server, spec, texts
        self._vocab_size = spec.spec.vocab_size
        self.context_tokens = spec.spec.context_tokens
        self._start = np.array([context_token(spec.spec)], np.uint32)
        self._tokenizer = load_tokenizer(spec.tokenizer_path)

    async def find(self, model: str) -> dict[str, Any]:
        """Choose the model; what the server says of it. Raises EngineError where it cannot join."""
        about = chosen(self._server, model, await self._server.models())
        self._server.model = about["id"]
        context = context_of(about)
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

    async def try_ids(self) -> None:
        """Raises EngineError unless it takes ids as they are and gives laws."""
        prompt = self._sample_prompt(PROBE_TOKENS)
        self._server.steer = self._encode("a")[0]
        read = (await self._server.complete(prompt, 1)).prompt_tokens
        if read not in (None, len(prompt)):
            raise EngineError(
                f"{self._server.url} read {read} tokens of a prompt of {len(prompt)} ids: it does "
                "not take token ids as they are"
            )

    async def probe(self) -> tuple[int, bool, bool]:
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
        every = np.arange(self._vocab_size)
        distance = np.abs(np.exp(plain.at(every)) - np.exp(steered.at(every)))[plain.ids].max()
        return token if distance < STEERED_TOLERANCE else None

    async def _most_listed(self, prompt: TokenIds) -> tuple[int, Completion]:
        """How many it names of a law, and the answer that does. Most refuse what is too much, some
        give less."""
        most = want_for(self._vocab_size).width(self._vocab_size)
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

    async def say(self, lists: int, *, tells_prompts: bool, caches: bool) -> None:
        """What it cannot do, and what that costs."""
        most = want_for(self._vocab_size).width(self._vocab_size)
        server = f"{self._server.model} at {self._server.url}"
        log.info("%s names %d of %d tokens of a law", server, lists, self._vocab_size)
        if self.context_tokens < self._spec.spec.context_tokens:
            log.info("of the context one token is left to what it insists on generating")
        if not tells_prompts:
            log.info(
                "%s tells only the law after a prompt: whoever asks for several positions at once "
                "(drafts, prompts that are scored) costs it a request for each",
                server,
            )
        if not caches:
            log.warning(
                "%s does not say that it keeps what it read: long texts go to it whole, and may "
                "cost all of their length at every token",
                server,
            )
        if lists < most:
            lost, exactly = await self._cost_nats(lists, tells_prompts=tells_prompts)
            log.warning(
                "%s names %d tokens of a law where others name up to %d. On the subnet's public "
                "text that costs %s%.3f nats a token. Pay is a share of the nats that an expert "
                "takes off the mixture: one that would take %.2f earns %s %.0f %% of what it "
                "could. vLLM names more with --max-logprobs -1 (or %d)",
                *(server, lists, most, "" if exactly else "up to ", lost, GAIN_NATS),
                *("about" if exactly else "at least", 100 * max(0.0, 1 - lost / GAIN_NATS), most),
            )

    async def _cost_nats(self, lists: int, *, tells_prompts: bool) -> tuple[float, bool]:
        """What the tokens left out cost on public text, and whether that is exact.

        Where the laws inside a prompt are told, so is the probability of its next token, named or
        not. Elsewhere that of an unnamed one is at most the least named one's, or all that is left.
        """
        prompt = self._sample_prompt(MEASURED_TOKENS)
        ids = prompt[1:]
        lost = []
        if tells_prompts:
            for law, token in zip(
                (await self._server.complete(prompt, lists, inside=True)).inside,
                ids.tolist(),
                strict=True,
            ):
                listed = law.head(lists)
                lost.append(float(law.at(token)) - float(listed.at(token)))
            return float(np.mean(lost)), True
        for place, token in enumerate(ids.tolist()):
            law = (await self._server.complete(prompt[: place + 1], lists)).law
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

    def unigram(self) -> Unigram:
        """Of the texts, for a spec that has no baseline."""
        counts = np.zeros(self._vocab_size, np.int64)
        for encoded in self._tokenizer.encode_batch_fast(self._texts, add_special_tokens=False):
            ids = np.array(encoded.ids, np.int64)
            counts += np.bincount(ids[ids < self._vocab_size], minlength=self._vocab_size)
        return Unigram.of_counts(counts)


def chosen(
    server: CompletionServer, model: str, models: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What the server says of the model; of the first that it serves if none is named."""
    about = next((m for m in models if not model or m["id"] == model), None)
    if about is None:
        names = ", ".join(m["id"] for m in models)
        raise EngineError(f"{server.url} serves no {model!r}; --model is one of: {names}")
    return about


def context_of(about: dict[str, Any]) -> int | None:
    """How many tokens of a sequence the server reads, if it says so."""
    meta = about.get("meta")
    context = meta.get("n_ctx") if isinstance(meta, dict) else about.get("max_model_len")
    return context if type(context) is int and context > 0 else None
