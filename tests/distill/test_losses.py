"""The losses against the mathematics they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moesubnet.distill.losses import forward_kl, forward_kl_listed, sampled_cross_entropy
from moesubnet.distill.targets import Targets
from moesubnet.distill.train import target_loss

V, N = 12, 5
seeds = st.integers(0, 2**32 - 1)


def laws(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(0, 2, (*shape, V))).log_softmax(-1)


def listed_kl(logits: Tensor, ids: Tensor, log_m: Tensor) -> Tensor:
    """`forward_kl_listed` of the tokens ids [N, k] of each row of log_m [N, V]."""
    head = log_m.gather(-1, ids)
    rows = torch.arange(len(ids))[:, None].expand_as(ids)
    tail = 1 - head.exp().sum(-1)
    return forward_kl_listed(logits, rows.flatten(), ids.flatten(), head.flatten(), tail)


def gradient(loss, logits: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    loss(logits).backward()
    assert logits.grad is not None
    return logits.grad


@settings(deadline=None)
@given(seeds)
def test_kl_to_the_mixture_is_the_weighted_kl_to_its_members_less_a_constant(seed: int):
    rng = np.random.default_rng(seed)
    members, weights = laws(rng, 3, N), torch.from_numpy(rng.dirichlet([1, 1, 1]))
    log_m = torch.logsumexp(members + weights.log()[:, None, None], dim=0)

    def gap(logits: Tensor) -> Tensor:
        apart = sum(w * forward_kl(logits, p) for w, p in zip(weights, members, strict=True))
        return apart - forward_kl(logits, log_m)

    one, other = laws(rng, N), laws(rng, N)
    assert gap(one).item() == pytest.approx(gap(other).item(), abs=1e-9)
    assert gap(one).item() >= -1e-9  # the members' disagreement


@settings(deadline=None)
@given(seeds)
def test_the_gradient_is_student_minus_mixture(seed: int):
    rng = np.random.default_rng(seed)
    log_m, logits = laws(rng, N), laws(rng, N) * 3
    expected = (logits.softmax(-1) - log_m.exp()) / N
    torch.testing.assert_close(gradient(lambda x: forward_kl(x, log_m), logits), expected)


@settings(deadline=None)
@given(seeds, st.integers(1, V))
def test_listed_is_the_kl_of_the_coarser_laws(seed: int, k: int):
    rng = np.random.default_rng(seed)
    log_m, logits = laws(rng, N), laws(rng, N)
    ids = log_m.topk(k).indices
    got = listed_kl(logits, ids, log_m)

    def coarse(law: Tensor) -> Tensor:
        head = law.exp().gather(-1, ids)
        return torch.cat([head, (1 - head.sum(-1, keepdim=True)).clamp_min(1e-12)], dim=-1)

    m, s = coarse(log_m), coarse(logits.log_softmax(-1))
    assert got.item() == pytest.approx((m * (m / s).log()).sum(-1).mean().item(), abs=1e-4)
    assert got.item() <= forward_kl(logits, log_m).item() + 1e-6


@settings(deadline=None)
@given(seeds)
def test_with_everything_listed_value_and_gradient_are_the_dense_ones(seed: int):
    rng = np.random.default_rng(seed)
    log_m, logits = laws(rng, N), laws(rng, N)
    ids = torch.from_numpy(rng.permuted(np.tile(np.arange(V), (N, 1)), axis=1))

    def listed(x: Tensor) -> Tensor:
        return listed_kl(x, ids, log_m)

    def dense(x: Tensor) -> Tensor:
        return forward_kl(x, log_m)

    assert listed(logits).item() == pytest.approx(dense(logits).item(), abs=1e-4)
    torch.testing.assert_close(
        gradient(listed, logits), gradient(dense, logits), atol=1e-4, rtol=1e-3
    )


@settings(deadline=None)
@given(seeds, st.integers(1, 4))
def test_a_perfect_student_feels_no_pull_from_a_truncated_target(seed: int, k: int):
    log_m = laws(np.random.default_rng(seed), N)
    ids = log_m.topk(k).indices
    pull = gradient(lambda x: listed_kl(x, ids, log_m), log_m)
    assert pull.abs().max().item() < 1e-6


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_drawn_labels_pull_like_the_whole_law_on_average(seed: int):
    rng = np.random.default_rng(seed)
    log_m, logits = laws(rng, 1), laws(rng, 1)
    ids = torch.from_numpy(rng.choice(V, (1, 40_000), p=log_m.exp()[0].numpy()))
    sampled = gradient(lambda x: sampled_cross_entropy(x, ids), logits)
    dense = gradient(lambda x: forward_kl(x, log_m), logits)
    assert (sampled - dense).abs().max().item() < 0.02


@pytest.mark.parametrize("kind", ["full", "listed", "samples"])
def test_a_loss_in_chunks_is_the_loss_of_all_rows(kind: str):
    rng = np.random.default_rng(0)
    windows, length = 3, 4
    log_m = laws(rng, windows, length).numpy().astype(np.float16)
    kept = rng.permuted(np.tile(np.arange(V), (windows, length, 1)), axis=-1)[..., :4]
    heads = np.take_along_axis(log_m, kept, axis=-1)
    counts = rng.integers(0, 5, (windows, length))  # ragged, and nothing of some
    mine = np.arange(4) < counts[..., None]
    tail = (1 - np.where(mine, np.exp(heads.astype(np.float32)), 0).sum(-1)).astype(np.float32)
    targets = Targets(
        kind=kind,  # type: ignore[arg-type]
        ids=np.zeros((windows, length), np.uint32),
        label_log_p=np.zeros((windows, length, 2), np.float32),
        log_w=np.zeros((windows, length, 1), np.float32),
        log_m={"full": log_m, "listed": heads[mine], "samples": None}[kind],
        kept={"full": None, "listed": kept[mine], "samples": kept}[kind],
        tail=tail,
        counts=counts.astype(np.uint32),
    )
    logits = laws(rng, windows * length).float() * 2
    if kind == "full":
        expected = forward_kl(logits, torch.from_numpy(log_m).flatten(0, 1).float())
    elif kind == "samples":
        expected = sampled_cross_entropy(logits, torch.from_numpy(kept).flatten(0, 1))
    else:
        expected = forward_kl_listed(logits, *map(torch.from_numpy, targets.listed()))
    rows_loss = target_loss(targets, torch.device("cpu"))
    parts = [slice(0, 5), slice(5, 10), slice(10, 12)]
    total = sum(rows_loss(logits[part], part) for part in parts)
    assert total.item() / len(logits) == pytest.approx(expected.item(), rel=1e-5)
