"""Collecting targets: the mixture's law at every position of the public text, from the experts."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moesubnet.distill.targets import TargetSpec, TargetStore
from moesubnet.distill.walks import Ids, Members, Turn, call_groups, label_log_p, walk
from moesubnet.mixture.mixing import mix
from moesubnet.training.progress import OnProgress, Progress, ignore
from moesubnet.wire.distributions import draw

COLLECT = "targets"


async def collect(
    members: Members,
    windows: Ids,
    store: TargetStore,
    *,
    on_progress: OnProgress = ignore,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Fill `store` with the targets of windows uint32 [M, W]; what stands there is not asked again.

    Raises PeerUnavailable when no expert answers.
    """
    groups = [windows[part] for part in call_groups(len(windows), prefill=store.spec.prefill)]
    started_s, done = clock(), 0
    missing = [index for index in range(len(groups)) if not store.path(index).exists()]
    total = sum(groups[index].size for index in missing)
    for index in missing:
        turns: list[dict[str, NDArray[np.generic]]] = []
        session = f"{store.spec.sha256[:8]}.{index}"
        rng = np.random.default_rng([index, int(store.spec.sha256[:8], 16)])
        async for turn in walk(members, groups[index], session, prefill=store.spec.prefill):
            turns.append(_kept(turn, groups[index][:, turn.position], store.spec, rng))
            done += len(groups[index])
            elapsed_s = clock() - started_s
            on_progress(
                Progress(COLLECT, done / total, None, elapsed_s, done / max(elapsed_s, 1e-9))
            )
        store.write(
            index,
            {"ids": groups[index]}
            | {name: np.stack([turn[name] for turn in turns], axis=1) for name in turns[0]},
        )
    on_progress(Progress(COLLECT, 1.0, None, clock() - started_s))


def _kept(
    turn: Turn, label: Ids, spec: TargetSpec, rng: np.random.Generator
) -> dict[str, NDArray[np.generic]]:
    """What is stored of one position of N windows, each [N, …]."""
    log_m = np.minimum(mix(turn.log_w, turn.log_p), 0).astype(np.float32)
    by_member = label_log_p(turn.log_p, label)
    by_mixture = np.take_along_axis(log_m, label[:, None].astype(np.intp), axis=1)
    out: dict[str, NDArray[np.generic]] = {
        "label_log_p": np.concatenate([by_member, by_mixture], axis=1),
        "log_w": np.maximum(turn.log_w, np.finfo(np.float32).min).astype(np.float32),
    }
    if spec.kind == "full":
        return out | {"log_m": log_m.astype(np.float16)}
    if spec.kind == "top_k":
        ids = np.argpartition(log_m, -spec.kept, axis=1)[:, -spec.kept :]
        listed = np.take_along_axis(log_m, ids, axis=1)
        return out | {"kept": ids.astype(np.uint32), "log_m": listed.astype(np.float16)}
    return out | {"kept": draw(log_m, spec.kept, rng)}
