"""What the router does for one request, apart from HTTP: tokens in, deltas of text out."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from moesubnet.mixture.drafting import Drawn, next_token
from moesubnet.mixture.law import Mixture
from moesubnet.mixture.sheet import Sheet
from moesubnet.router import openai_api as api
from moesubnet.router.accounts import Cost, price_rao
from moesubnet.router.choices import Begun, Choice, Conversation, Delta, Job, Manner
from moesubnet.router.epochs import describe_epochs
from moesubnet.router.grammar import Grammars, json_rule
from moesubnet.router.metrics import Metrics
from moesubnet.router.model import (
    ALONE,
    Drawing,
    Forecast,
    Model,
    Modes,
    Session,
    TokenIds,
    walk,
)
from moesubnet.router.prompts import Prompts
from moesubnet.router.reading import END_THINK, THINK, Habits, Reader
from moesubnet.router.steering import Steering, Wishes
from moesubnet.router.text import TextStream
from moesubnet.router.tools import answer_rules
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.pieces import Pieces
from moesubnet.spec.tokenizer import load_tokenizer

T = TypeVar("T")
MOST_NAMED = 8  # models in an error's text


async def run_all(tasks: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """Run all; the first that cannot be answered stops the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(task) for task in tasks]
    except* (api.ApiError, *api.UNAVAILABLE) as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in running]


