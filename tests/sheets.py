"""Score sheets for tests that need no validator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesubnet.mixture.sheet import Sheet, micro_nats, sheet_seed


def synthetic_sheet(
    hotkeys: Sequence[str],
    *,
    domains: bool = False,
    seed: int = 0,
    epoch: int = 3,
    walk_count: int = 32,
    swap: bool = False,
    steps: int = 16,
) -> Sheet:
    """A sheet of synthetic text: domain d speaks tokens 10d … 10d + 9; expert d knows domain d."""
    rng = np.random.default_rng(seed)
    n = len(hotkeys)
    domain = rng.integers(0, max(n, 1), walk_count)
    walks = tuple(
        (10 * d + rng.integers(0, 10, 32 + steps)).astype("<u4")
        if domains
        else rng.integers(0, 2000, 32 + steps).astype("<u4")
        for d in domain
    )
    walk = np.repeat(np.arange(walk_count, dtype="<u4"), steps)
    position = np.tile(np.arange(32, 32 + steps, dtype="<u4"), walk_count)
    log_q = np.log(rng.uniform(0.01, 0.05, (len(walk), n + 1)))
    if domains:
        knows = domain[walk] if not swap else (domain[walk] + 1) % n
        log_q[np.arange(len(walk)), knows] = np.log(0.1)
    log_w = np.full((len(walk), n + 1), -np.log(n + 1))
    return Sheet(
        netuid=1,
        epoch=epoch,
        validator="validator",
        spec_sha256=bytes(32),
        gate_sha256=bytes(32),
        previous_sha256=bytes(32),
        seed=sheet_seed(bytes(32), epoch),
        hotkeys=tuple(hotkeys),
        uids=tuple(range(n)),
        age_millis=tuple(range(1_000, 1_000 + n)),
        answer_ms=tuple(range(10, 10 + n)),
        walks=walks,
        chosen=np.ones((walk_count, n), np.uint8),
        walk=walk,
        position=position,
        senders=("validator",),
        sender=np.zeros((len(walk), n), np.uint8),
        log_q=micro_nats(log_q),
        log_w=micro_nats(log_w),
        entropy=np.full((len(walk), n), 1_000_000, np.int32),
        receipts=(bytes(32),) * n,
        usage_loss_ppm=(0,) * n,
        feedback_ppm=(0,) * n,
        reliability_ppm=(1_000_000,) * n,
        ema_before=(None,) * n,
        ema_after=(5,) * n,
        novelty_before=(None,) * n,
        novelty_after=(0,) * n,
        since=(None,) * n,
        standing_ppm=(1_000_000,) * n,
        row_u16=(65_535,) * n,
    )
