"""Writing the choices of a request, apart from HTTP: forecasts in, deltas of text out."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from moesubnet.mixture.drafting import Drawn, next_token
from moesubnet.mixture.law import Mixture
from moesubnet.router import openai_api as api
from moesubnet.router.choices import Begun, Choice, Delta, Job, Manner, weights_of
from moesubnet.router.metrics import Metrics
from moesubnet.router.model import ALONE, Drawing, Forecast, Session, walk
from moesubnet.router.reading import Habits, Reader
from moesubnet.router.steering import Steering
from moesubnet.router.text import TextStream
from moesubnet.spec.content import Spec
from moesubnet.spec.pieces import Pieces

# Of who reads a text as it is written, and of who gets it whole: for tokens that come together.
LIVE_PATIENCE_S, PATIENCE_S = 0.1, 0.5


class Writer:
    """Over one spec."""

    def __init__(self, spec: Spec, pieces: Pieces, metrics: Metrics) -> None:
        self._stop_ids, self._pieces, self._metrics = spec.stop_ids, pieces, metrics

    async def read(
        self, session: Session, job: Job, drawing: Drawing
    ) -> tuple[Forecast, Delta | None]:
        """The forecast after a job's prompt, and the prompt itself if it is echoed."""
        ids = job.prompt_ids
        if job.echo is None:
            return await session.start(ids, drawing), None
        forecasts = session.echo(ids) if job.echo == "self_reported" else walk(session, ids)
        text, shown = TextStream(self._pieces, ()), ""
        tokens: list[api.TokenRecord] = []
        async for forecast in forecasts:
            if len(tokens) == len(ids):
                break
            token_id = int(ids[len(tokens)])
            record = self._record(job, forecast, forecast.mixture, token_id, text.chars)
            if not tokens:  # as OpenAI has it: nothing stands before it
                record = replace(record, logprob=None, top=[])
            tokens.append(replace(record, echo=job.echo))
            shown += text.push(token_id)
        return forecast, Delta(shown + text.finish(), tokens)

    async def run(self, begun: Begun) -> AsyncGenerator[Delta, None]:
        """Write one choice. The last delta carries the finish reason, and only it.

        Raises NobodyAnswers, EngineError.
        """
        job, forecast = begun.job, begun.forecast
        before = job.prompt_ids.tolist() if job.goes_on else ()
        manner = job.manner or Manner(Habits())
        text = TextStream(self._pieces, job.stops, before, manner.shown)
        steering = _steering(job)
        reader = Reader(manner.habits)
        waiting: list[api.TokenRecord] = []
        echo = begun.echo or Delta("", [])
        last_s, is_held = 0.0, False
        between_s = self._metrics.between_tokens_s.labels(job.model)

        def last(shown: str, reason: str) -> Delta:
            parts = reader.push(shown) + reader.finish()
            if reader.calls and reason == "stop":
                reason = "tool_calls"
            begun.is_whole = True
            return Delta(shown, waiting, reason, parts)

        if job.max_tokens == 0:
            begun.is_whole = True
            yield replace(echo, finish_reason="length")
            return
        if begun.echo:
            yield echo
        for written in range(1, job.max_tokens + 1):
            shaped = steering.shaped(forecast.mixture)
            drawn = Drawn.of(shaped.log_drawn, shaped.law.ids, job.temperature, job.top_p)
            # With a seed a token is made by it and the law alone, whatever was drafted.
            drafts = forecast.drafts
            token_id = next_token(drawn, drafts if job.seed is None else (), job.points)
            steering.push(token_id)
            if shaped.is_fallback:
                self._metrics.fallbacks.labels(job.model).inc()
            if token_id in self._stop_ids:
                if job.echo:  # who scores a text counts on one token after it
                    offset = len(echo.text) + text.chars
                    waiting.append(self._record(job, forecast, shaped, token_id, offset))
                yield last(text.finish(), "stop")
                return
            now_s = time.monotonic()
            if written == 1:
                self._begins(begun, now_s)
            else:
                between_s.observe(now_s - last_s)
            last_s = now_s
            self._metrics.weights(forecast.weights)
            offset = len(echo.text) + text.chars
            waiting.append(self._record(job, forecast, shaped, token_id, offset))
            shown = text.push(token_id)
            if steering.is_over:
                yield last(shown + text.finish(), "stop")
                return
            if text.stopped:
                yield last(shown, "stop")
                return
            if written == job.max_tokens:
                yield last(shown + text.finish(), "length")
                return
            has_come = len(drafts) > 1 and drafts[0].token_id == token_id  # what follows it
            if shown:
                yield Delta(shown, waiting, None, reader.push(shown), has_come)
                waiting, is_held = [], has_come
            elif is_held and not has_come:
                yield Delta("", [])
                is_held = False
            forecast = await begun.session.append(token_id, _drawing(job, written, steering))

    async def complete(self, begun: Begun) -> Choice:
        """Write one choice to its end."""
        choice = Choice()
        async for delta in self.run(begun):
            choice.text += delta.text
            choice.tokens += delta.tokens
            choice.parts += delta.parts
            choice.finish_reason = delta.finish_reason
        begun.sent(choice.tokens)
        return choice

    def _begins(self, begun: Begun, now_s: float) -> None:
        """Its first token is written."""
        metrics, model, took_s = self._metrics, begun.job.model, now_s - begun.arrived_s
        metrics.first_token_s.labels(model).observe(took_s)
        metrics.overhead_s.labels(model).observe(max(0.0, took_s - begun.session.waited_s))

    def _record(
        self, job: Job, forecast: Forecast, shaped: Mixture, token_id: int, offset: int
    ) -> api.TokenRecord:
        top: list[tuple[str, bytes, float]] = []
        if job.top_logprobs:
            best = forecast.mixture.likeliest(job.top_logprobs)
            top = [(*self._spell(candidate), logprob) for candidate, logprob in best]
        spelled, raw = self._spell(token_id)
        return api.TokenRecord(
            text=spelled,
            raw=raw,
            logprob=float(forecast.mixture.law.at(token_id)),
            top=top,
            offset=offset,
            experts={key: round(weight, 6) for key, weight in forecast.weights.items()} or None,
            left_out=round(shaped.left_out, 6),
        )

    def _spell(self, token_id: int) -> tuple[str, bytes]:
        raw = self._pieces.inside(token_id)
        return raw.decode("utf-8", errors="replace"), raw


