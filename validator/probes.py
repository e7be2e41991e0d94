"""Probes: walks through private text in which no label is sent before it is scored.

A walk is a window of text: a prefix, then one token at a time, each answer scored before its
label is appended. Every window is used once, ever: a miner that has seen a text cannot be
measured on it again.
"""

from __future__ import annotations

import asyncio
import glob
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moesubnet.errors import ConfigError, PoolSpent
from moesubnet.mixture.mixing import Walk
from moesubnet.mixture.sheet import LOG_Q_FLOOR, LOG_Q_UNANSWERED, MICRO, micro_nats
from moesubnet.types import Hotkey
from moesubnet.validator.receipts import RECORD, record_of
from moesubnet.validator.records import Batch, Step, Window
from moesubnet.validator.scoring import Distances, entropy_nats
from moesubnet.wire.panel import Panel, PanelError, PanelSequence
from moesubnet.wire.protocol import Proof, StepResponse

PREFIX_TOKENS = 32
STEP_TOKENS = 16
WINDOW_TOKENS = PREFIX_TOKENS + STEP_TOKENS
CALLS_AT_ONCE = 512  # of one batch, to all experts: as many as the HTTP session has connections
LOGGED_FAILURES = 8  # experts named in a batch's line

Law = npt.NDArray[np.float32]  # [V] log-probabilities

log = logging.getLogger(__name__)


class TextPool:
    """Private documents, cut into windows that do not overlap."""

    def __init__(self, documents: Mapping[bytes, npt.NDArray[np.uint32]]) -> None:
        """documents: token ids by SHA-256 of the text."""
        self._documents = {k: ids for k, ids in documents.items() if len(ids) >= WINDOW_TOKENS}
        self.tokens = sum(len(ids) for ids in self._documents.values())
        if not self._documents:
            raise ConfigError(
                f"the private text has no document of {WINDOW_TOKENS} tokens; give longer text"
            )

    @classmethod
    def load(cls, pattern: str, encode: Callable[[str], Sequence[int]]) -> TextPool:
        """Every file that matches `pattern`: .jsonl lines with a "text", or one document each.

        Raises ConfigError.
        """
        paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
        texts = {
            hashlib.sha256(text.encode()).digest(): text
            for path in paths
            if path.is_file()
            for text in _read_texts(path)
        }
        if not texts:
            raise ConfigError(f"no text in {pattern!r}")
        return cls({key: np.array(encode(text), np.uint32) for key, text in texts.items()})

    def free_windows(self, used: Mapping[bytes, set[int] | None]) -> list[tuple[bytes, int]]:
        """(document, start) of what was never used. `used` as `State.used_starts` gives it."""
        return [
            (document, start)
            for document, ids in sorted(self._documents.items())
            if (starts := used.get(document, set())) is not None
            for start in range(0, len(ids) - WINDOW_TOKENS + 1, WINDOW_TOKENS)
            if start not in starts
        ]

    def draw(self, count: int, used: Mapping[bytes, set[int] | None], seed: bytes) -> list[Window]:
        """`count` fresh windows, chosen by `seed`; fewer when fewer are left.

        Raises PoolSpent when none is.
        """
        free = self.free_windows(used)
        if not free:
            raise PoolSpent(
                f"all {self.tokens:,} tokens of private text are used, and none is used twice: "
                "the last vote is repeated until you add fresh text under --text and restart"
            )
        order = sorted(free, key=lambda window: _lot(seed, *window))
        return [
            Window(document, start, self._documents[document][start : start + WINDOW_TOKENS])
            for document, start in order[:count]
        ]


def _lot(seed: bytes, document: bytes, start: int) -> bytes:
    return hashlib.sha256(seed + document + start.to_bytes(8, "little")).digest()


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


