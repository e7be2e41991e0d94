"""Collecting targets: the mixture's law at every position of the public text, and of text that the
mixture writes itself, from the experts."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from moesubnet.distill.targets import Kind, TargetSpec, TargetStore
from moesubnet.distill.walks import Ids, Members, call_groups, walk
from moesubnet.host.progress import OnProgress, Progress, ignore
from moesubnet.mixture.drafting import Drawn
from moesubnet.mixture.law import Law, Mixture, mix
from moesubnet.mixture.mixing import log_sum_exp

COLLECT = "targets"
BEGUN_TOKENS = 16  # of a window that the mixture writes: given
TEMPERATURES = 1.0, 0.7  # as users ask for; of such windows in turn
Target = Law | NDArray[np.generic]


async def collect(
    members: Members,
    windows: Ids,
    store: TargetStore,
    *,
    on_progress: OnProgress = ignore,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Fill `store` with the targets of windows uint32 [M, W]; what stands there is not asked again.
    Of the last `store.spec.written` windows only the first BEGUN_TOKENS are read.

    Raises PeerUnavailable when no expert answers.
    """
    parts = shard_windows(store.spec, members.vocab_size)
    groups = [windows[part] for part in parts]
    started_s, done = clock(), 0
    missing = [index for index in range(len(groups)) if not store.path(index).exists()]
    total = sum(groups[index].size for index in missing)
    for index in missing:
        group, path = groups[index], list[list[Target]]()
        scores, log_w = list[NDArray[np.float32]](), list[NDArray[np.float32]]()
        session = f"{store.spec.sha256[:8]}.{index}"
        rng = np.random.default_rng([index, int(store.spec.sha256[:8], 16)])
        is_written = parts[index][0] >= store.spec.windows - store.spec.written
        prefill = store.spec.prefill and not is_written
        async with aclosing(walk(members, group, session, prefill=prefill)) as turns:
            async for turn in turns:
                mixtures = [*map(mix, turn.log_w, turn.laws)]
                if is_written and turn.position >= BEGUN_TOKENS:
                    group[:, turn.position] = _next_tokens(mixtures, rng)
                by_member = turn.at(group[:, turn.position])
                by_mixture = log_sum_exp(turn.log_w + by_member)
                scores.append(np.column_stack([by_member, by_mixture]).astype(np.float32))
                log_w.append(np.maximum(turn.log_w, np.finfo(np.float32).min).astype(np.float32))
                path.append([_target(mixture, store.spec, rng) for mixture in mixtures])
                done += len(group)
                if prefill and turn.position < group.shape[1] - 1:
                    continue  # all of its positions came together: the first is no pace
                elapsed_s = clock() - started_s
                on_progress(
                    Progress(COLLECT, done / total, None, elapsed_s, done / max(elapsed_s, 1e-9))
                )
        store.write(
            index,
            {"ids": group, "label_log_p": np.stack(scores, 1), "log_w": np.stack(log_w, 1)}
            | _joined(path, store.spec.kind),
        )
    on_progress(Progress(COLLECT, 1.0, None, clock() - started_s))


def shard_windows(spec: TargetSpec, vocab_size: int) -> list[NDArray[np.intp]]:
    """Which windows each shard holds: given ones, then written ones."""
    given = spec.windows - spec.written
    parts = call_groups(given, vocab_size=vocab_size, prefill=spec.prefill)
    if spec.written:
        written = call_groups(spec.written, vocab_size=vocab_size, prefill=False)
        parts += [given + part for part in written]
    return parts


def begun_windows(given: Ids, count: int, seed: int) -> Ids:
    """Windows uint32 [count, W] that begin as the given ones [M, W] go on somewhere."""
    rng = np.random.default_rng(seed)
    places = rng.integers(given.shape[1] - BEGUN_TOKENS + 1, size=(count, 1))
    rows = rng.integers(len(given), size=(count, 1))
    windows = np.zeros((count, given.shape[1]), np.uint32)
    windows[:, :BEGUN_TOKENS] = given[rows, places + np.arange(BEGUN_TOKENS)]
    return windows


def _next_tokens(mixtures: list[Mixture], rng: np.random.Generator) -> list[int]:
    return [
        Drawn.of(mixture.log_drawn, mixture.law.ids, temperature, 1.0).draw(rng)
        for mixture, temperature in zip(mixtures, cycle(TEMPERATURES), strict=False)
    ]


def _target(mixture: Mixture, spec: TargetSpec, rng: np.random.Generator) -> Target:
    """What is kept of one position of one window."""
    if spec.kind == "full":
        return mixture.law.logp.astype(np.float16)
    if spec.kind == "listed":
        return mixture.law.head(spec.kept, spec.mass)
    return mixture.draws(spec.kept, rng)


def _joined(path: list[list[Target]], kind: Kind) -> dict[str, NDArray[np.generic]]:
    """The targets [W][N] of a shard as tensors, windows first."""
    windows = [list(positions) for positions in zip(*path, strict=True)]
    if kind != "listed":
        return {"log_m" if kind == "full" else "kept": np.array(windows)}
    heads = [head for positions in windows for head in positions if isinstance(head, Law)]
    shape = (len(windows), len(path))
    return {
        "counts": np.array([len(head.logp) for head in heads], np.uint32).reshape(shape),
        "kept": np.concatenate([head.ids for head in heads]).astype(np.uint32),
        "log_m": np.concatenate([head.logp for head in heads]).astype(np.float16),
        "tail": np.array([head.tail for head in heads], np.float32).reshape(shape),
    }