def provenance_headers(begun: Sequence[Begun], tokens: int) -> dict[str, str]:
    """`x-moesubnet-experts: HOTKEY=0.71,…`: mean weights over so many tokens, largest first."""
    ranked = weights_of(begun).most_common(16)
    text = ",".join(f"{hotkey}={total / tokens:.4f}" for hotkey, total in ranked)
    return {"x-moesubnet-experts": text} if text else {}


def _steering(job: Job) -> Steering:
    matcher = None if job.manner is None else job.manner.matcher
    return Steering(job.wishes, matcher and matcher.fork())


def first_drawing(jobs: Sequence[Job]) -> Drawing:
    """Of choices of one prompt. Some that share a draft would be alike. Nothing is drawn ahead
    that would keep somebody from the first token."""
    if len(jobs) > 1:
        return ALONE
    first = _drawing(jobs[0], 0, _steering(jobs[0]))
    return replace(first, points=None) if jobs[0].is_read_live else first


def _drawing(job: Job, written: int, steering: Steering) -> Drawing:
    return Drawing(
        job.temperature,
        job.top_p,
        job.max_tokens - written,
        steering.lawful,
        points=job.points.peek,
        is_bent=steering.bends,
        patience_s=LIVE_PATIENCE_S if job.is_read_live else PATIENCE_S,
    )
