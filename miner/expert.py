"""One model, served: what `/v1/step` and `/v1/generate` do, without HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import numpy as np

from moesubnet import __version__
from moesubnet.engine.base import Engine, LogProbs, Query
from moesubnet.errors import BadDistribution, EngineError, FrameError
from moesubnet.miner.batcher import MAX_BATCH_VALUES, Batcher
from moesubnet.miner.limits import LEAST_SHARE, Admission, is_step
from moesubnet.miner.metrics import Metrics
from moesubnet.miner.sessions import AnswerTable, Exclusive, SessionTable, engine_session
from moesubnet.miner.tails import TailTable
from moesubnet.mixture.law import apply_sampling, sample
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
    want_for,
)

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
            engine=engine.name,
            version=__version__,
            price_rao_per_mtoken=price_rao_per_mtoken,
        )
        self._stop_ids = frozenset(spec.spec.stop_ids)
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
        self._secret = secrets.token_bytes(32)
        self._streams = itertools.count()
        self.metrics.watch(
            lambda: self._steps.waiting_tokens + self._prompts.waiting_tokens,
            lambda: len(self._sessions),
            lambda: self._tails.lost,
        )

    def has_open_session(self, caller: Hotkey) -> bool:
        return self._sessions.has_open(caller)

    async def close(self) -> None:
        await self._batcher.close()

    async def step(self, caller: Hotkey, body: bytes) -> bytes:
        """A StepRequest's bytes → a StepResponse's; the same bytes again for the same body.

        Raises FrameError, UnknownBase, Overloaded, EngineError.
        """
        request = StepRequest.from_bytes(body, self.limits)
        rows = sum(s.end - s.first_law + 1 for s in request.sequences)
        if rows * self.limits.vocab_size > MAX_BATCH_VALUES:
            raise FrameError("the rows would be too many to compute; ask for fewer")
        tokens = [s.end - min(s.base_len, s.first_law) + 1 for s in request.sequences]
        names = [engine_session(caller, s.session) for s in request.sequences]
        digest = hashlib.sha256(body).digest()
        admission = self._steps if is_step(tokens) else self._prompts
        with admission.enter(caller, sum(tokens)):
            async with self._exclusive.hold(names):
                answer = self._answers.get(caller, digest)
                if answer is None:
                    answer = await self._answer(caller, request, names, digest)
                    self._answers.keep(caller, digest, answer)
        self.metrics.tokens.inc(sum(tokens))
        return answer

    async def forget(self, caller: Hotkey, request: CloseRequest) -> None:
        """Free the caller's sessions, once a step that is in them has been answered."""
        async with self._exclusive.hold([engine_session(caller, n) for n in request.sessions]):
            self._sessions.close(caller, request.sessions)

    async def generate(
        self, caller: Hotkey, request: GenerateRequest
    ) -> AsyncGenerator[GenerateChunk]:
        """This model's own continuation, a token at a time; the eos token itself is not sent.

        Raises FrameError for a prompt that does not fit, Overloaded, EngineError.
        """
        ids = np.array(request.prompt_ids, dtype=np.uint32)
        room = self.limits.context_tokens - len(ids)
        if room < 1 or (len(ids) and int(ids.max()) >= self.limits.vocab_size):
            raise FrameError("the prompt is longer than the context or not of the vocabulary")
        wanted = min(request.max_tokens, room)
        # a space: no step's session has this name
        session = engine_session(caller, f" {next(self._streams)}")
        rng = np.random.default_rng(request.seed)
        known = 0
        with self._prompts.enter(caller, len(ids) + wanted):
            try:
                for left in range(wanted - 1, -1, -1):
                    query = Query(session, ids, len(ids))
                    (laws,) = await self._batcher.rows(caller, [query], [known])
                    known = len(ids)
                    law = laws[-1]
                    token = sample(apply_sampling(law, request.temperature, request.top_p), rng)
                    if token in self._stop_ids:
                        yield GenerateChunk(finish_reason="stop")
                        return
                    yield GenerateChunk(
                        ids=[token],
                        logprobs=[min(0.0, float(law[token]))],
                        finish_reason=None if left else "length",
                    )
                    ids = np.append(ids, np.uint32(token))
            finally:
                self._batcher.forget(session)

    async def _answer(
        self, caller: Hotkey, request: StepRequest, names: Sequence[str], digest: bytes
    ) -> bytes:
        steps = request.sequences
        ids = self._sessions.extend(caller, steps)
        asked = [
            Query(name, sequence, step.first_law)
            for name, sequence, step in zip(names, ids, steps, strict=True)
            if step.rows
        ]
        known = [step.base_len for step in steps if step.rows]
        given = iter(await self._batcher.rows(caller, asked, known) if asked else ())
        no_laws = np.empty((0, self.limits.vocab_size), np.float32)
        laws = [next(given) if step.rows else no_laws for step in steps]
        self._sessions.keep(caller, steps, ids)
        proofs = [s.reveal and self._tails.show(caller, s.session, *s.reveal) for s in steps]
        # Drawn labels are no surprise to a retry, and none can be foreseen by the caller.
        seed = hashlib.sha256(self._secret + caller.encode() + digest).digest()
        if sum(rows.size for rows in laws) < OFF_LOOP_VALUES and not request.want.committed:
            answer, rows = _encode(request, laws, proofs, seed)
        else:
            answer, rows = await asyncio.to_thread(_encode, request, laws, proofs, seed)
        for step, row in zip(steps, rows, strict=True):
            if isinstance(row.bound, CommittedTail):
                self._tails.keep(caller, step.session, step.end, row.bound)
        return answer

    def _forget(self, caller: Hotkey, session: str) -> None:
        self._batcher.forget(engine_session(caller, session))
        self._tails.forget(caller, session)


def _encode(
    request: StepRequest,
    laws: Sequence[LogProbs],
    proofs: Sequence[bytes | None],
    seed: bytes,
) -> tuple[bytes, list[StepRows]]:
    """The answer and what it was made of. Raises EngineError for laws that are none."""
    rng = np.random.default_rng(np.frombuffer(seed, np.uint32))
    try:
        rows = [
            replace(StepRows.answer(step, of_step, request.want, rng), proof=proof)
            for step, of_step, proof in zip(request.sequences, laws, proofs, strict=True)
        ]
    except BadDistribution as error:
        raise EngineError(f"the engine gave what is no law: {error}") from error
    return StepResponse(tuple(rows)).to_bytes(), rows
