"""The gate: the prior g_i(h) over experts from a cheap, causal view of the prefix.

Everyone fits the same gate from the same revealed score sheets: full-batch ascent on

    Σ_items ω · log Σ_i g_i(h) p_i(y|h)  −  ‖θ‖²/2        g = softmax(θ · x(h)) over experts

with fixed iterations in canonical order, rounded to 2⁻¹² so that last bits of a machine's
arithmetic do not change its hash. x(h) is the square root of decayed hashed token counts, shrunk
towards zero while the prefix is short, and a bias.

A prior is multiplied by the expert's standing (`Sheet.standing_ppm`): whom its seniors explain, as
they do a copy however noisy, has none, so a model is not heard louder for having been registered
often. It is fitted with what of it they have in each walk (`Sheet.apart`): who says on another's
texts what that one says takes none of its part there. The baseline is a permanent member with
prior 1/(n + 1), n adding up the standing of the experts; all hotkeys without standing, and those
that no sheet has measured yet, share 0.02.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import msgpack
import numpy as np
import numpy.typing as npt

from moesubnet.errors import FrameError
from moesubnet.mixture.sheet import LOG_Q_ABSENT, LOG_Q_UNANSWERED, MICRO, WHOLE, Sheet
from moesubnet.mixture.sheet_cache import AnySheet
from moesubnet.mixture.standing import agreed_standing
from moesubnet.types import Hotkey
from moesubnet.units import TOKENS, Grain

Float = npt.NDArray[np.float64]

BASELINE_MEMBER = Hotkey("baseline")  # the last member of every mixture
GATE_FORMAT = "moesubnet-gate/4"
MAX_GATE_BYTES = 8 * 2**20
FEATURES_BITS = 8
FEATURES_DIM = 2**FEATURES_BITS  # hashed token counts; the bias is added inside the gate
COUNT_DECAY = 0.98  # per token: a memory of about 50 tokens
MEMORY_TOKENS = 2_000  # what is further back is less than the last bit of a float64
SHRINK_TOKENS = 10.0  # a prefix this long speaks with half its voice
NEWCOMERS_PRIOR = 0.02  # of all without standing together: hotkeys are cheap
L2_ITEMS = 1.0  # ‖θ‖²/2 weighs as much as one item: a prior variance of one
ITERATIONS = 40
SCALE = 2**12
_TINY = np.finfo(np.float64).tiny
FIT_COPIES = 9  # arrays of [items, experts] that a fit holds at once, beside the features
MAX_FIT_VALUES = 13_000_000  # 40,000 items of eight experts, 5,700 of 256: two seconds, 100 MB


def initial_features(shape: tuple[int, ...] = ()) -> Float:
    """Features of the empty prefix: zeros [*shape, FEATURES_DIM]."""
    return np.zeros((*shape, FEATURES_DIM))


def update_features(features: Float, ids: npt.NDArray[np.integer], grain: Grain = TOKENS) -> Float:
    """Decayed hashed counts after appending ids [.., n] to prefixes with features [.., F]."""
    flat = features.reshape(-1, FEATURES_DIM)
    bucket = _bucket(ids[..., -grain.units(MEMORY_TOKENS) :]).reshape(len(flat), -1)
    powers = _powers(grain.decay(COUNT_DECAY), bucket.shape[1])
    after: Float = flat * powers[0]
    if bucket.shape[1] == 1:
        after[np.arange(len(flat)), bucket[:, 0]] += 1.0
    else:
        places = bucket + FEATURES_DIM * np.arange(len(flat))[:, None]
        weights = powers[None, 1:].repeat(len(flat), axis=0)
        after += np.bincount(places.ravel(), weights.ravel(), flat.size).reshape(flat.shape)
    return after.reshape(features.shape)


@lru_cache(maxsize=64)
def _powers(decay: float, highest: int) -> Float:
    """decay^highest … decay^0."""
    return decay ** np.arange(highest, -1.0, -1.0)


def _bucket(ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Fibonacci hashing of token ids into FEATURES_DIM buckets."""
    mixed = ids.astype(np.uint32) * np.uint32(2_654_435_761)
    return (mixed >> np.uint32(32 - FEATURES_BITS)).astype(np.int64)


def _design(features: Float, grain: Grain) -> Float:
    """x(h): [.., F] counts → [.., F + 1], Euclidean norm ≤ √2."""
    total = np.sum(features, axis=-1, keepdims=True)
    counts = np.sqrt(features / (total + SHRINK_TOKENS * grain.token_units))
    return np.concatenate([counts, np.ones((*counts.shape[:-1], 1))], axis=-1)


