"""Targets: what is kept of the mixture, and that an interruption costs nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moesubnet.distill.collect import collect
from moesubnet.distill.reading import TargetReader
from moesubnet.distill.targets import Targets, TargetSpec, TargetStore, target_form, target_want
from moesubnet.distill.walks import walk
from moesubnet.errors import PeerUnavailable
from moesubnet.mixture.mixing import mix
from moesubnet.types import Hotkey

from .conftest import VOCAB, BigramEngine, LocalClient

A, B = Hotkey("a"), Hotkey("b")
SPEC = TargetSpec("full", VOCAB, 6, 300, False, "t", "s", "g", (("a", "1"), ("b", "2")))
WINDOWS = np.random.default_rng(1).integers(0, VOCAB, (300, 6)).astype(np.uint32)


def two() -> tuple[LocalClient, LocalClient]:
    return LocalClient(A, BigramEngine(1)), LocalClient(B, BigramEngine(2))


async def test_full_targets_are_the_routers_mixture(panel_of, tmp_path: Path):
    store = TargetStore(tmp_path, SPEC)
    await collect(panel_of(*two()), WINDOWS, store)
    targets = Targets.load(store)
    assert store.kept_mass() == 1.0
    np.testing.assert_array_equal(targets.ids, WINDOWS)
    part = WINDOWS[:100]
    async for turn in walk(panel_of(*two()), part, "again"):
        log_m = mix(turn.log_w, turn.log_p)
        np.testing.assert_allclose(targets.log_m[:100, turn.position], log_m, atol=5e-3)
        label = targets.label_log_p[:100, turn.position]
        np.testing.assert_allclose(label[:, -1], log_m[np.arange(100), part[:, turn.position]])
        np.testing.assert_allclose(np.exp(targets.log_w[:100, turn.position]).sum(-1), 1, atol=1e-5)


async def test_the_head_is_the_largest_and_the_mass_is_reported(panel_of, tmp_path: Path):
    full, head = TargetStore(tmp_path, SPEC), replace(SPEC, kind="top_k", kept=5)
    for store in (full, TargetStore(tmp_path, head)):
        await collect(panel_of(*two()), WINDOWS, store)
    dense, listed = Targets.load(full), Targets.load(TargetStore(tmp_path, head))
    best = np.sort(dense.log_m.astype(np.float32), axis=-1)[..., -5:]
    np.testing.assert_allclose(np.sort(listed.log_m, axis=-1), best, atol=5e-3)
    kept_mass = TargetStore(tmp_path, head).kept_mass()
    assert kept_mass == pytest.approx(np.exp(best).sum(-1).mean(), abs=1e-3)
    assert 0.3 < kept_mass < 1.0


async def test_drawn_labels_are_distributed_like_the_mixture(panel_of, tmp_path: Path):
    spec = replace(SPEC, kind="samples", kept=32)
    same = np.repeat(WINDOWS[:1], 300, axis=0)
    store = TargetStore(tmp_path, spec)
    await collect(panel_of(*two()), same, store)
    targets = Targets.load(store)
    async for turn in walk(panel_of(*two()), same[:1], "law"):
        seen = np.bincount(targets.kept[:, turn.position].ravel(), minlength=VOCAB) / (300 * 32)
        law = np.exp(mix(turn.log_w, turn.log_p)[0])
        np.testing.assert_allclose(seen, law, atol=0.025)


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
    assert target_form(2_048) == ("full", 2_048)
    assert target_form(32_000) == ("top_k", 256)
    assert target_form(32_000, samples=True) == ("samples", 32)
    assert target_want(8_192).kind == "full"
    assert target_want(8_193).k == 256


async def test_targets_are_read_from_disk_as_they_stand_there(panel_of, tmp_path: Path):
    for kind, kept in (("full", VOCAB), ("top_k", 5), ("samples", 3)):
        store = TargetStore(tmp_path, replace(SPEC, kind=kind, kept=kept))
        await collect(panel_of(*two()), WINDOWS, store)
        assert len(store.shards()) == 3
        whole, reader = Targets.load(store), TargetReader(store)
        assert len(reader) == 300
        picks = np.array([299, 0, 130, 0, 99, 100])
        part = reader.take(picks)
        for name in ("ids", "label_log_p", "log_w", "log_m", "kept"):
            stored, read = getattr(whole, name), getattr(part, name)
            assert (stored is None) == (read is None)
            if stored is not None:
                np.testing.assert_array_equal(read, stored[picks])
