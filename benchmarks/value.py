"""What standing and value cost a validator, by experts and items.

    python benchmarks/value.py [--experts 256] [--items 4096] [--asked 16]

Random log-probabilities and weights: the work does not depend on them. CPU seconds of one thread
and of as many as BLAS takes, the best of five.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from moesubnet.validator.leaning import apart_in_walks
from moesubnet.validator.seniors import beside_seniors, quick_log_weights
from moesubnet.validator.value import random_marginals, values_and_bounds

STEPS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--items", type=int, default=4096)
    parser.add_argument("--asked", type=int, help="experts of each walk, by lot; all by default")
    arguments = parser.parse_args()
    n, items = arguments.experts, arguments.items
    rng = np.random.default_rng(0)
    log_q = rng.normal(-4.0, 1.5, (items, n + 1)).clip(-30.0, -0.01)
    log_w = rng.normal(-3.0, 3.0, (items, n + 1))
    weight = np.exp(log_w)
    if arguments.asked is not None:
        lots = rng.random((-(-items // STEPS), n)).argsort(axis=1) < arguments.asked
        weight[:, :-1] *= lots.repeat(STEPS, axis=0)[:items]
    joint = weight * np.exp(log_q)
    walk, position = (
        np.repeat(np.arange(-(-items // STEPS)), STEPS)[:items],
        np.arange(items) % STEPS,
    )
    quick = quick_log_weights(log_q, log_w, walk, position)
    entropy = rng.uniform(0.0, 4.0, (items, n))
    took = rng.integers(200, 2_000, (items, n))
    marginal = random_marginals(joint, weight, np.full(n, 0.5))
    parts: dict[str, Callable[[], object]] = {
        "quick weights": lambda: quick_log_weights(log_q, log_w, walk, position),
        "beside seniors": lambda: beside_seniors(joint, weight, quick, range(n), entropy, took),
        "apart in walks": lambda: apart_in_walks(
            joint, weight, walk, int(walk[-1]) + 1, range(n), entropy, took
        ),
        "values": lambda: random_marginals(joint, weight, np.full(n, 0.5)),
        "bounds": lambda: values_and_bounds(marginal, walk),
    }
    spent = {name: min(_spent_s(part) for _ in range(5)) for name, part in parts.items()}
    print(f"{n} experts, {items:,} items")
    for name, (cpu_s, wall_s) in spent.items():
        print(f"{name:15} {cpu_s:.2f} CPU-s, {wall_s:.2f} s")
    print(f"{'all':15} {sum(cpu for cpu, _ in spent.values()):.2f} CPU-s")


def _spent_s(part: Callable[[], object]) -> tuple[float, float]:
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    part()
    return time.process_time() - cpu_s, time.perf_counter() - wall_s


if __name__ == "__main__":
    main()