@dataclass(frozen=True, slots=True)
class Prior:
    """Of some members under one gate. known: [k], which experts have standing; theta [F + 1, k]
    and log_standing [k] are theirs. lacking: [E − 1], 1 less each expert's standing. base: the
    baseline's prior. others: that of all without standing together."""

    count: int
    grain: Grain
    known: npt.NDArray[np.intp]
    theta: Float
    log_standing: Float
    lacking: Float
    base: float
    others: float

    def told(self, features: Float) -> Float:
        """Of features [.., F], what those with standing have by them: [.., k]."""
        if not len(self.known):
            return np.zeros((*features.shape[:-1], 0))
        logits = _design(features, self.grain) @ self.theta + self.log_standing
        return (1.0 - self.base - self.others) * _softmax(logits)

    def log_prior(self, told: Float, alive: npt.NDArray[np.bool_] | bool = True) -> Float:
        """Of what features told; see `Gate.log_prior`."""
        shape = (*told.shape[:-1], self.count)
        if not len(self.known):
            return np.log(np.full(shape, 1.0 / self.count))
        prior = np.full(shape, self.base)
        prior[..., :-1] = 0.0
        if self.others:
            there = np.broadcast_to(alive, shape)[..., :-1] * self.lacking
            total = np.sum(there, axis=-1, keepdims=True)
            prior[..., :-1] = self.others * self.lacking / np.where(total > 0, total, 1.0)
        prior[..., self.known] += told
        return np.log(np.maximum(prior, _TINY))


@dataclass(frozen=True)
class Gate:
    """A fitted gate. hotkeys sorted; theta: int32 [F + 1, len(hotkeys)] in units of 2⁻¹²;
    standing_ppm: of each, agreed by the sheets (`standing.agreed_standing`)."""

    hotkeys: tuple[Hotkey, ...]
    theta: npt.NDArray[np.int32]
    standing_ppm: tuple[int, ...]
    grain: Grain = TOKENS  # of the spec that it is for; no part of what is hashed

    def standing(self, experts: Sequence[Hotkey]) -> Float:
        """In [0, 1] for each expert; 0 also for one that no sheet has measured."""
        return np.array([self._standing.get(hotkey, 0) for hotkey in experts]) / MICRO

    @cached_property
    def _column(self) -> dict[Hotkey, int]:
        return {hotkey: column for column, hotkey in enumerate(self.hotkeys)}

    @cached_property
    def _standing(self) -> dict[Hotkey, int]:
        return dict(zip(self.hotkeys, self.standing_ppm, strict=True))

    def log_prior(
        self, features: Float, members: Sequence[Hotkey], alive: npt.NDArray[np.bool_] | bool = True
    ) -> Float:
        """Log prior of `members` (experts, then the baseline): [.., F] → [.., E].

        alive: broadcast to [.., E]. Those without standing share theirs among those of them that
        are alive. Sums to 1 where all members are alive.
        """
        prior = self.over(members)
        return prior.log_prior(prior.told(features), alive)

    def over(self, members: Sequence[Hotkey]) -> Prior:
        """What `log_prior` says of these members, for who asks often."""
        standing = self.standing(members[:-1])
        known = np.flatnonzero(standing)
        columns = [self._column[members[index]] for index in known.tolist()]
        theta, log_standing = self.theta[:, columns] / SCALE, np.log(standing[known])
        lacking = 1.0 - standing
        base = 1.0 / (1.0 + max(1.0, standing.sum()))
        others = NEWCOMERS_PRIOR * min(1.0, lacking.sum())
        return Prior(len(members), self.grain, known, theta, log_standing, lacking, base, others)

    def to_bytes(self) -> bytes:
        """Canonical msgpack, for the hash."""
        theta = np.ascontiguousarray(self.theta, "<i4").tobytes()
        content = {"format": GATE_FORMAT, "hotkeys": list(self.hotkeys), "theta": theta}
        return bytes(msgpack.packb(content | {"standing_ppm": list(self.standing_ppm)}))

    @classmethod
    def from_bytes(cls, data: bytes) -> Gate:
        """Raises FrameError for anything that `to_bytes` did not write."""
        if len(data) > MAX_GATE_BYTES:
            raise FrameError("gate is too large")
        try:
            content = msgpack.unpackb(data, strict_map_key=True)
            hotkeys = tuple(Hotkey(str(key)) for key in content["hotkeys"])
            theta = np.frombuffer(content["theta"], "<i4").reshape(FEATURES_DIM + 1, len(hotkeys))
            gate = cls(hotkeys, theta.astype(np.int32), tuple(map(int, content["standing_ppm"])))
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise FrameError(f"not a {GATE_FORMAT}") from error
        if gate.to_bytes() != data or list(hotkeys) != sorted(set(hotkeys)):
            raise FrameError(f"not a canonical {GATE_FORMAT}")
        if len(gate.standing_ppm) != len(hotkeys) or not all(
            0 <= standing <= MICRO for standing in gate.standing_ppm
        ):
            raise FrameError("a hotkey without a standing")
        return gate

    @cached_property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.to_bytes()).digest()


