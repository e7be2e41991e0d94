"""What a miner can tell probes from users by through pace alone, the farther a validator is.

A model, in which nobody's code runs: a label of a walk leaves its validator when all who were asked
have answered, so it comes a router-to-validator round trip later than a user's token would. All
else is the same: lengths, the slowest expert of a session, ways, engines, pauses. Boosted trees see
the gaps of a session up to each call and judge on later sessions than they learnt from.

    python benchmarks/pace.py [--sessions 3000]

The second table is what it would take. If but one label in m waits for the validator, and the
router holds the others beforehand and sends them at its users' pace, fewer gaps are late; but a
label that a router holds can reach a friend of its, so it is shown and scored by nobody, and the
text is used up all the same. A walk of which only the last label is scored has no late gap at all.

The third is of a validator next door and of n experts, each as far away as it always is: a user's
text waits for the slowest of the 8 that a router chose, the miner among them; a walk for the
slowest of all, or of those that it asks now (`validator.company`, of experts none of which speak
like another; chosen for a text are any 8). By the soonest miner, the middle one, and one later than
nine of ten.
"""

from __future__ import annotations

import argparse
import sys
from random import Random
from statistics import NormalDist

import numpy as np

from moesubnet.mixture.choosing import TOP_K
from moesubnet.types import Hotkey
from moesubnet.validator.company import Known, company
from moesubnet.validator.shapes import Shapes

MINER_MS, OTHER_MS, ANSWER_MS, ROUTER_MS = 20.0, 40.0, 30.0, 2.0  # medians; ways there and back
WAY, ANSWER, SESSION = 0.1, 0.25, 0.5  # deviations of logarithms: each time; others, by the session
PAUSES, PAUSE_MS = 0.02, (50.0, 300.0)  # of all gaps, a busy engine's or a lost packet's
VALIDATORS_MS = (0.0, 1.0, 3.0, 10.0, 20.0, 40.0, 100.0)
LABELS = (1, 2, 4, 8, None)  # one in so many waits; None: only the last is scored
EXPERTS, PLACES = (8, 16, 64, 256), (0.0, 0.5, 0.9)
ONE_OF_MANY_MS = 20.0  # one expert's way in the median, of whom the slowest of seven has OTHER_MS


def gaps_ms(
    steps: int,
    late_ms: float,
    every: int | None,
    rng: np.random.Generator,
    miner_ms: float = MINER_MS,
    others: np.ndarray | None = None,
) -> np.ndarray:
    """[steps - 1]: from each answer of the miner's to the next step. late_ms: the validator's round
    trip, of one label in `every`; 0 for a user. others: how far the others are that are asked;
    None: the slowest alone, another in each session."""

    def about(ms: float | np.ndarray, spread: float) -> np.ndarray:
        return ms * rng.lognormal(0.0, spread, (*np.shape(ms)[:1], steps - 1))

    way_ms = about(miner_ms, WAY)
    mine_ms = way_ms / 2 + about(ANSWER_MS, ANSWER)
    slowest_ms = OTHER_MS * rng.lognormal(0.0, SESSION, (1, 1))
    each_ms = slowest_ms if others is None else others[:, None]
    others_ms = (about(each_ms, WAY) + about(np.full_like(each_ms, ANSWER_MS), ANSWER)).max(axis=0)
    found = way_ms + np.maximum(0.0, others_ms - mine_ms - way_ms / 2) + about(ROUTER_MS, SESSION)
    found += (rng.random(steps - 1) < PAUSES) * rng.uniform(*PAUSE_MS, steps - 1)
    waits = rng.random(steps - 1) * (every or np.inf) < 1.0
    late: np.ndarray = found + waits * about(late_ms, WAY)
    return late


def seen(gaps: np.ndarray) -> np.ndarray:
    """[calls, features] of a session, its first call left out."""
    so_far = [gaps[: n + 1] for n in range(len(gaps))]
    return np.array(
        [
            (n, g[-1], g.mean(), g.min(), np.median(g), g.max(), g.std(), np.sort(g)[-2:][0])
            for n, g in enumerate(so_far)
        ]
    )


