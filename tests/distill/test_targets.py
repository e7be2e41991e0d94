"""Targets: what is kept of the mixture, and that an interruption costs nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moesubnet.distill.collect import BEGUN_TOKENS, begun_windows, collect
from moesubnet.distill.corpus import WINDOW
from moesubnet.distill.reading import TargetReader
from moesubnet.distill.targets import Targets, TargetSpec, TargetStore, target_form
from moesubnet.distill.walks import FEW_WINDOWS_PER_CALL, call_groups, walk
from moesubnet.engine.base import Query
from moesubnet.errors import FrameError, PeerUnavailable
from moesubnet.host.progress import Progress
from moesubnet.mixture.law import mix
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import StepRequest, StepResponse, StepRows, Want, want_for
from moesubnet.wire.step import StepLimits

from .conftest import VOCAB, BigramEngine, LocalClient

A, B = Hotkey("a"), Hotkey("b")
SPEC = TargetSpec("full", VOCAB, 1.0, 6, 300, 0, False, "t", "s", "g", (("a", "1"), ("b", "2")))
WINDOWS = np.random.default_rng(1).integers(0, VOCAB, (300, 6)).astype(np.uint32)


def two() -> tuple[LocalClient, LocalClient]:
    return LocalClient(A, BigramEngine(1)), LocalClient(B, BigramEngine(2))


def every(store: TargetStore) -> Targets:
    """All targets of a store."""
    reader = TargetReader(store)
    return reader.take(np.arange(len(reader)))


def mixed(log_w, laws) -> np.ndarray:
    return mix(log_w, laws).law.logp


async def test_full_targets_are_the_routers_mixture(panel_of, tmp_path: Path):
    store = TargetStore(tmp_path, SPEC)
    await collect(panel_of(*two()), WINDOWS, store)
    targets = every(store)
    assert store.kept_mass() == 1.0
    np.testing.assert_array_equal(targets.ids, WINDOWS)
    part = WINDOWS[:100]
    async for turn in walk(panel_of(*two()), part, "again"):
        log_m = np.stack([*map(mixed, turn.log_w, turn.laws)])
        np.testing.assert_allclose(targets.log_m[:100, turn.position], log_m, atol=5e-3)
        label = targets.label_log_p[:100, turn.position]
        np.testing.assert_allclose(
            label[:, -1], log_m[np.arange(100), part[:, turn.position]], rtol=1e-5
        )
        np.testing.assert_allclose(np.exp(targets.log_w[:100, turn.position]).sum(-1), 1, atol=1e-5)


async def test_the_head_is_the_largest_and_the_mass_is_reported(panel_of, tmp_path: Path):
    full, head = TargetStore(tmp_path, SPEC), replace(SPEC, kind="listed", kept=5)
    for store in (full, TargetStore(tmp_path, head)):
        await collect(panel_of(*two()), WINDOWS, store)
    dense, listed = every(full), TargetReader(TargetStore(tmp_path, head))
    picks = np.array([250, 3])  # of two shards
    rows, ids, log_m, tail = listed.take(picks).listed()
    law = dense.log_m.astype(np.float32)[picks].reshape(-1, VOCAB)
    assert rows.tolist() == np.repeat(np.arange(12), 5).tolist()
    best = np.sort(law, axis=-1)[:, -5:]
    np.testing.assert_allclose(np.sort(log_m.reshape(-1, 5), axis=-1), best, atol=5e-3)
    np.testing.assert_allclose(log_m, law[rows, ids], atol=5e-3)
    np.testing.assert_allclose(tail, 1 - np.exp(best).sum(-1), atol=1e-3)
    kept_mass = TargetStore(tmp_path, head).kept_mass()
    best = np.sort(dense.log_m.astype(np.float32), axis=-1)[..., -5:]
    assert kept_mass == pytest.approx(np.exp(best).sum(-1).mean(), abs=1e-3)
    assert 0.3 < kept_mass < 1.0


async def test_from_listed_rows_as_little_is_kept_as_holds_the_mass(panel_of, tmp_path: Path):
    spec = replace(SPEC, kind="listed", kept=8, mass=0.6)
    store = TargetStore(tmp_path, spec)
    members = panel_of(*two(), want=Want("top_k", 12))
    await collect(members, WINDOWS, store)
    targets = every(store)
    mass = np.add.reduceat(np.exp(targets.log_m.astype(np.float64)), targets.ends[:-1])
    np.testing.assert_allclose(mass + targets.tail.ravel(), 1.0, atol=5e-3)
    counts = targets.counts.ravel()
    assert counts.min() < counts.max() <= 8
    assert np.all((mass >= 0.595) | (counts == 8))


async def test_drawn_labels_are_distributed_like_the_mixture(panel_of, tmp_path: Path):
    spec = replace(SPEC, kind="samples", kept=32)
    same = np.repeat(WINDOWS[:1], 300, axis=0)
    store = TargetStore(tmp_path, spec)
    await collect(panel_of(*two()), same, store)
    targets = every(store)
    async for turn in walk(panel_of(*two()), same[:1], "law"):
        seen = np.bincount(targets.kept[:, turn.position].ravel(), minlength=VOCAB) / (300 * 32)
        law = np.exp(mixed(turn.log_w[0], turn.laws[0]))
        np.testing.assert_allclose(seen, law, atol=0.025)


async def test_the_mixture_writes_what_is_not_given(panel_of, tmp_path: Path):
    given = np.random.default_rng(1).integers(0, VOCAB, (20, 18)).astype(np.uint32)
    same = np.repeat(begun_windows(given, 1, seed=0), 2_000, axis=0)
    windows = np.concatenate([given, same])
    spec = replace(SPEC, window=18, windows=2_020, written=2_000, prefill=True)
    stores = [TargetStore(tmp_path / name, spec) for name in ("one", "other")]
    for store in stores:
        await collect(panel_of(*two()), windows, store)
    targets, again = map(every, stores)
    np.testing.assert_array_equal(targets.ids, again.ids)
    np.testing.assert_array_equal(targets.ids[:20], given)
    np.testing.assert_array_equal(targets.ids[20:, :BEGUN_TOKENS], same[:, :BEGUN_TOKENS])
    for first, temperature in ((20, 1.0), (21, 0.7)):  # window after window, of one beginning
        law = np.exp(targets.log_m[first, BEGUN_TOKENS].astype(np.float64) / temperature)
        drawn = np.bincount(targets.ids[first::2, BEGUN_TOKENS], minlength=VOCAB) / 1_000
        np.testing.assert_allclose(drawn, law / law.sum(), atol=0.06)
    # What a later law follows is what was written before it.
    at = np.take_along_axis(targets.log_m, targets.ids[..., None].astype(np.intp), -1)[..., 0]
    np.testing.assert_allclose(at, targets.label_log_p[..., -1], atol=2e-2)
    part = targets.ids[1_900:]
    async for turn in walk(panel_of(*two()), part, "again"):
        log_m = np.stack([*map(mixed, turn.log_w, turn.laws)])
        np.testing.assert_allclose(targets.log_m[1_900:, turn.position], log_m, atol=2e-2)


def test_what_the_mixture_goes_on_from_is_a_piece_of_the_given_text():
    given = np.arange(60, dtype=np.uint32).reshape(2, 30)
    begun = begun_windows(given, 50, seed=0)
    first = begun[:, :1]
    np.testing.assert_array_equal(begun[:, :BEGUN_TOKENS], first + np.arange(BEGUN_TOKENS))
    assert set((first // 30).ravel()) == {0, 1}
    assert len(set(first.ravel())) > 10


async def test_an_interrupted_collection_asks_only_for_what_is_missing(panel_of, tmp_path: Path):
    store = TargetStore(tmp_path, SPEC)
    a, b = two()
    a._fails = b._fails = lambda n: n > 14
    with pytest.raises(PeerUnavailable):
        await collect(panel_of(a, b), WINDOWS, store)
    assert len(store.shards()) == 2
    a, b = two()
    await collect(panel_of(a, b), WINDOWS, store)
    assert a.asked == 6
    whole = TargetStore(tmp_path / "whole", SPEC)
    await collect(panel_of(*two()), WINDOWS, whole)
    for one, other in zip(store.shards(), whole.shards(), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_other_experts_or_another_gate_never_share_shards(tmp_path: Path):
    names = {
        TargetStore(tmp_path, spec).path(0)
        for spec in (SPEC, replace(SPEC, gate_sha256="h"), replace(SPEC, experts=(("a", "1"),)))
    }
    assert len(names) == 3


def test_small_vocabularies_are_kept_whole():
    assert target_form(2_048) == ("full", 2_048, 1.0)
    assert target_form(32_000)[0] == "listed"
    assert target_form(32_000, samples=True) == ("samples", 32, 1.0)


@pytest.mark.parametrize(("kind", "kept"), [("full", VOCAB), ("listed", 5), ("samples", 3)])
async def test_windows_are_read_in_any_order_from_several_shards(
    panel_of, tmp_path: Path, kind: str, kept: int
):
    store = TargetStore(tmp_path, replace(SPEC, kind=kind, kept=kept, mass=0.6))
    await collect(panel_of(*two()), WINDOWS, store)
    assert len(store.shards()) == 3
    reader, picks = TargetReader(store), [299, 0, 130, 0, 99, 100]
    assert len(reader) == 300
    together = reader.take(np.array(picks))
    np.testing.assert_array_equal(together.ids, WINDOWS[picks])
    alone = [reader.take(np.array([pick])) for pick in picks]
    for name in ("label_log_p", "log_w", "log_m", "kept", "tail", "counts"):
        parts = [getattr(one, name) for one in alone]
        if parts[0] is None:
            assert getattr(together, name) is None
        else:
            np.testing.assert_array_equal(getattr(together, name), np.concatenate(parts))


async def test_of_a_large_vocabulary_a_stop_loses_few_windows(panel_of, tmp_path: Path):
    small, large = (call_groups(300, vocab_size=size, prefill=False) for size in (2_048, 262_144))
    assert max(map(len, small)) == 100
    assert max(map(len, large)) <= 16


LARGE, LIKELY = 20_000, 50  # tokens, and how many of them hold nearly all the mass


class FewLaws:
    """One of seven laws of a large vocabulary, by the token before."""

    def __init__(self) -> None:
        logits = np.random.default_rng(0).normal(0, 1, (7, LARGE))
        logits[:, :LIKELY] += 12
        self.logp = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)

    def rows(self, batch: list[Query], want: Want) -> list[StepRows]:
        before = [np.concatenate([[0], q.ids])[q.first :] % 7 for q in batch]
        return [q.answer(self.logp[which], want) for q, which in zip(batch, before, strict=True)]


class StrictClient(LocalClient):
    """Refuses what a miner refuses."""

    async def step(self, request: StepRequest, **options: object) -> StepResponse:
        try:
            request = StepRequest.from_bytes(request.to_bytes(), StepLimits(LARGE, 2 * WINDOW))
        except FrameError as error:
            raise PeerUnavailable(str(error)) from error
        return await super().step(request, **options)


async def test_whole_windows_of_a_large_vocabulary_are_collected_at_once(panel_of, tmp_path: Path):
    rng, count = np.random.default_rng(1), FEW_WINDOWS_PER_CALL
    windows = rng.integers(0, LIKELY, (count, WINDOW)).astype(np.uint32)
    kind, kept, mass = target_form(LARGE)
    spec = replace(SPEC, kind=kind, kept=kept, mass=mass, window=WINDOW, windows=count)
    store, engine = TargetStore(tmp_path, replace(spec, prefill=True)), FewLaws()
    whole, usual = (
        panel_of(StrictClient(A, engine), vocab_size=LARGE, want=want)
        for want in (Want("full"), want_for(LARGE))
    )
    with pytest.raises(PeerUnavailable, match="the answer would be too large"):
        await collect(whole, windows, store)
    seen: list[Progress] = []
    await collect(usual, windows, store, on_progress=seen.append)
    assert [progress.fraction for progress in seen] == [1.0, 1.0], "no pace of what came together"
    targets = every(store)
    np.testing.assert_array_equal(targets.ids, windows)
    before = np.pad(windows[:, :-1], ((0, 0), (1, 0))) % 7
    said = engine.logp[before, windows]
    listed = said > np.log(0.021)  # more than is left out altogether
    assert listed.mean() > 0.2
    np.testing.assert_allclose(targets.label_log_p[..., 0][listed], said[listed], atol=5e-3)
    assert store.kept_mass() > 0.95
    assert usual.panel._clients[A].asked == 1, "call"