def uniform_gate(hotkeys: Sequence[Hotkey] = (), grain: Grain = TOKENS) -> Gate:
    """The gate before the first sheet: every member the same."""
    ordered = tuple(sorted(hotkeys))
    theta = np.zeros((FEATURES_DIM + 1, len(ordered)), np.int32)
    return Gate(ordered, theta, (MICRO,) * len(ordered), grain)


@dataclass(frozen=True, slots=True)
class WeightedSheet:
    """A revealed sheet with the stake of the validator that signed for it."""

    sheet: AnySheet
    stake_rao: int


def fit(
    sheets: Sequence[WeightedSheet],
    registered: Collection[Hotkey] | None = None,
    grain: Grain = TOKENS,
) -> Gate:
    """Fit on `sheets`; columns are the hotkeys in them (that are `registered`, if given).

    Whom its seniors explain has no column of its own to fit: it would take its seniors' part. A
    sheet's items together weigh its validator's stake, however many they are; of more than
    MAX_FIT_VALUES as many of each sheet count as its validator has a part of the stake. The order
    in which sheets are given does not matter. Nothing to fit on: the uniform gate.
    """
    distinct = {item.sheet.sha256: item for item in sheets}
    heard = [item for item in distinct.values() if item.sheet.items and item.stake_rao > 0]
    heard.sort(key=lambda item: (-item.stake_rao, -item.sheet.epoch, item.sheet.sha256))
    seen = {hotkey for item in heard for hotkey in item.sheet.hotkeys}
    seen = seen if registered is None else seen & set(registered)
    hotkeys = tuple(sorted(seen))
    if not hotkeys:
        return uniform_gate(grain=grain)
    counts = _items_of_each(heard, MAX_FIT_VALUES // (FEATURES_DIM + 1 + FIT_COPIES * len(hotkeys)))
    blocks = [
        _sheet_rows(sheet, item.stake_rao, hotkeys, grain, count)
        for item, count in zip(heard, counts, strict=True)
        if count and (sheet := item.sheet.read())  # one in memory at a time
    ]
    if not blocks:
        return uniform_gate(grain=grain)
    features, log_q, omega, apart = (np.concatenate(part) for part in zip(*blocks, strict=True))
    standing_ppm = agreed_standing([(item.sheet, item.stake_rao) for item in heard], hotkeys)
    standing = apart * (np.array(standing_ppm) / MICRO)
    theta = fit_theta(features, log_q, omega, standing, grain)
    return Gate(hotkeys, theta, tuple(standing_ppm), grain)


def fit_theta(
    features: Float,
    log_q: Float,
    omega: Float | None = None,
    standing: Float | None = None,
    grain: Grain = TOKENS,
) -> npt.NDArray[np.int32]:
    """Fit n experts on any items: `Gate.theta`, int32 [F + 1, n].

    features [M, F], log_q [M, n + 1] of the label, the baseline last, omega [M] ≥ 0. NaN marks an
    expert that was not asked. standing [M, n]: factors of the prior, 1 by default.
    """
    share = np.full(len(log_q), 1.0) if omega is None else omega
    share = share / np.sum(share)
    decay = L2_ITEMS * float(share @ share)  # by as many as would weigh the same
    by_expert = np.ascontiguousarray(log_q.T)  # sums over few experts are quick along long rows
    asked = ~np.isnan(by_expert[:-1])
    stands = asked * (1.0 if standing is None else standing.T)
    offset = np.log(stands, where=stands > 0, out=np.full(stands.shape, -np.inf))
    top = np.nanmax(by_expert, axis=0)  # the baseline's is never NaN
    q = np.exp(np.where(np.isnan(by_expert), -np.inf, by_expert - top))
    beta = 1.0 / (1.0 + np.maximum(1.0, stands.sum(axis=0)))  # the baseline's prior
    own, base = (1.0 - beta) * q[:-1], beta * q[-1]
    design = _design(features, grain)
    # ½ E[x xᵀ] bounds the curvature of the softmax (Böhning 1992): every step ascends.
    bound = 0.5 * design.T @ (share[:, None] * design) + decay * np.eye(design.shape[1])
    step_matrix = np.linalg.inv(bound)
    theta = np.zeros((design.shape[1], len(own)))
    ahead = theta
    for step in range(ITERATIONS):  # with Nesterov's momentum
        g = _softmax(ahead.T @ design.T + offset, axis=0)
        joint = own * g
        gain = np.sum(joint, axis=0)
        pull = share * (joint - g * gain) / (gain + base)
        following = ahead + step_matrix @ ((pull @ design).T - decay * ahead)
        ahead = following + step / (step + 3.0) * (following - theta)
        theta = following
    rounded: npt.NDArray[np.int32] = np.rint(theta * SCALE).astype(np.int32)
    return rounded


def _softmax(logits: Float, axis: int = -1) -> Float:
    """Along an axis; −inf is zero; where all are −inf all are zero."""
    top = np.max(logits, axis=axis, keepdims=True)
    powers = np.exp(logits - np.where(np.isfinite(top), top, 0.0))
    total = np.sum(powers, axis=axis, keepdims=True)
    return np.asarray(powers / np.maximum(total, _TINY), np.float64)


def _items_of_each(items: Sequence[WeightedSheet], room: int) -> list[int]:
    """How many items of each sheet count: all, if there is room; else each sheet has its stake's
    part of it, and of what shorter ones leave. So neither many little stakes crowd a large one
    out, nor one with long sheets all others."""
    counts = [0] * len(items)
    left, left_rao = room, sum(item.stake_rao for item in items)
    for k in sorted(range(len(items)), key=lambda k: items[k].sheet.items / items[k].stake_rao):
        counts[k] = min(items[k].sheet.items, left * items[k].stake_rao // left_rao)
        left, left_rao = left - counts[k], left_rao - items[k].stake_rao
    return counts


def _sheet_rows(
    sheet: Sheet, stake_rao: int, hotkeys: Sequence[Hotkey], grain: Grain, count: int
) -> tuple[Float, Float, Float, Float]:
    """Of `count` items, evenly from all over the sheet: features [M, F], log_q [M, n + 1] in
    columns of `hotkeys` + baseline, omega [M], and what of its standing each has there [M, n]."""
    raw = sheet.log_q
    values = np.where(raw == LOG_Q_ABSENT, np.nan, raw / 1e6)
    # Asked and silent counts as the baseline did: staying away from hard items must not pay.
    values = np.where(raw == LOG_Q_UNANSWERED, values[:, -1:], values)
    log_q = np.full((len(raw), len(hotkeys) + 1), np.nan)
    apart = np.ones((len(raw), len(hotkeys)))
    order = {hotkey: index for index, hotkey in enumerate(sheet.hotkeys)}
    for index, hotkey in enumerate(hotkeys):
        if hotkey in order:
            log_q[:, index] = values[:, order[hotkey]]
            apart[:, index] = sheet.apart[sheet.walk, order[hotkey]] / WHOLE
    log_q[:, -1] = values[:, -1]
    taken = np.arange(count) * len(raw) // count
    omega = np.full(count, stake_rao / count)
    return _prefix_features(sheet, grain, taken), log_q[taken], omega, apart[taken]


def _prefix_features(sheet: Sheet, grain: Grain, taken: npt.NDArray[np.integer]) -> Float:
    """Features [len(taken), F] of these items' prefixes."""
    out = initial_features((len(taken),))
    of_walk, position = sheet.walk[taken], sheet.position[taken]
    for walk in np.unique(of_walk).tolist():
        items, ids = of_walk == walk, sheet.walks[walk]
        positions, place = np.unique(position[items], return_inverse=True)
        behind = positions[:, None] - 1 - np.arange(len(ids))  # how far back each id is
        powers = np.where(
            (behind >= 0) & (behind < grain.units(MEMORY_TOKENS)),
            grain.decay(COUNT_DECAY) ** np.maximum(behind, 0),
            0.0,
        )
        counted = (_bucket(ids)[:, None] == np.arange(FEATURES_DIM)).astype(np.float64)
        out[items] = (powers @ counted)[place]
    return out
