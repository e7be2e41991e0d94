"""What is on offer, and what becomes of a request before anything is written: its jobs, its price,
its prompts read. `writing` has the rest."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from typing import Any, TypeVar

from moesubnet.mixture.draft_length import MOST_LOST_DRAFTS
from moesubnet.mixture.drafting import Points
from moesubnet.mixture.sheet_cache import AnySheet
from moesubnet.router import openai_api as api
from moesubnet.router.accounts import Cost, price_rao
from moesubnet.router.choices import Begun, Conversation, Job, Manner
from moesubnet.router.epochs import Past
from moesubnet.router.grammar import Grammars, json_rule
from moesubnet.router.metrics import Metrics
from moesubnet.router.model import (
    Model,
    Modes,
    Session,
    TokenIds,
)
from moesubnet.router.prompts import Prompts
from moesubnet.router.reading import END_THINK, THINK, Habits
from moesubnet.router.steering import Wishes
from moesubnet.router.tools import answer_rules
from moesubnet.router.writing import Writer, first_drawing
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
        sheets: Callable[[], Sequence[AnySheet]] = tuple,
    ) -> None:
        """sheets: the revealed ones, for the page's history."""
        self.metrics = metrics or Metrics()
        self.past = Past(sheets, bytes.fromhex(spec.sha256))
        self.spec = spec.spec
        self.started_s = int(time.time())
        self._models = models
        tokenizer = load_tokenizer(spec.tokenizer_path)
        pieces = Pieces(tokenizer)
        self.prompts = Prompts(spec, tokenizer)
        self.grammars = Grammars(spec.spec, tokenizer, pieces)
        self.writer = Writer(spec.spec, pieces, self.metrics)

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
        seeds = [
            None if body.seed is None else (body.seed % 2**64, index)
            for index in range(first, first + body.n)
        ]
        return [
            Job(
                model=name,
                most_rao_per_mtoken=body.moesubnet.max_rao_per_mtoken,
                prompt_ids=prompt_ids,
                goes_on=body.source == "prompt",
                max_tokens=max_tokens,
                temperature=body.temperature,
                top_p=body.top_p,
                seed=seed,
                points=Points(secrets.randbits(128) if seed is None else seed),
                stops=tuple(body.stop),
                top_logprobs=top_logprobs,
                wishes=wishes,
                echo=echo,
                is_read_live=body.stream,
                manner=manner,
            )
            for seed in seeds
        ]

    async def conversation(self, body: Conversation, caller: str) -> tuple[TokenIds, Manner]:
        """What a conversation's prompt is, and how its answer is to be written. caller: by whom
        its grammar takes its turn.

        Raises ApiError 400 for what the family or the grammar cannot do, by name.
        """
        if not self.spec.chat_template:
            text = (
                "The models of this subnet have no chat template: they go on with a text, at "
                "/v1/completions, and hold no conversation."
            )
            raise api.ApiError(400, text, param=body.source, code="no_chat_template")
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
        are not kept are answered too, and owed."""
        jobs = [job for choices in prompts for job in choices]
        written = sum(job.max_tokens for job in jobs)
        positions = (1 + MOST_LOST_DRAFTS) * written + sum(len(job.prompt_ids) for job in jobs)
        dearest = max(self._model(job).dearest_rao_per_mtoken() for job in jobs)
        # Every expert's share is rounded up by itself; 64 is the most that one answer takes.
        rounding_rao = 64 * len(jobs) if dearest else 0
        read = sum(len(choices[0].prompt_ids) for choices in prompts)
        return Cost(read + written, price_rao(positions, dearest) + rounding_rao)

    # -- reading prompts --------------------------------------------------------------------

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
                self.writer.read(head, jobs[0], first_drawing(jobs)) for head, jobs in starts
            )
            begun += [
                Begun(job, head if job is jobs[0] else kept(head.fork()), forecast, echo, arrived_s)
                for jobs, head, (forecast, echo) in zip(prompts, heads, read, strict=True)
                for job in jobs
            ]
            for head, jobs in zip(heads, prompts, strict=True):
                if head.answered() and jobs[0].manner is not None:  # by experts, in a chat
                    self.metrics.conversations(len(jobs))
            yield begun
