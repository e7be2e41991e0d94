"""One model, served: what `/v1/step` and `/v1/generate` do, without HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from math import inf

import numpy as np

from moesubnet import __version__
from moesubnet.engine.base import Engine, Query, TokenIds
from moesubnet.errors import BadDistribution, ConfigError, EngineError, FrameError
from moesubnet.miner.ahead import drawn
from moesubnet.miner.batcher import Batcher
from moesubnet.miner.failures import Failures
from moesubnet.miner.limits import LEAST_SHARE, Admission
from moesubnet.miner.metrics import Metrics
from moesubnet.miner.sessions import AnswerTable, Exclusive, SessionTable, engine_session
from moesubnet.miner.tails import TailTable
from moesubnet.mixture.law import alone, law_of
from moesubnet.spec.content import LoadedSpec
from moesubnet.types import Hotkey, MetagraphSource
from moesubnet.wire.commitment import CommittedTail
from moesubnet.wire.protocol import (
    CloseRequest,
    ExpertCard,
    GenerateChunk,
    GenerateRequest,
    StepLimits,
    StepRequest,
    StepResponse,
    StepRows,
    Want,
    want_for,
)

MAX_SEQUENCE_VALUES = 1 << 26  # logits of one sequence that an engine may have to hold
_LIKELIEST = Want("top_k", 1)
OFF_LOOP_VALUES = 1 << 20  # answers with more log-probabilities are encoded in a thread


class Expert:
    """Answers callers whose identity is proven already. Use it inside one event loop."""

    def __init__(
        self,
        engine: Engine,
        spec: LoadedSpec,
        metagraphs: MetagraphSource,
        *,
        hotkey: Hotkey,
        name: str,
        price_rao_per_mtoken: int = 0,
        queue_tokens: int = 65_536,
        metrics: Metrics | None = None,
    ) -> None:
        self.limits = StepLimits(engine.vocab_size, engine.context_tokens)
        self.card = ExpertCard(
            hotkey=hotkey,
            spec_sha256=spec.sha256,
            model_commitment=engine.commitment,
            name=name,
            context_tokens=engine.context_tokens,
            vocab_size=engine.vocab_size,
            max_sequences=self.limits.max_sequences,
            commits=want_for(engine.vocab_size).committed,
            lists=getattr(engine, "lists", 0),
            draws_ahead=True,
            tells_prompts=getattr(engine, "tells_prompts", True),
            engine=engine.name,
            version=__version__,
            price_rao_per_mtoken=price_rao_per_mtoken,
        )
        self.spec = spec
        self._own_want = want_for(engine.vocab_size, committed=False)
        self.metrics = metrics or Metrics()
        self._batcher = Batcher(engine, self.metrics.batch)
        self._steps = Admission(metagraphs, queue_tokens)
        # Of prompts everybody may have so much waiting: they cost memory alone until it is their
        # turn, and nothing if their caller has left by then.
        self._prompts = Admission(metagraphs, LEAST_SHARE * queue_tokens)
        self._tails = TailTable(engine.vocab_size)
        self._sessions = SessionTable(self._forget)
        self._answers = AnswerTable()
        self._exclusive = Exclusive()
        self._failures = Failures()
        self._secret = secrets.token_bytes(32)
        self._streams = itertools.count()
        self.metrics.watch(
            lambda: self._steps.waiting_tokens + self._prompts.waiting_tokens,
            lambda: len(self._sessions),
            lambda: self._tails.lost,
        )

    def check_can_follow(self, spec: LoadedSpec) -> None:
        """Raises ConfigError for a spec under which this engine, as it was loaded, cannot serve."""
        was, is_ = self.spec.spec, spec.spec
        same = (
            ("tokenizer", was.tokenizer.sha256 == is_.tokenizer.sha256),
            ("vocabulary", was.vocab_size == is_.vocab_size),
            ("beginning of texts", was.bos_id == is_.bos_id),
            ("context, longer than was loaded", is_.context_tokens <= self.limits.context_tokens),
        )
        if other := [name for name, is_same in same if not is_same]:
            raise ConfigError(
                f"the subnet goes over to spec {spec.sha256[:12]}… with another {other[0]}. When "
                "it holds, restart the miner with a model that has it, or nobody will ask"
            )

    def follow(self, spec: LoadedSpec) -> None:
        """Serve under `spec` from now on; open sessions go on."""
        self.spec = spec
        self.card = self.card.model_copy(update={"spec_sha256": spec.sha256})

    def open(self, weights_url: str) -> None:
        """Say from now on where everybody finds what is served."""
        self.card = self.card.model_copy(update={"weights_url": weights_url})

    def has_open_session(self, caller: Hotkey) -> bool:
        return self._sessions.has_open(caller)

    async def close(self) -> None:
        await self._batcher.close()

    async def step(self, caller: Hotkey, body: bytes) -> bytes:
        """A StepRequest's bytes → a StepResponse's; the same bytes again for the same body.

        Raises FrameError, UnknownBase, Overloaded, EngineError.
        """
        request = StepRequest.from_bytes(body, self.limits)
        most = max(s.end - s.first_law + 1 + s.further for s in request.sequences)
        if most * self.limits.vocab_size > MAX_SEQUENCE_VALUES:
            raise FrameError("a sequence's rows would be too many to compute; ask for fewer")
        names = [engine_session(caller, s.session) for s in request.sequences]
        digest = hashlib.sha256(body).digest()
        admission = self._prompts if request.is_prompt else self._steps
        with admission.enter(caller, request.tokens):
            async with self._exclusive.hold(names):
                answer = self._answers.get(caller, digest)
                if answer is None:
                    with self._failures.watched():
                        answer = await self._answer(caller, request, names, digest)
                    self._answers.keep(caller, digest, answer)
        return answer

    async def forget(self, caller: Hotkey, request: CloseRequest) -> None:
        """Free the caller's sessions, once a step that is in them has been answered."""
        async with self._exclusive.hold([engine_session(caller, n) for n in request.sessions]):
            self._sessions.close(caller, request.sessions)

    async def generate(
        self, caller: Hotkey, request: GenerateRequest
    ) -> AsyncGenerator[GenerateChunk]:
        """This model's own continuation, a token at a time; the stop id that ends it is not sent.

        Raises FrameError for a prompt that does not fit, Overloaded, EngineError.
        """
        ids = np.array(request.prompt_ids, dtype=np.uint32)
        room = self.limits.context_tokens - len(ids)
        if room < 1 or (len(ids) and int(ids.max()) >= self.limits.vocab_size):
            raise FrameError("the prompt is longer than the context or not of the vocabulary")
        wanted, stop_ids = min(request.max_tokens, room), self.spec.spec.stop_ids
        # a space: no step's session has this name
        session = engine_session(caller, f" {next(self._streams)}")
        rng = np.random.default_rng(request.seed)
        known = 0
        with self._prompts.enter(caller, len(ids) + wanted):
            try:
                for left in range(wanted - 1, -1, -1):
                    query = Query(session, ids, len(ids))
                    with self._failures.watched():
                        (rows,) = await self._batcher.rows(
                            caller, [query], self._own_want, [known], leaves=False
                        )
                    known = len(ids)
                    law = law_of(rows, -1, None)
                    token = alone(law).draw(request.temperature, request.top_p, rng)
                    if token in stop_ids:
                        yield GenerateChunk(finish_reason="stop")
                        return
                    yield GenerateChunk(
                        ids=[token],
                        logprobs=[min(0.0, float(law.at(token)))],
                        finish_reason=None if left else "length",
                    )
                    ids = np.append(ids, np.uint32(token))
            finally:
                self._batcher.forget(session)

    async def _answer(
        self, caller: Hotkey, request: StepRequest, names: Sequence[str], digest: bytes
    ) -> bytes:
        steps, come_s = request.sequences, asyncio.get_running_loop().time()
        ids = self._sessions.extend(caller, steps)
        # Drawn labels are no surprise to a retry, and none can be foreseen by the caller.
        seed = hashlib.sha256(self._secret + caller.encode() + digest).digest()
        seeds = itertools.count(int.from_bytes(seed[:7], "little"))
        asked = [
            Query(name, sequence, step.first_row, len(step.draft_ids), next(seeds))
            for name, sequence, step in zip(names, ids, steps, strict=True)
            if step.rows
        ]
        known = [step.base_len for step in steps if step.rows]
        leaves = not any(step.further for step in steps)
        answers = (
            await self._batcher.rows(caller, asked, request.want, known, leaves=leaves)
            if asked
            else ()
        )
        given, nothing = iter(answers), np.empty((0, self.limits.vocab_size), np.float32)
        rows = [
            next(given) if step.rows else StepRows.of(step.first_row, nothing, request.want)
            for step in steps
        ]
        if not leaves:
            rows = await self._go_on(caller, request, names, ids, rows, come_s)
        gone_on = sum(len(row.further) for row in rows)
        self.metrics.tokens.inc(sum(step.tokens for step in steps) + gone_on)
        if request.ahead is not None:
            ids = [np.append(i, row.further[:-1]) for i, row in zip(ids, rows, strict=True)]
        self._sessions.keep(caller, steps, ids)
        proofs = [s.reveal and self._tails.show(caller, s.session, *s.reveal) for s in steps]
        if sum(row.logprobs.size for row in rows) < OFF_LOOP_VALUES and not request.want.committed:
            answer, rows = _encode(rows, proofs)
        else:
            answer, rows = await asyncio.to_thread(_encode, rows, proofs)
        for step, row in zip(steps, rows, strict=True):
            if isinstance(row.bound, CommittedTail):
                self._tails.keep(caller, step.session, row.first + row.count - 1, row.bound)
        return answer

    async def _go_on(
        self,
        caller: Hotkey,
        request: StepRequest,
        names: Sequence[str],
        ids: Sequence[TokenIds],
        rows: Sequence[StepRows],
        since_s: float,
    ) -> list[StepRows]:
        """The rows with this model's own next tokens, where they are asked: the likeliest each
        time, or drawn, then with the rows that they are of. All sequences are in step, each pass
        a step among those of other callers. since_s: when the call came."""
        ahead, loop = request.ahead, asyncio.get_running_loop()
        most = [step.further for step in request.sequences]
        points = [] if ahead is None else np.split(ahead.points, np.cumsum(most)[:-1])
        texts, parts = list(ids), [[row] for row in rows]
        want = _LIKELIEST if ahead is None else request.want
        until_s = inf if ahead is None else since_s + ahead.within_s
        pass_s = loop.time() - since_s  # the one that is over
        for done in itertools.count():
            going = [i for i, further in enumerate(most) if further > done]
            if not going or (done and loop.time() + pass_s > until_s):
                break
            if done:
                begun_s = loop.time()
                queries = [Query(names[i], texts[i], len(texts[i])) for i in going]
                known = [len(texts[i]) - 1 for i in going]
                answers = await self._batcher.rows(
                    caller, queries, want, known, leaves=done == max(most) - 1
                )
                for i, answer in zip(going, answers, strict=True):
                    parts[i].append(answer)
                pass_s = loop.time() - begun_s
            for i in going:
                if ahead is None:
                    (token, _), *_ = alone(law_of(parts[i][-1], -1, None)).likeliest(1)
                else:
                    token = drawn(parts[i][-1], ahead, points[i][done])
                    if token in self.spec.spec.stop_ids:
                        most[i] = done + 1
                texts[i] = np.append(texts[i], np.uint32(token))
        return [
            replace(StepRows.joined(part) if ahead else part[0], further=text[len(sequence) :])
            for part, text, sequence in zip(parts, texts, ids, strict=True)
        ]

    def _forget(self, caller: Hotkey, session: str) -> None:
        self._batcher.forget(engine_session(caller, session))
        self._tails.forget(caller, session)


def _encode(
    rows: Sequence[StepRows], proofs: Sequence[bytes | None]
) -> tuple[bytes, list[StepRows]]:
    """The answer and what it was made of. Raises EngineError for laws that are none."""
    try:
        bound = [replace(row.bind(), proof=proof) for row, proof in zip(rows, proofs, strict=True)]
    except BadDistribution as error:
        raise EngineError(f"the engine gave what is no law: {error}") from error
    return StepResponse(tuple(bound)).to_bytes(), bound