class Service:
    """The models on offer over one spec. `models` may change while it runs."""

    def __init__(
        self,
        spec: LoadedSpec,
        models: dict[str, Model],
        metrics: Metrics | None = None,
        sheets: Callable[[], Sequence[Sheet]] = tuple,
    ) -> None:
        """sheets: the revealed ones, for the page's history."""
        self.metrics = metrics or Metrics()
        self._sheets = sheets
        self._epochs: tuple[frozenset[bytes], api.JsonObject] | None = None
        self.spec = spec.spec
        self.started_s = int(time.time())
        self._models = models
        tokenizer = load_tokenizer(spec.tokenizer_path)
        self._pieces = Pieces(tokenizer)
        self.prompts = Prompts(spec, tokenizer)
        self.grammars = Grammars(spec.spec, tokenizer, self._pieces)

    # -- what is on offer ------------------------------------------------------------------

    def models(self) -> list[str]:
        return [*self._models, *(mode for model in self._with_modes() for mode in model.modes())]

    def require_model(self, name: str) -> Model:
        """Raises ApiError 404 for a model that is not on offer."""
        return self.find(name)[1]

    def find(self, name: str) -> tuple[str, Model]:
        """A model by its name or one of its names: (the name that it is known by here, it).

        Raises ApiError 404.
        """
        if name in self._models:
            return name, self._models[name]
        for model in self._with_modes():
            if (found := model.mode(name)) is not None:
                return found
        known = ", ".join(self.models()[:MOST_NAMED])
        text = f"The model '{name}' does not exist. Available: {known}; see /v1/models."
        raise api.ApiError(404, text, code="model_not_found", param="model")

    def _with_modes(self) -> list[Modes]:
        return [model for model in self._models.values() if isinstance(model, Modes)]

    def expert_table(self) -> list[api.JsonObject]:
        return [row for model in self._models.values() for row in model.table()]

    def health(self) -> dict[str, Any]:
        table = self.expert_table()
        serving = sum(1 for row in table if row["serving"])
        return {"ready": serving > 0, "experts_serving": serving, "experts_known": len(table)}

    def live(self) -> api.JsonObject:
        """Counts since the start, for whoever asks twice to see rates."""
        kept, drafted = self.metrics.drafts()
        counts = {
            "requests": self.metrics.answers(),
            "completion_tokens": self.metrics.completion_tokens(),
            "drafted_tokens": drafted,
            "kept_drafts": kept,
            "uptime_s": int(time.time()) - self.started_s,
        }
        return counts | {k: v for k, v in self.health().items() if k != "ready"}

    async def epochs(self) -> api.JsonObject:
        """See `describe_epochs`; computed anew only when there are other sheets."""
        sheets = self._sheets()
        known = frozenset(sheet.sha256 for sheet in sheets)
        if self._epochs is None or self._epochs[0] != known:
            self._epochs = known, await asyncio.to_thread(describe_epochs, sheets)
        return self._epochs[1]

    # -- from requests to jobs -------------------------------------------------------------

    def room(self, prompt_ids: TokenIds) -> int:
        """Tokens that still fit after this prompt; at least 1, so that `jobs` words the error."""
        return max(1, self.prompts.room_tokens - len(prompt_ids))

    def jobs(
        self,
        body: api.Sampling,
        prompt_ids: TokenIds,
        max_tokens: int,
        top_logprobs: int,
        first: int = 0,
        manner: Manner | None = None,
        echo: api.Echo | None = None,
    ) -> list[Job]:
        """The `n` choices of one prompt, numbered from `first`.

        Raises ApiError 400 (`context_length_exceeded`, a bias on no token) or 404.
        """
        name, _ = self.find(body.model)
        prompt_tokens, room = len(prompt_ids), self.prompts.room_tokens
        if prompt_tokens + max_tokens > room:
            asked = (
                f"{prompt_tokens + max_tokens} tokens ({prompt_tokens} in the prompt, "
                f"{max_tokens} for the completion)"
            )
            raise api.context_length_exceeded(asked, room, body.source)
        wishes = self._wishes(body)
        return [
            Job(
                model=name,
                most_rao_per_mtoken=body.moesubnet.max_rao_per_mtoken,
                prompt_ids=prompt_ids,
                goes_on=body.source == "prompt",
                max_tokens=max_tokens,
                temperature=body.temperature,
                top_p=body.top_p,
                seed=None if body.seed is None else (body.seed % 2**64, index),
                stops=tuple(body.stop),
                top_logprobs=top_logprobs,
                wishes=wishes,
                echo=echo,
                manner=manner,
            )
            for index in range(first, first + body.n)
        ]

    async def conversation(self, body: Conversation, caller: str) -> tuple[TokenIds, Manner]:
        """What a conversation's prompt is, and how its answer is to be written. caller: by whom
        its grammar takes its turn.

        Raises ApiError 400 for what the family or the grammar cannot do, by name.
        """
        use, calls = body.tool_use(), self.prompts.calls
        if use.choice != "none" and calls is None:
            text = "The models of this subnet have no way of calling tools that this router knows."
            raise api.ApiError(400, text, param="tools", code="unsupported_parameter")
        ids, is_thinking = await self.prompts.chat_ids(
            body.conversation(),
            body.source,
            tools=use.described(),
            variables=body.chat_template_kwargs,
        )
        schema, param = body.schema_, body.format_source
        rules = await answer_rules(
            None if schema is None else json_rule(schema, param),
            use,
            calls,
            self.grammars,
            is_thinking=is_thinking,
            caller=caller,
        )
        if use.choice == "none":
            calls = None
        habits = Habits(is_thinking, self.prompts.may_think and not is_thinking, calls)
        written = THINK + END_THINK + (calls.text if calls else "")
        return ids, Manner(
            habits,
            None if rules is None else await self.grammars.matcher(rules, param, caller),
            self.grammars.controls_in(written),
        )

    def _model(self, job: Job) -> Model:
        """As the job wants it. Raises ApiError 400 for a price below everybody's."""
        model, most_rao = self.require_model(job.model), job.most_rao_per_mtoken
        if most_rao is not None and isinstance(model, Modes):
            return model.capped(most_rao)
        return model

    def _wishes(self, body: api.Sampling) -> Wishes:
        bias = {int(key): value for key, value in body.logit_bias.items()}
        if max(bias, default=0) >= self.spec.vocab_size:
            text = f"Token ids must be below {self.spec.vocab_size}."
            raise api.ApiError(400, text, param="logit_bias", code="invalid_value")
        return Wishes(bias, body.frequency_penalty, body.presence_penalty)

    def largest_cost(self, prompts: Sequence[Sequence[Job]]) -> Cost:
        """What the largest answer to these jobs takes. prompts: for each its choices. Drafts that
        are not kept are answered too, and owed; there are never more of them than `max_tokens`."""
        jobs = [job for choices in prompts for job in choices]
        written = sum(job.max_tokens for job in jobs)
        positions = 2 * written + sum(len(job.prompt_ids) for job in jobs)
        dearest = max(self._model(job).dearest_rao_per_mtoken() for job in jobs)
        # Every expert's share is rounded up by itself; 64 is the most that one answer takes.
        rounding_rao = 64 * len(jobs) if dearest else 0
        read = sum(len(choices[0].prompt_ids) for choices in prompts)
        return Cost(read + written, price_rao(positions, dearest) + rounding_rao)

    # -- writing ---------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def begin(
        self, prompts: Sequence[Sequence[Job]], arrived_s: float | None = None
    ) -> AsyncIterator[list[Begun]]:
        """Read the prompts, each once for all its choices; at the end every session is closed.

        prompts: for each the jobs that continue it. arrived_s: by time.monotonic(), when the
        request came; by default now. Raises NobodyAnswers, EngineError.
        """
        arrived_s = time.monotonic() if arrived_s is None else arrived_s
        begun: list[Begun] = []
        with contextlib.ExitStack() as stack:

            def close(session: Session) -> None:
                whole = any(one.session is session and one.is_whole for one in begun)
                session.close(is_over=not whole)

            def kept(session: Session) -> Session:
                stack.callback(close, session)
                return session

            heads = [kept(self._model(jobs[0]).open()) for jobs in prompts]
            starts = zip(heads, prompts, strict=True)
            read = await run_all(
                self._read(head, jobs[0], _first_drawing(jobs)) for head, jobs in starts
            )
            begun += [
                Begun(job, head if job is jobs[0] else kept(head.fork()), forecast, echo, arrived_s)
                for jobs, head, (forecast, echo) in zip(prompts, heads, read, strict=True)
                for job in jobs
            ]
            yield begun

    async def _read(
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
        rng = np.random.default_rng(job.seed if job.seed is not None else secrets.randbits(128))
        before = job.prompt_ids.tolist() if job.goes_on else ()
        manner = job.manner or Manner(Habits())
        text = TextStream(self._pieces, job.stops, before, manner.shown)
        steering = _steering(job)
        reader = Reader(manner.habits)
        waiting: list[api.TokenRecord] = []
        echo = begun.echo or Delta("", [])
        metrics, last_s = self.metrics, begun.arrived_s

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
            token_id = next_token(drawn, forecast.drafts if job.seed is None else (), rng)
            steering.push(token_id)
            if shaped.is_fallback:
                metrics.fallbacks.labels(job.model).inc()
            if token_id in self.spec.stop_ids:
                if job.echo:  # who scores a text counts on one token after it
                    offset = len(echo.text) + text.chars
                    waiting.append(self._record(job, forecast, shaped, token_id, offset))
                yield last(text.finish(), "stop")
                return
            now_s = time.monotonic()
            if written == 1:
                metrics.first_token_s.labels(job.model).observe(now_s - last_s)
                overhead_s = now_s - last_s - begun.session.waited_s
                metrics.overhead_s.labels(job.model).observe(max(0.0, overhead_s))
            else:
                metrics.between_tokens_s.labels(job.model).observe(now_s - last_s)
            last_s = now_s
            metrics.weights(forecast.weights)
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
            if shown:
                yield Delta(shown, waiting, None, reader.push(shown))
                waiting = []
            forecast = await begun.session.append(token_id, _drawing(job, written, steering))

    async def complete(self, begun: Begun) -> Choice:
        """Write one choice to its end."""
        choice = Choice()
        totals: dict[str, float] = {}
        async for delta in self.run(begun):
            choice.text += delta.text
            choice.tokens += delta.tokens
            choice.parts += delta.parts
            choice.finish_reason = delta.finish_reason
        begun.sent(choice.tokens)
        for token in choice.tokens:
            for hotkey, weight in (token.experts or {}).items():
                totals[hotkey] = totals.get(hotkey, 0.0) + weight
        choice.mean_weights = {key: total / len(choice.tokens) for key, total in totals.items()}
        return choice

    def provenance_headers(self, choices: Sequence[Choice]) -> dict[str, str]:
        """`x-moesubnet-experts: HOTKEY=0.71,…`: mean weights over all tokens, largest first."""
        totals: dict[str, float] = {}
        tokens = sum(len(choice.tokens) for choice in choices)
        for choice in choices:
            for hotkey, mean in choice.mean_weights.items():
                totals[hotkey] = totals.get(hotkey, 0.0) + mean * len(choice.tokens)
        if not totals:
            return {}
        ranked = sorted(totals.items(), key=lambda item: -item[1])[:16]
        text = ",".join(f"{hotkey}={total / tokens:.4f}" for hotkey, total in ranked)
        return {"x-moesubnet-experts": text}

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


def _steering(job: Job) -> Steering:
    matcher = None if job.manner is None else job.manner.matcher
    return Steering(job.wishes, matcher and matcher.fork())


def _first_drawing(jobs: Sequence[Job]) -> Drawing:
    """Of choices of one prompt. Some that share a draft would be alike."""
    return _drawing(jobs[0], 0, _steering(jobs[0])) if len(jobs) == 1 else ALONE


def _drawing(job: Job, written: int, steering: Steering) -> Drawing:
    return Drawing(job.temperature, job.top_p, job.max_tokens - written, steering.lawful)