async def walk_batch(
    panels: Sequence[Panel],
    batch: Batch,
    walk: Walk,
    baseline_logp: npt.NDArray[np.float32],
) -> AsyncIterator[Step]:
    """Move all walks of `batch` in lockstep, each through a panel of its own; yields each
    position's scores.

    A walk is asked as a router asks: its own session, one sequence a request, the prefix and then
    token by token. Store a step before asking for the next one: that sends its labels, and only
    when all who were asked have answered or been cut. Who failed or was cut has dropped out of
    that walk: it is not asked again, so it never gets a label that it still owes an answer for,
    and the rest of the walk counts as unanswered.
    """
    walk.show(batch.walks[:, :PREFIX_TOKENS])
    sequences = [PanelSequence(session) for session in batch.sessions]
    slots = asyncio.Semaphore(max(1, CALLS_AT_ONCE // len(batch.hotkeys)))
    there = [set(batch.hotkeys) for _ in sequences]  # who has not dropped out
    errors: dict[Hotkey, PanelError] = {}  # each one's last
    sent = 0

    async def advance(k: int, position: int) -> dict[Hotkey, StepResponse | PanelError]:
        async with slots:
            ids = batch.walks[k, sent:position]
            answers = await panels[k].advance([sequences[k]], [ids], members=there[k])
        failed = {h: a for h, a in answers.items() if not isinstance(a, StepResponse)}
        errors.update(failed)
        there[k] -= failed.keys()
        return answers

    for position in range(PREFIX_TOKENS, batch.walks.shape[1]):
        answers = await asyncio.gather(*(advance(k, position) for k in range(len(sequences))))
        sent = position
        laws = [
            [_last_law(answer.get(hotkey), len(baseline_logp)) for answer in answers]
            for hotkey in batch.hotkeys
        ]
        proofs = [[_proof(answer.get(hotkey)) for answer in answers] for hotkey in batch.hotkeys]
        labels = batch.walks[:, position]
        yield await asyncio.to_thread(
            score_step, walk, position, labels, laws, baseline_logp, proofs
        )
        if not any(there):
            break
    _log_failures(there, errors)


def _last_law(answer: StepResponse | PanelError | None, vocab_size: int) -> Law | None:
    """float32 [V]: the law of the next token."""
    return answer.rows[0].dense(vocab_size)[-1] if isinstance(answer, StepResponse) else None


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


def score_step(
    walk: Walk,
    position: int,
    labels: npt.NDArray[np.uint32],
    laws: Sequence[Sequence[Law | None]],
    baseline_logp: npt.NDArray[np.float32],
    proofs: Sequence[Sequence[Proof | None]] | None = None,
) -> Step:
    """Score the labels [N] against each expert's laws, n × N of [V] or None: no answer. Moves
    `walk` on."""
    count, n = len(labels), len(laws)
    proofs = proofs or [[None] * count] * n
    log_q = np.tile(baseline_logp[labels].astype(np.float64)[:, None], (1, n + 1))
    answered = np.ones((count, n + 1), np.bool_)
    entropy = np.zeros((count, n))
    distances = Distances(n)
    for k, label in enumerate(labels):
        given = {i: law for i, of_walks in enumerate(laws) if (law := of_walks[k]) is not None}
        answered[k, :-1] = [i in given for i in range(n)]
        if not given:
            continue
        there = list(given)
        stacked = np.stack([given[i] for i in there])  # [there, V]
        log_q[k, there] = stacked[:, label]
        entropy[k, there] = entropy_nats(stacked)
        distances.add(given)
    log_q = np.clip(log_q, LOG_Q_FLOOR, 0.0)
    log_w = walk.log_weights(answered)
    walk.observe(labels, log_q, blind=answered)
    return Step(
        position,
        np.where(answered, micro_nats(log_q), LOG_Q_UNANSWERED).astype(np.int32),
        micro_nats(log_w),
        np.rint(entropy * MICRO).astype(np.int32),
        distances.distance,
        distances.together,
        np.array([[record_of(of_walks[k]) for of_walks in proofs] for k in range(count)], RECORD),
        tuple(tuple(bytes(proof.body) if proof else b"" for proof in row) for row in proofs),
    )
