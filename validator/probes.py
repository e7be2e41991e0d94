"""Probes: walks through private text in which no label is sent before it is scored.

A walk is a stretch of text: a prefix, then one token at a time, each answer scored before its
label is appended. How long both are is drawn, as users' prompts and answers are (`shapes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence, Set

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.gate import Gate
from moesubnet.mixture.law import Law
from moesubnet.types import Hotkey
from moesubnet.validator.choices import Scored
from moesubnet.validator.guesses import Guesses
from moesubnet.validator.records import Batch, Step
from moesubnet.validator.shapes import Ahead
from moesubnet.validator.walks import Slots, Told, Walks
from moesubnet.wire.asked import Asked, PanelError
from moesubnet.wire.panel import Panel
from moesubnet.wire.protocol import StepResponse

LOGGED_FAILURES = 8  # experts named in a batch's line
FIRST_ROUND = 3  # after the prefix, in which an expert may be asked to go on

log = logging.getLogger(__name__)


async def walk_batch(
    panels: Sequence[Panel],
    batch: Batch,
    gate: Gate,
    baseline: Law,
    clients: Sequence[Mapping[Hotkey, Asked]] = (),
    slots: Slots | None = None,
    ahead: Ahead | None = None,
    scored: Scored = Scored.ALONE,
    told: Told | None = None,
) -> AsyncGenerator[Step, None]:
    """Move all walks of `batch` in lockstep, each through a panel of its own; yields each
    position's scores.

    A walk is asked as a router asks: its own session, one sequence a request, the prefix and then
    token by token. Asking for the next step sends this one's labels, and only when all who were
    asked have answered or been cut. (Where somebody had not listed a label, only the answer to the
    request that brings it shows what it was given: that step comes after it.)
    After the prefix, late is who a router would call late, with more patience. Who failed or was
    cut has dropped out of that walk: it is not asked again but for a leaf that it owes, so it
    never gets a label that it still owes an answer for, and the rest of the walk counts as
    unanswered. All are asked; the chosen are those whom a router would have asked, of those that
    answered the prefix. What a template writes before an answer is asked and weighs experts as in a
    router, and is no position: nobody is paid for what is the same in every chat. slots: shared
    with other batches.

    ahead: a walk that is alone in its batch has drafts (`guesses`), and a label that was drafted,
    or stands in a draft's place, is none: it is shown, and no position of the walk's. scored:
    instead such a walk may fork where its answer begins (`choices`). Of a second choice the first
    two answers are no positions: the one was given to the first choice, and no record has what the
    other goes on from. told: hears every answer of a walk that is alone, those to drafts that the
    text did not have too.
    """
    walks = Walks(panels, batch, gate, baseline, clients, slots or Slots(len(batch.hotkeys)))
    if len(batch.sessions) == 1:
        walks.fork_as(scored)
        walks.told = told
    is_alone = len(batch.sessions) == 1 and scored == Scored.ALONE
    if ahead and is_alone:
        # A router knows whether a text is alone from its third round on.
        first = max(walks.answer_from, walks.first + FIRST_ROUND)
        steps = _drafted(walks, Guesses(first, walks.end, ahead))
    else:
        steps = _lockstep(walks)
    try:
        async with contextlib.aclosing(steps):
            async for step in steps:
                if step.position >= walks.scored_from:
                    yield step
        for step in await walks.shown_at_last():
            yield step
        if walks.other is not None:
            await asyncio.wait([walks.other])
    finally:  # also where the epoch's close ends the batch
        if walks.other is not None:
            walks.other.cancel()
        _log_failures(walks.there, walks.errors)


async def _lockstep(walks: Walks) -> AsyncGenerator[Step, None]:
    """Every position, of all walks together."""
    position = walks.first
    while position < walks.end and walks.go_on:
        answers = await walks.ask(position)
        for step in walks.shown():
            yield step
        for step in await walks.score(position, answers):
            yield step
        position += 1


async def _drafted(walks: Walks, guesses: Guesses) -> AsyncGenerator[Step, None]:
    """The positions of one walk that are neither drafted nor in a draft's place."""
    position, text = walks.first, walks.text
    while position < walks.end and walks.go_on:
        drafts: list[int] = []
        further = 0
        if position >= walks.answer_from:
            drafts = guesses.drafts(position, int(text[position - 1]))
            further = guesses.further(position, len(drafts))
        answers = await walks.ask(position, drafts, further)
        for step in walks.shown():
            yield step
        guesses.heard(position + len(drafts), _further(answers[0]))
        if drafts:
            kept = _agreed(drafts, text[position:])
            is_rejected = kept < len(drafts)
            guesses.settle(len(drafts), kept, walks.weighed[0].missed_nats())
            walks.pass_over(position, position + kept + is_rejected)
            position += kept + is_rejected
            if is_rejected:
                walks.roll_back(position - 1)
                continue
        for step in await walks.score(position, answers):
            yield step
        guesses.counted()
        position += 1


def _further(answers: Mapping[Hotkey, StepResponse | PanelError]) -> list[int]:
    """What the one that was asked to would go on with."""
    rows = (answer.rows[0] for answer in answers.values() if isinstance(answer, StepResponse))
    return next((row.further.tolist() for row in rows if len(row.further)), [])


def _agreed(drafts: Sequence[int], text: npt.NDArray[np.uint32]) -> int:
    """How many of the drafts the text begins with."""
    pairs = zip(drafts, text.tolist(), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _log_failures(there: Sequence[Set[Hotkey]], errors: Mapping[Hotkey, PanelError]) -> None:
    """One line for a batch, however many fail in it."""
    if not errors:
        return
    named = [
        f"{hotkey} of {sum(hotkey not in left for left in there)} ({errors[hotkey]})"
        for hotkey in sorted(errors)[:LOGGED_FAILURES]
    ]
    more = f", and {len(errors) - len(named)} more" if len(errors) > len(named) else ""
    log.info("walks=%d dropped out: %s%s", len(there), ", ".join(named), more)
