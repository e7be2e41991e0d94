"""The mixture's posterior: how much each member is trusted. Pure numpy, no I/O.

Notation: N sequences, E members, V tokens. Members are expert hotkeys in sorted order and then
`BASELINE_MEMBER`, so the baseline (unigram or student) is always column E − 1. All probabilities
are natural logarithms.

    m(x|h) = Σ_i w_i(h) · p_i(x|h)            log w_i = log g_i(h) + evidence_i − log Z
    evidence_i = Σ_s γ^Δ · log p_i(x_s)        over tokens s that were blind for expert i

A token is *blind* for an expert when the expert's row for it was in our hands before the token,
or a draft of it, was sent to that expert. A visible token says nothing: p = 1 can be claimed on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.gate import BASELINE_MEMBER, Gate, initial_features, update_features
from moesubnet.types import Hotkey

Float = npt.NDArray[np.float64]
Logs = npt.NDArray[np.floating]
Ids = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]

GAMMA = 0.95  # forgetting per token; 1 would freeze on one member after some tens of tokens
MAX_AMENDED_TOKENS = 64  # 4 % of a token's evidence is left after so many
LOG_P_FLOOR = -30.0  # evidence of one token is bounded, so that it can be forgotten


def members_of(experts: Iterable[Hotkey]) -> tuple[Hotkey, ...]:
    """The members of a mixture in canonical order: sorted experts, then the baseline."""
    return (*sorted(experts), BASELINE_MEMBER)


def log_sum_exp(values: Logs, axis: int = -1) -> Logs:
    """log Σ exp along `axis`; −inf entries are allowed, an all −inf slice stays −inf."""
    top = np.max(values, axis=axis, keepdims=True)
    safe = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        total: Logs = np.log(np.sum(np.exp(values - safe), axis=axis)) + np.squeeze(safe, axis)
    return total


def log_weights(log_prior: Logs, evidence: Logs, alive: Mask | bool = True) -> Float:
    """Normalised log weights.

    log_prior, evidence: [.., E]; alive: bool, broadcast to [.., E] (dead members get −inf, the
    rest renormalise; the baseline is always alive). Returns float64 [.., E], logsumexp 0.
    """
    posterior = np.asarray(log_prior, np.float64) + evidence
    posterior = np.where(alive, posterior, -np.inf)
    top = posterior.max(axis=-1, keepdims=True)  # finite
    total: Float = np.log(np.exp(posterior - top).sum(axis=-1, keepdims=True)) + top
    return posterior - total


def update_evidence(
    evidence: Float,
    log_p_token: Logs,
    *,
    blind: Mask | bool,
    token_weight: float = 1.0,
    gamma: float = GAMMA,
) -> Float:
    """Evidence after one more token.

    evidence, log_p_token: [.., E], the latter log p_i of the token that came. `blind` is
    broadcast to [.., E]; a member for which it is False counts as the baseline did (the last
    column, in our own hands and always blind), so neither echoing nor staying silent pays.
    `token_weight` is min(1, T) for a token that the router drew itself at temperature T, else 1;
    it scales the evidence and the forgetting alike.
    """
    gained = bounded(np.where(blind, log_p_token, log_p_token[..., -1:]))
    return math.pow(gamma, token_weight) * evidence + token_weight * gained


def bounded(log_p: Logs) -> Float:
    """As evidence counts them, float64."""
    return np.minimum(np.maximum(np.asarray(log_p, np.float64), LOG_P_FLOOR), 0.0)


class Walk:
    """The posterior of N sequences that move through text in lockstep.

    Router, validator, distiller and evaluator all weigh members through this class, so that an
    expert is paid for exactly the weight that it gets.
    """

    def __init__(self, gate: Gate, members: Sequence[Hotkey], count: int = 1) -> None:
        if not members or members[-1] != BASELINE_MEMBER:
            raise ValueError("the last member is the baseline")
        self.members = tuple(members)
        self._prior, self._grain = gate.over(self.members), gate.grain
        self._gamma = gate.grain.decay(GAMMA)
        self._features = initial_features((count,))
        self._evidence = np.zeros((count, len(self.members)))
        self._length, self._age = 0, 0.0  # tokens so far; tokens as forgetting counts them
        # By position: its age, the token's weight, the log-probabilities [N, E] that count for it
        # (NaN: not blind). Replaced, never changed.
        self._counted: dict[int, tuple[float, float, Float]] = {}
        # Features and evidence, which are replaced too, what the gate tells by them, and the log
        # weights by who is alive.
        self._weighed: tuple[Float, Float, Float, dict[bytes, Float]] | None = None

    def log_weights(self, alive: Mask | bool = True) -> Float:
        """Log weights for the next token, float64 [N, E], not to be changed. alive: broadcast to
        [N, E]. Asked again before the text goes on they are at hand."""
        features, evidence, there = self._features, self._evidence, np.asarray(alive)
        last = self._weighed
        if last is None or last[0] is not features or last[1] is not evidence:
            self._weighed = last = features, evidence, self._prior.told(features), {}
        key = b"" if there.all() else there.tobytes()
        log_w = last[3].get(key)
        if log_w is None:
            log_w = log_weights(self._prior.log_prior(last[2], there), evidence, there)
            log_w.flags.writeable = False
            last[3][key] = log_w
        return log_w

    def unknown(self) -> float:
        """Of the first sequence: how much of what its tokens could tell of the members the gate
        does not tell already. (entropy of the prior / its most)², so 1 where it knows nothing;
        squared as measured: at 0.6 of the most, evidence added nothing (docs/log.md)."""
        if len(self.members) == 1:
            return 0.0
        prior = self._prior.log_prior(self._prior.told(self._features[:1]))[0]
        part = -float(np.sum(np.exp(prior) * prior)) / math.log(len(self.members))
        return min(1.0, part) ** 2

    def show(self, ids: Ids, token_weight: float = 1.0) -> None:
        """Append visible tokens, ids [N, n]: they move the gate's features, never the evidence,
        which fades as it would if they were some. token_weight: see `update_evidence`."""
        faded = token_weight * ids.shape[-1]
        self._features = update_features(self._features, ids, self._grain)
        self._evidence = math.pow(self._gamma, faded) * self._evidence
        self._length += ids.shape[-1]
        self._age += faded

    def observe(
        self,
        ids: Ids,
        log_p_token: Logs,
        *,
        blind: Mask | bool = True,
        token_weight: float = 1.0,
    ) -> None:
        """Append one token per sequence.

        ids: [N]; log_p_token: [N, E], each member's log-probability of that token (any finite
        number where it gave none); blind: broadcast to [N, E], False also for a missing answer.
        """
        self._features = update_features(self._features, ids[:, None], self._grain)
        self._evidence = update_evidence(
            self._evidence,
            log_p_token,
            blind=blind,
            token_weight=token_weight,
            gamma=self._gamma,
        )
        self._age += token_weight
        counted = np.where(blind, said := bounded(log_p_token), np.nan)
        counted[:, -1] = said[:, -1]  # the baseline is in our own hands, whoever has met the text
        self._counted = self._counted | {self._length: (self._age, token_weight, counted)}
        while next(iter(self._counted)) <= self._length - MAX_AMENDED_TOKENS:  # ascending
            del self._counted[next(iter(self._counted))]
        self._length += 1

    def missed(self, column: int) -> list[int]:
        """The positions that weighed others and not this member, because it said nothing."""
        return [at for at, (_, _, said) in self._counted.items() if np.isnan(said[0, column])]

    def catch_up(self, column: int, missed: Sequence[int], said: Mapping[int, float]) -> None:
        """Of one sequence: count what a member said blindly, later, of some tokens that it had
        missed: position → log-probability. Each stands for as many of `missed`."""
        evidence, kept = self._evidence.copy(), dict(self._counted)
        for position in kept.keys() & said.keys():
            age, token_weight, counted = kept[position]
            counted = counted.copy()
            counted[0, column] = now = max(min(said[position], 0.0), LOG_P_FLOOR)
            beyond = token_weight * math.pow(self._gamma, self._age - age) * (now - counted[0, -1])
            evidence[0, column] += beyond * len(missed) / len(said)
            kept[position] = age, token_weight, counted
        self._evidence, self._counted = evidence, kept

    def amend(self, row: int, column: int, position: int, log_p: float) -> None:
        """Count for a token that was observed blind what its expert had bound itself to give it,
        which is known only now. The same again changes nothing, and what has faded is past."""
        if position not in self._counted:
            return
        age, token_weight, counted = self._counted[position]
        now, was = max(min(log_p, 0.0), LOG_P_FLOOR), counted[row, column]
        if math.isnan(was):  # not blind: it counted as the baseline did
            return
        amended, evidence = counted.copy(), self._evidence.copy()
        amended[row, column] = now
        evidence[row, column] += token_weight * math.pow(self._gamma, self._age - age) * (now - was)
        self._counted = self._counted | {position: (age, token_weight, amended)}
        self._evidence = evidence
