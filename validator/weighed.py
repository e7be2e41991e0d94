"""One walk's experts as a router would weigh them, and a position's scores."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.choosing import choose
from moesubnet.mixture.draft_length import entropy_nats
from moesubnet.mixture.gate import Gate
from moesubnet.mixture.law import Law
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.mixture.sheet import LOG_Q_FLOOR, LOG_Q_UNANSWERED, MICRO, micro_nats
from moesubnet.types import Hotkey
from moesubnet.validator.receipts import records_of
from moesubnet.validator.records import SENDER, Step
from moesubnet.wire.protocol import Proof


class Weighed:
    """One walk's members, weighed. n experts asked; `serving`: whom a router would find there,
    asked or not.

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
        names = [hotkey for hotkey in choose(gate, prefix, serving) if hotkey in hotkeys]
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
        of_all = self._of_all.log_weights(answered)[0]
        log_w: npt.NDArray[np.float64] = of_all + (chosen[-1] - of_all[-1])
        log_w[self._columns] = chosen
        return log_w

    def show(self, ids: npt.NDArray[np.uint32]) -> None:
        """Go on by what was drafted, or stands in a draft's place."""
        for walk in (self._of_all, self._of_chosen):
            walk.show(ids[None, :])

    def missed_nats(self) -> float:
        """What a router misses of evidence with a drafted token (`DraftLength.drafted`)."""
        weights = np.exp(self._of_chosen.log_weights()[0]).tolist()
        return entropy_nats(weights) * self._of_chosen.unknown()

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
    took_100us: npt.NDArray[np.uint16] | None = None,
    senders: Sequence[Sequence[bytes]] = (),
) -> Step:
    """Score the labels [N] against each expert's laws, n × N or None: no answer. Moves the N walks
    on."""
    count, n = len(labels), len(laws)
    proofs = proofs or [[None] * count] * n
    if took_100us is None:
        took_100us = np.zeros((count, n), np.uint16)
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
        took_100us,
        np.array(senders or [[b""] * n] * count, SENDER).reshape(count, n),
        records_of(of_walks[k] for k in range(count) for of_walks in proofs).reshape(count, n),
        tuple(tuple(bytes(proof.body) if proof else b"" for proof in row) for row in proofs),
    )
