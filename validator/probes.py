"""Probes: walks through private text in which no label is sent before it is scored.

A walk is a stretch of text: a prefix, then one token at a time, each answer scored before its
label is appended. How long both are is drawn, as users' prompts and answers are (`shapes`). Every
text is used once, ever: a miner that has seen it cannot be measured on it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moesubnet.errors import ConfigError, PoolSpent
from moesubnet.host.paths import text_files
from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS, choose
from moesubnet.mixture.draft_length import Pace, entropy_nats
from moesubnet.mixture.gate import Gate
from moesubnet.mixture.law import Law, law_of
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.mixture.sheet import LOG_Q_FLOOR, LOG_Q_UNANSWERED, MICRO, micro_nats
from moesubnet.types import Hotkey
from moesubnet.units import TOKENS, Grain
from moesubnet.validator.guesses import Guesses
from moesubnet.validator.receipts import RECORD, record_of
from moesubnet.validator.records import SENDER, Batch, Step, Window
from moesubnet.validator.shapes import Shape
from moesubnet.wire.panel import Asked, Panel, PanelError, PanelSequence
from moesubnet.wire.protocol import Proof, StepResponse
from moesubnet.wire.relay import Relayed

PREFIX_TOKENS = 32
STEP_TOKENS = 16
WINDOW_TOKENS = PREFIX_TOKENS + STEP_TOKENS
ONE_WINDOW = Shape(PREFIX_TOKENS, STEP_TOKENS)  # of walks that need not look like users'
TRIES = 16  # to find a place with as much text as a walk is long
LEAST_KNOWN = 12  # tokens of a published walk that tell it from another text
CALLS_AT_ONCE = 512  # past all routers: as many as the HTTP session has connections
RELAYED_AT_ONCE = 1_024  # a round of so many is read well within anybody's patience
PATIENCE_S = 1.0  # at least, after the greater part of the weight: many walks share our one loop
LOGGED_FAILURES = 8  # experts named in a batch's line

log = logging.getLogger(__name__)


class TextPool:
    """Private documents, cut into windows that do not overlap. A walk takes one or several."""

    def __init__(
        self, documents: Mapping[bytes, npt.NDArray[np.uint32]], grain: Grain = TOKENS
    ) -> None:
        """documents: token ids by SHA-256 of the text."""
        self.grain, self.window = grain, window_units(grain)
        self._documents = {k: ids for k, ids in documents.items() if len(ids) >= self.window}
        self.tokens = sum(len(ids) for ids in self._documents.values())
        if not self._documents:
            raise ConfigError(
                f"the private text has no document of {self.window} {grain.unit}; give longer text"
            )

    @classmethod
    def load(
        cls, pattern: str, encode: Callable[[str], Sequence[int]], grain: Grain = TOKENS
    ) -> TextPool:
        """Every file that matches `pattern`: .jsonl lines with a "text", or one document each.

        Raises ConfigError.
        """
        texts = {
            hashlib.sha256(text.encode()).digest(): text
            for path in text_files([pattern])
            for text in _read_texts(path)
        }
        if not texts:
            raise ConfigError(f"no text in {pattern!r}")
        documents = {key: np.array(encode(text), np.uint32) for key, text in texts.items()}
        return cls(documents, grain)

    def free_windows(self, used: Mapping[bytes, Set[int] | None]) -> int:
        """How many windows were never used. `used` as `State.used_starts` gives it."""
        return sum(self._free(document, used) for document in self._documents)

    def repeats(
        self, used: Mapping[bytes, Set[int] | None], published: Sequence[npt.NDArray[np.uint32]]
    ) -> list[tuple[bytes, int]]:
        """(document, start) of unused windows that begin as a used one, an earlier one, or any
        window of a published walk: their labels may be known. Costs what windows there are."""
        prefix = self.grain.units(PREFIX_TOKENS)
        pieces = [ids[at:] for ids in published for at in range(0, len(ids), self.window)]
        known = {_beginning(ids, prefix) for ids in pieces}
        trimmed = {len(ids) for ids in pieces if self.grain.units(LEAST_KNOWN) <= len(ids) < prefix}
        unused: dict[bytes, tuple[bytes, int]] = {}
        again: list[tuple[bytes, int]] = []
        for document, ids in sorted(self._documents.items()):
            taken = used.get(document, frozenset())
            if taken is None:
                continue
            for start in self._starts(ids):
                begins = _beginning(ids[start:], prefix)
                if any(_beginning(ids[start:], length) in known for length in trimmed):
                    known.add(begins)
                if start in taken:
                    known.add(begins)
                elif begins in unused:
                    again.append((document, start))
                else:
                    unused[begins] = (document, start)
        return again + [window for begins, window in unused.items() if begins in known]

    def draw(
        self, shapes: Sequence[Shape], used: Mapping[bytes, Set[int] | None], seed: bytes
    ) -> list[Window]:
        """Fresh text for walks of these shapes, chosen by `seed`; for fewer when less is left.

        Where a document does not go on for so long the prefix is shorter. Costs what documents
        there are, not what windows. Raises PoolSpent when none is left.
        """
        documents = sorted(self._documents)
        ends = np.cumsum([self._free(document, used) for document in documents])
        if not ends[-1]:
            raise PoolSpent(
                f"all {self.tokens:,} {self.grain.unit} of private text are used, and none is "
                "used twice: the last vote is repeated until you add fresh text under --text and "
                "restart"
            )
        total, most = int(ends[-1]), TRIES * len(shapes)
        fresh = [
            self._place(int(place), documents, ends, used)
            for place in random.Random(seed).sample(range(total), min(most, total))
        ]
        taken = {document: set(used.get(document) or ()) for document, _ in fresh}
        windows: list[Window] = []
        for shape in shapes:
            best, starts = 0, range(0)
            for index, (document, start) in enumerate(fresh):
                found = self._free_from(document, start, shape.units, taken[document])
                if len(found) > len(starts):
                    best, starts = index, found
                if len(found) * self.window >= shape.units:
                    break
            if not starts:
                break
            document, _ = fresh.pop(best)
            taken[document].update(starts)
            windows.append(self._window(document, starts, shape))
        return windows

    def _place(
        self,
        place: int,
        documents: Sequence[bytes],
        ends: npt.NDArray[np.int64],
        used: Mapping[bytes, Set[int] | None],
    ) -> tuple[bytes, int]:
        """(document, start) of a free window, by its number among them. ends: of each document."""
        index = int(np.searchsorted(ends, place, side="right"))
        starts = self._starts(self._documents[documents[index]])
        taken = used.get(documents[index]) or set()
        nth = place - (int(ends[index - 1]) if index else 0)
        fresh = (start for start in starts if start not in taken)
        return documents[index], next(itertools.islice(fresh, nth, None))

    def _free_from(self, document: bytes, start: int, units: int, taken: Set[int]) -> range:
        """The windows from `start` on that are free without a gap, as many as `units` take."""
        stop = min(start + units, self._starts(self._documents[document]).stop)
        going_on = range(start, stop, self.window)
        free = itertools.takewhile(lambda at: at not in taken, going_on)
        return going_on[: len(list(free))]

    def _window(self, document: bytes, starts: range, shape: Shape) -> Window:
        ids = self._documents[document][starts[0] : starts[-1] + self.window][: shape.units]
        is_cut = len(ids) < shape.units
        first = len(ids) - min(shape.steps, len(ids) // 2) if is_cut else shape.prefix
        return Window(document, tuple(starts), ids, first)

    def _free(self, document: bytes, used: Mapping[bytes, Set[int] | None]) -> int:
        starts = used.get(document, frozenset())
        if starts is None:  # another spec cut it into other windows
            return 0
        windows = self._starts(self._documents[document])
        return len(windows) - sum(start in windows for start in starts)

    def _starts(self, ids: npt.NDArray[np.uint32]) -> range:
        """Where the windows of a document begin."""
        return range(0, len(ids) - self.window + 1, self.window)


def window_units(grain: Grain) -> int:
    """Of what private text is used in multiples."""
    return grain.units(PREFIX_TOKENS) + grain.units(STEP_TOKENS)


def _beginning(ids: npt.NDArray[np.uint32], prefix: int) -> bytes:
    return ids[:prefix].astype("<u4").tobytes()


def _read_texts(path: Path) -> Iterator[str]:
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix != ".jsonl":
            yield content
            return
        for line in content.split("\n"):
            text = json.loads(line)["text"] if line.strip() else ""
            if not isinstance(text, str):
                raise TypeError
            yield text
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f'{path} has a line that is not JSON with a "text"') from error


class Slots:
    """How many walks may ask so many experts at once, whatever batch they are of."""

    def __init__(self, experts: int) -> None:
        self._direct, self._relayed = (
            asyncio.Semaphore(max(1, calls // experts))
            for calls in (CALLS_AT_ONCE, RELAYED_AT_ONCE)
        )

    def of(self, way: Mapping[Hotkey, Asked]) -> asyncio.Semaphore:
        """For the calls of a walk."""
        is_relayed = any(isinstance(asked, Relayed) and asked.sender for asked in way.values())
        return self._relayed if is_relayed else self._direct


async def walk_batch(
    panels: Sequence[Panel],
    batch: Batch,
    gate: Gate,
    baseline: Law,
    clients: Sequence[Mapping[Hotkey, Asked]] = (),
    slots: Slots | None = None,
    pace: Pace | None = None,
) -> AsyncGenerator[Step, None]:
    """Move all walks of `batch` in lockstep, each through a panel of its own; yields each
    position's scores.

    A walk is asked as a router asks: its own session, one sequence a request, the prefix and then
    token by token. Store a step before asking for the next one: that sends its labels, and only
    when all who were asked have answered or been cut. (Where somebody had not listed a label, only
    the answer to the request that brings it shows what it was given: that step comes after it.)
    After the prefix, late is who a router would call late, with more patience. Who failed or was
    cut has dropped out of that walk: it is not asked again but for a leaf that it owes, so it
    never gets a label that it still owes an answer for, and the rest of the walk counts as
    unanswered. All are asked; the chosen are those whom a router would have asked, of those that
    answered the prefix. slots: shared with other batches.

    pace: with it a walk that is alone in its batch has drafts (`guesses`), and a label that was
    drafted, or stands in a draft's place, is none: it is shown, and no position of the walk's.
    """
    weighed: list[Weighed] = []
    sequences = [PanelSequence(session) for session in batch.sessions]
    slots = slots or Slots(len(batch.hotkeys))
    there = [set(batch.hotkeys) for _ in sequences]  # who has not dropped out
    errors: dict[Hotkey, PanelError] = {}  # each one's last
    sent = 0
    unshown: Step | None = None
    end = batch.walks.shape[1]
    guesses = Guesses(pace, end) if pace is not None and len(sequences) == 1 else None
    answer_from = batch.first + gate.grain.units(BLIND_PROMPT_TOKENS)

    async def advance(
        k: int, position: int, drafts: Sequence[int] = (), further: int = 0
    ) -> dict[Hotkey, StepResponse | PanelError]:
        async with slots.of(clients[k] if clients else {}):
            ids = np.append(batch.walks[k, sent:position], np.array(drafts, np.uint32))
            worth = weighed[k].worth() if weighed else None
            left = {h: weight for h, weight in (worth or {}).items() if h in there[k]}
            going_on = {max(left, key=left.__getitem__): further} if left and further else {}
            answers = await panels[k].advance(
                [sequences[k]],
                [ids],
                first=position,
                members=there[k],
                weights=worth,
                least_patience_s=PATIENCE_S,
                further=going_on,
            )
            errors.update(await panels[k].reveal([sequences[k]]))
        failed = {h: a for h, a in answers.items() if not isinstance(a, StepResponse)}
        errors.update(failed)
        there[k] -= failed.keys()
        return answers

    try:
        position, text = batch.first, batch.walks[0]
        while position < end:
            drafts: list[int] = []
            further = 0
            if guesses is not None and position >= answer_from:
                drafts = guesses.drafts(position, int(text[position - 1]))
                further = guesses.further(position, len(drafts))
            since_s = time.monotonic()
            answers = await asyncio.gather(
                *(advance(k, position, drafts, further) for k in range(len(sequences)))
            )
            sent = position + len(drafts)
            if unshown is not None:
                yield _shown(unshown, weighed, batch.hotkeys, sequences)
                unshown = None
            if guesses is not None:
                guesses.heard(sent, _further(answers[0]), time.monotonic() - since_s)
            if not weighed:
                weighed = [
                    Weighed(gate, ids[: batch.first], batch.hotkeys, serving)
                    for ids, serving in zip(batch.walks, there, strict=True)
                ]
            if guesses is not None and drafts:
                kept = _agreed(drafts, text[position:])
                shown = kept + (kept < len(drafts))
                guesses.settle(len(drafts), kept, weighed[0].entropy_nats())
                weighed[0].show(text[position : position + shown])
                position += shown
                if kept < len(drafts):
                    sent = position - 1
                    sequences[0].truncate(sent)
                    if not any(there):
                        break
                    continue
            labels = batch.walks[:, position]
            given = _by_expert(answers, batch.hotkeys, baseline, clients)
            step = await asyncio.to_thread(
                score_step, weighed, position, labels, given[0], baseline, *given[1:]
            )
            owed = any(s.unlisted(int(y)) for s, y in zip(sequences, labels, strict=True))
            unshown = step if owed else None
            if unshown is None:
                yield step
            if guesses is not None:
                guesses.counted()
            position += 1
            if not any(there):
                break
        if unshown is not None:
            for sequence, label in zip(sequences, batch.walks[:, sent], strict=True):
                sequence.append([label])
            pairs = zip(panels, sequences, strict=True)
            for failed in await asyncio.gather(*(panel.reveal([s]) for panel, s in pairs)):
                errors.update(failed)
            yield _shown(unshown, weighed, batch.hotkeys, sequences)
    finally:  # also where the epoch's close ends the batch
        _log_failures(there, errors)


def _shown(
    step: Step,
    weighed: Sequence[Weighed],
    hotkeys: Sequence[Hotkey],
    sequences: Sequence[PanelSequence],
) -> Step:
    """A step with what leaves have shown of its labels since, or that they have not. Amends
    `weighed`."""
    log_q = step.log_q.copy()
    for k, sequence in enumerate(sequences):
        for column, hotkey in enumerate(hotkeys):
            said = sequence.said(hotkey)
            if said is not None and said[0] == step.position:
                weighed[k].amend(hotkey, *said)
                log_q[k, column] = micro_nats(np.maximum(said[1], LOG_Q_FLOOR))
    return replace(step, log_q=log_q)


def _by_expert(
    answers: Sequence[Mapping[Hotkey, StepResponse | PanelError]],
    hotkeys: Sequence[Hotkey],
    baseline: Law,
    clients: Sequence[Mapping[Hotkey, Asked]],
) -> tuple[
    list[list[Law | None]], list[list[Proof | None]], npt.NDArray[np.int32], list[list[bytes]]
]:
    """What N walks' answers say: laws and proofs [n][N], answer_ms [N, n], senders [N][n]."""
    laws = [[_last_law(answer.get(h), baseline) for answer in answers] for h in hotkeys]
    proofs = [[_proof(answer.get(h)) for answer in answers] for h in hotkeys]
    took_ms = [[_answer_ms(answer.get(h)) for h in hotkeys] for answer in answers]
    senders = [
        [_sender(answer.get(h), of_walk.get(h)) for h in hotkeys]
        for answer, of_walk in zip(answers, clients, strict=False)
    ]
    return laws, proofs, np.array(took_ms, np.int32), senders