def accuracy(validator_ms: float, every: int | None, sessions: int) -> tuple[float, int, float]:
    """Balanced accuracy, on how many calls, and how many labels are scored of a hundred calls."""
    rng = np.random.default_rng(0)
    drawn = Shapes.public(2_048).draw(sessions, Random(0))
    is_probe = [k % 3 == 0 for k in range(sessions)]
    gaps = [
        gaps_ms(shape.steps, validator_ms * probe, every, rng)
        for shape, probe in zip(drawn, is_probe, strict=True)
    ]
    calls = sum(shape.steps for shape in drawn)
    scored = sessions + (0.0 if every is None else (calls - sessions) / every)
    return *judged(gaps, is_probe), 100 * scored / calls


def among(experts: int, place: float, sessions: int, *, all_asked: bool) -> tuple[float, float]:
    """Balanced accuracy of the miner at this place by its distance; in what part of walks it is
    asked."""
    rng, lots = np.random.default_rng(0), Random(0)
    quantiles = [(k + 0.5) / experts for k in range(experts)]
    far_ms = ONE_OF_MANY_MS * np.exp(SESSION * np.array([*map(NormalDist().inv_cdf, quantiles)]))
    names = [Hotkey(f"{k:03}") for k in range(experts)]
    me = round(place * (experts - 1))
    rest = [k for k in range(experts) if k != me]
    known = Known({name: round(1_000 * ms) for name, ms in zip(names, far_ms, strict=True)})
    gaps, is_probe, walks = [], [k % 3 == 0 for k in range(sessions)], 0
    for shape, probe in zip(Shapes.public(2_048).draw(sessions, lots), is_probe, strict=True):
        others = rest if probe else lots.sample(rest, TOP_K - 1)
        while probe and not all_asked:
            walks += 1
            asked = company(known, lots.sample(names, TOP_K), names, lots)
            if names[me] in asked:
                others = [k for k in rest if names[k] in asked]
                break
        gaps.append(gaps_ms(shape.steps, 0.0, 1, rng, far_ms[me], far_ms[others]))
    return judged(gaps, is_probe)[0], sum(is_probe) / (walks or sum(is_probe))


def judged(gaps: list[np.ndarray], is_probe: list[bool]) -> tuple[float, int]:
    """Of sessions: balanced accuracy on the calls of the later half, and how many they are."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import balanced_accuracy_score
    from threadpoolctl import threadpool_limits

    rows = [*map(seen, gaps)]
    labels = [np.full(len(row), probe) for row, probe in zip(rows, is_probe, strict=True)]
    half = len(gaps) // 2
    trees = HistGradientBoostingClassifier(class_weight="balanced", random_state=0)
    held_out = np.concatenate(labels[half:])
    with threadpool_limits(1):
        trees.fit(np.concatenate(rows[:half]), np.concatenate(labels[:half]))
        told = trees.predict(np.concatenate(rows[half:]))
    return float(balanced_accuracy_score(held_out, told)), len(held_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=3_000)
    sessions = parser.parse_args().sessions
    print("| validator from router, ms there and back | by pace | held-out calls |")
    print("|---|---|---|")
    for validator_ms in VALIDATORS_MS:
        told, calls, _ = accuracy(validator_ms, 1, sessions)
        print(f"| {validator_ms:g} | {told:.3f} | {calls:,} |", flush=True)
    far_ms = 40.0
    print(f"\n| labels that wait (validator {far_ms:g} ms away) | by pace | scored of 100 calls |")
    print("|---|---|---|")
    for every in LABELS:
        told, _, scored = accuracy(far_ms, every, sessions)
        name = "none: the last alone is scored" if every is None else f"one in {every}"
        print(f"| {name} | {told:.3f} | {scored:.0f} |", flush=True)
    places = " | ".join(f"{place:.0%} are sooner" for place in PLACES)
    print(f"\n| experts, whom a walk asks | {places} | asked in |\n|---|{'---|' * len(PLACES)}---|")
    for experts in EXPERTS:
        for all_asked in (True, False):
            found = [among(experts, place, sessions, all_asked=all_asked) for place in PLACES]
            told = " | ".join(f"{accuracy:.3f}" for accuracy, _ in found)
            asked = ", ".join(f"{part:.0%}" for _, part in found)
            print(
                f"| {experts}, {'all' if all_asked else 'as now'} | {told} | {asked} |", flush=True
            )


if __name__ == "__main__":
    sys.exit(main())
