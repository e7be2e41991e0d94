"""What a miner can tell probes from users by through lengths alone, the more texts routers told of.

    python benchmarks/lengths.py [--users 3000]

Users' prompts and answers are log-normal (medians of 60 and 24 tokens, 0.8), cut where a context of
256 ends; walks' lengths are drawn as a validator draws them from one router's summary of so many
texts. A call is seen as the nth of its session, with what was sent first, is held and is appended.
Boosted trees, judged on later sessions than they learnt from.
"""

from __future__ import annotations

import argparse
import sys
from random import Random

import numpy as np

from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.validator.shapes import Shapes
from moesubnet.wire.usage import LENGTH_KINDS, Usage, length_kind

CONTEXT = 256
TOLD = (0, 16, 100, 1_000, 10_000)  # texts


def user(rng: np.random.Generator) -> tuple[int, int]:
    """A prompt's and an answer's tokens."""
    prompt, answer = (round(rng.lognormal(np.log(median), 0.8)) for median in (60, 24))
    prompt = min(max(prompt, 3), CONTEXT - 41)
    return prompt, min(max(answer, 1), CONTEXT - 1 - prompt)


def summary(texts: int, rng: np.random.Generator) -> Usage:
    counts = [[0] * LENGTH_KINDS, [0] * LENGTH_KINDS]
    for _ in range(texts):
        for of, tokens in zip(counts, user(rng), strict=True):
            of[length_kind(tokens)] += 1
    return Usage(netuid=1, epoch=1, router="r", rows=[], prompts=counts[0], answers=counts[1])


def calls(first: int, steps: int) -> list[tuple[int, ...]]:
    return [(n, first, first + max(0, n - 1), first if n == 0 else 1) for n in range(steps)]


def accuracy(shapes: Shapes, users: int) -> tuple[float, int]:
    """Balanced accuracy, and on how many calls; two users to a walk."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import balanced_accuracy_score
    from threadpoolctl import threadpool_limits

    rng, lots, blind = np.random.default_rng(1), Random(0), BLIND_PROMPT_TOKENS
    sessions = []
    for shape in shapes.draw(users // 2, lots):
        for prompt, answer in (user(rng), user(rng)):
            sessions.append((calls(max(1, prompt - blind), blind + answer), False))
        sessions.append((calls(shape.prefix, shape.steps), True))
    half = len(sessions) // 2
    parts = [
        (
            [call for seen, _ in part for call in seen],
            [is_walk for seen, is_walk in part for _ in seen],
        )
        for part in (sessions[:half], sessions[half:])
    ]
    trees = HistGradientBoostingClassifier(class_weight="balanced", random_state=0)
    with threadpool_limits(1):
        trees.fit(*map(np.array, parts[0]))
        told = trees.predict(np.array(parts[1][0]))
    return float(balanced_accuracy_score(parts[1][1], told)), len(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=3_000)
    users = parser.parse_args().users
    public = Shapes.public(CONTEXT)
    print("| texts that the summary tells of | by lengths | held-out calls |")
    print("|---|---|---|")
    for texts in TOLD:
        said = summary(texts, np.random.default_rng(0))
        told, count = accuracy(public.as_users([(said, 1)]), users)
        print(f"| {texts:,} | {told:.3f} | {count:,} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