def _further(answers: Mapping[Hotkey, StepResponse | PanelError]) -> list[int]:
    """What the one that was asked to would go on with."""
    rows = (answer.rows[0] for answer in answers.values() if isinstance(answer, StepResponse))
    return next((row.further.tolist() for row in rows if len(row.further)), [])


def _agreed(drafts: Sequence[int], text: npt.NDArray[np.uint32]) -> int:
    """How many of the drafts the text begins with."""
    pairs = zip(drafts, text.tolist(), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _last_law(answer: StepResponse | PanelError | None, baseline: Law) -> Law | None:
    """The law of the next token."""
    return law_of(answer.rows[0], -1, baseline) if isinstance(answer, StepResponse) else None


def _answer_ms(answer: StepResponse | PanelError | None) -> int:
    took_s = answer.took_s if isinstance(answer, StepResponse) else None
    return -1 if took_s is None else round(1_000 * took_s)


def _sender(answer: StepResponse | PanelError | None, client: Asked | None) -> bytes:
    """Whose hotkey asked: of a proven answer the one that it is signed for, though its router may
    have been left since, while a leaf was asked for; of none who asks now. Empty for our own."""
    proof, sender = _proof(answer), client.sender if isinstance(client, Relayed) else None
    return ((proof.sender if proof is not None else sender) or "").encode()


def _proof(answer: StepResponse | PanelError | None) -> Proof | None:
    return answer.proof if isinstance(answer, StepResponse) else None


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


class Weighed:
    """One walk's members, weighed. n experts asked, `serving` those of them that a router would
    find there.

    Whom a router would choose has the weight that it would get; the others have the weight that
    they would get if all were asked, in the same proportion to the baseline's: what an expert
    adds to its seniors is known only next to all of them.
    """

    def __init__(
        self,
        gate: Gate,
        prefix: npt.NDArray[np.uint32],
        hotkeys: Sequence[Hotkey],
        serving: Collection[Hotkey],
    ) -> None:
        self._hotkeys = hotkeys
        names = choose(gate, prefix, serving)
        self._columns = [*map(hotkeys.index, names), len(hotkeys)]
        self._of_chosen, self._of_all = (
            Walk(gate, members_of(names)),
            Walk(gate, members_of(hotkeys)),
        )
        for walk in (self._of_chosen, self._of_all):
            walk.show(prefix[None, :])
        self.chosen = np.isin(hotkeys, names).astype(np.uint8)

    def log_weights(self, answered: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """answered: [n + 1] → [n + 1], −inf for who is silent."""
        chosen = self._of_chosen.log_weights(answered[self._columns])[0]
        log_w: npt.NDArray[np.float64] = self._of_all.log_weights(answered)[0]
        log_w += chosen[-1] - log_w[-1]
        log_w[self._columns] = chosen
        return log_w

    def show(self, ids: npt.NDArray[np.uint32]) -> None:
        """Go on by what was drafted, or stands in a draft's place."""
        for walk in (self._of_all, self._of_chosen):
            walk.show(ids[None, :])

    def entropy_nats(self) -> float:
        """Of the weights that a router gives."""
        return entropy_nats(np.exp(self._of_chosen.log_weights()[0]).tolist())

    def worth(self) -> dict[Hotkey, float]:
        """Of the chosen, by the heaviest of them and not by the baseline."""
        log_w = self._of_chosen.log_weights()[0, :-1]
        worth = np.exp(log_w - log_w.max(initial=-np.inf))
        return dict(zip(self._of_chosen.members, worth.tolist(), strict=False))

    def observe(
        self,
        label: np.uint32,
        log_q: npt.NDArray[np.float64],
        answered: npt.NDArray[np.bool_],
    ) -> None:
        """log_q, answered: [n + 1]. Silence counts as the baseline does."""
        ids, mine = np.array([label]), self._columns
        self._of_all.observe(ids, log_q[None], blind=answered[None])
        self._of_chosen.observe(ids, log_q[None, mine], blind=answered[None, mine])

    def amend(self, hotkey: Hotkey, position: int, log_p: float) -> None:
        for walk in (self._of_all, self._of_chosen):
            if hotkey in walk.members:
                walk.amend(0, walk.members.index(hotkey), position, log_p)


def score_step(
    weighed: Sequence[Weighed],
    position: int,
    labels: npt.NDArray[np.uint32],
    laws: Sequence[Sequence[Law | None]],
    baseline: Law,
    proofs: Sequence[Sequence[Proof | None]] | None = None,
    answer_ms: npt.NDArray[np.int32] | None = None,
    senders: Sequence[Sequence[bytes]] = (),
) -> Step:
    """Score the labels [N] against each expert's laws, n × N or None: no answer. Moves the N walks
    on."""
    count, n = len(labels), len(laws)
    proofs = proofs or [[None] * count] * n
    if answer_ms is None:
        answer_ms = np.full((count, n), -1, np.int32)
    log_q = np.tile(baseline.at(labels)[:, None], (1, n + 1))
    answered = np.ones((count, n + 1), np.bool_)
    entropy = np.zeros((count, n))
    for k, label in enumerate(labels):
        given = {i: law for i, of_walks in enumerate(laws) if (law := of_walks[k]) is not None}
        answered[k, :-1] = [i in given for i in range(n)]
        for i, law in given.items():
            log_q[k, i] = law.at(label)
            entropy[k, i] = law.entropy_nats
    log_q = np.clip(log_q, LOG_Q_FLOOR, 0.0)
    log_w = np.stack([w.log_weights(there) for w, there in zip(weighed, answered, strict=True)])
    for k, walk in enumerate(weighed):
        walk.observe(labels[k], log_q[k], answered[k])
    return Step(
        position,
        np.where(answered, micro_nats(log_q), LOG_Q_UNANSWERED).astype(np.int32),
        micro_nats(log_w),
        np.rint(entropy * MICRO).astype(np.int32),
        np.stack([w.chosen for w in weighed]),
        answer_ms,
        np.array(senders or [[b""] * n] * count, SENDER).reshape(count, n),
        np.array([[record_of(of_walks[k]) for of_walks in proofs] for k in range(count)], RECORD),
        tuple(tuple(bytes(proof.body) if proof else b"" for proof in row) for row in proofs),
    )
