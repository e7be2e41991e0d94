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
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np

from moesubnet.engine.base import Query, check_batch, context_token, owner
from moesubnet.engine.completions import CompletionServer
from moesubnet.engine.interview import Interview, chosen, context_of
from moesubnet.errors import ConfigError
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.law import Law
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.documents import public_texts
from moesubnet.wire.addresses import split_url
from moesubnet.wire.rows import StepRows
from moesubnet.wire.step import Want

log = logging.getLogger(__name__)

KEY_VARIABLE = "MOESUBNET_UPSTREAM_KEY"
IDENTITY = ("id", "root", "owned_by", "meta")  # what it says of a model that does not change
AT_ONCE = 64  # requests to a server that does not say how many sequences it keeps
T = TypeVar("T")


class UpstreamEngine:
    """An OpenAI-compatible server as `Engine`.

    model: what the server calls it; empty for the first that it serves. upstream: the server's URL.
    A key for it is read from the environment, MOESUBNET_UPSTREAM_KEY. texts: on which the baseline
    is counted, where the spec has neither.

    lists: the most tokens of a law that it names; the others share the rest in the proportions of
    the subnet's baseline. tells_prompts: whether one request tells the laws inside a prompt; if
    not, each position is a request of its own. caches: whether it keeps what it read.
    model_name: what it calls the model, without the folders and `.gguf`.
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
            self.lists, self.tells_prompts, self.caches = self._wait(self._interview.probe())
            self._free = asyncio.Semaphore(self._wait(self._server.slots()) or AT_ONCE)
            self._wait(
                self._interview.say(
                    self.lists, tells_prompts=self.tells_prompts, caches=self.caches
                )
            )
        except BaseException:
            self.close()
            raise

    def _join(
        self, model: str, spec: LoadedSpec, upstream: str, texts: Sequence[str] | None
    ) -> None:
        """Find the model, see that its tokens are ours and that it gives laws of them."""
        self._loop = asyncio.new_event_loop()
        self.vocab_size = spec.spec.vocab_size
        self._start = np.array([context_token(spec.spec)], np.uint32)
        self._server = _server(upstream, self.vocab_size)
        public = list(islice(public_texts(spec), 4)) if texts is None else texts
        self._interview = Interview(self._server, spec, public)
        baseline = load_baseline(spec) if texts is None else self._interview.unigram()
        self._server.shape = baseline.law
        try:
            about = self._wait(self._interview.find(model))
            self._wait(self._interview.try_ids())
        except BaseException:
            self.close()
            raise
        self.context_tokens = self._interview.context_tokens
        self.model_name = PurePosixPath(about["id"]).name.removesuffix(".gguf")[:64]
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
                return context_of(chosen(server, model, await server.models()))
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


def _server(url: str, vocab_size: int) -> CompletionServer:
    key = os.environ.get(KEY_VARIABLE, "")
    return CompletionServer(_checked(url), key=key, vocab_size=vocab_size)


def _checked(url: str) -> str:
    parts = split_url(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ConfigError(f"--upstream is a URL like http://127.0.0.1:8080, not {url!r}")
    return url
