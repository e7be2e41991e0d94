"""A miner's eye on probes and users: boosted trees over everything that it sees."""

from __future__ import annotations

import time
from random import Random

import numpy as np
import pytest
import virtual_time
from content import told as by_content
from lengths import accuracy as by_lengths
from lengths import summary
from miners_eye import FEATURES, GROUPS, Distances, World, by_its_clock, held_out, judged, refused
from one_label import Items, variance
from pace import accuracy, among

from moesubnet.validator.shapes import Shapes
from tests.sheets import synthetic_sheet

HEADERS, SHAPE = GROUPS["headers and sizes"], GROUPS["shape of the session"]


@pytest.fixture
def played(tiny_spec, monkeypatch):
    """On a clock that no load moves."""
    monkeypatch.setattr(time, "monotonic", time.monotonic)  # back to it at last

    def play(leak, epochs):
        world = World(tiny_spec, leak, distances=Distances(1.0))
        virtual_time.run(by_its_clock(world.play(epochs)))
        return world

    return play


def test_headers_fields_names_and_shapes_of_a_probe_are_a_user_s(played):
    world = played("none", 4)
    # A body's size says how many tokens it brings: that is the session's shape, judged apart.
    columns = tuple(name for name in HEADERS if name != "body_bytes")
    accuracy, calls = judged(world, columns)
    assert calls > 300
    # Few calls; benchmarks/results.md has what it is.
    assert accuracy < 0.75
    assert judged(world, SHAPE)[0] < 0.8
    assert len(world.probes) >= 32  # and the other choices of some
    seen = {session for _, session, _ in world.spy.calls}
    assert world.probes < seen
    assert len(FEATURES) == len(set(FEATURES))


@pytest.mark.parametrize(
    ("leak", "epochs", "least"),
    [
        ("session", 3, 0.9),
        ("shape", 3, 0.8),
        ("header", 4, 0.6),  # of a whole lane, users' steps among them
    ],
)
def test_a_leak_that_is_planted_is_found(played, leak, epochs, least):
    columns = SHAPE if leak == "shape" else HEADERS
    world = played(leak, epochs)
    accuracy, _ = judged(world, columns)
    assert accuracy > least
    if leak == "session":  # whoever knows probes leaves users, and loses nothing
        told = held_out(world)
        probes, users = refused(told, 0.5)
        assert probes > 0.9
        assert users < 0.1
        assert refused(told, 0.0) == (1.0, 1.0)


def test_lengths_tell_less_once_a_router_tells_them():
    public = Shapes.public(256)
    said = summary(1_000, np.random.default_rng(0))
    unknown, calls = by_lengths(public, 1_000)
    assert unknown > by_lengths(public.as_users([(said, 1)]), 1_000)[0] + 0.04
    assert calls > 10_000


def test_a_far_validator_is_told_by_pace_unless_no_label_waits_for_it():
    assert accuracy(0.0, 1, 400)[0] < 0.58  # the same lots each time
    far, calls, scored = accuracy(100.0, 1, 400)
    assert far > 0.9
    assert calls > 1_000
    assert scored == 100.0
    hidden, _, scored = accuracy(100.0, None, 400)
    assert hidden < 0.58  # it is the first law again
    assert scored < 10


def test_a_walk_that_asks_all_is_told_by_pace_and_one_that_asks_few_is_not():
    assert among(64, 0.5, 400, all_asked=True)[0] > 0.75  # the same lots each time
    told, asked = among(64, 0.5, 400, all_asked=False)
    assert told < 0.65
    assert 0.2 < asked < 0.4


def test_the_last_labels_of_walks_say_less_the_less_alike_a_walk_s_labels_are():
    sheet = synthetic_sheet(["a", "b"], walk_count=400, domains=True)
    items = Items.of([sheet, sheet])
    last = items.at_last()
    assert last.walk.tolist() == list(range(800))
    assert last.values().shape == (800, 2)
    alone = np.random.default_rng(0).normal(size=(len(items.walk), 1))
    alike = np.repeat(alone[:800], 16, axis=0)
    for values, more in ((alone, 16.0), (alike, 1.0)):
        found = variance(values[items.last], last.walk) / variance(values, items.walk)
        assert found == pytest.approx(more, rel=0.2)
    np.testing.assert_array_equal(last.values(0.0, 0), last.values())


def test_content_tells_chats_from_text_and_text_from_other_text_of_its_kind_not():
    lots = Random(0)

    def texts(head):
        return [[*head, *(lots.randrange(40) for _ in range(20))] for _ in range(300)]

    for head, least, most in (([], 0.35, 0.65), ([90, 91], 0.99, 1.0)):
        is_walk, chance = by_content((texts([]), texts([])), (texts(head), texts(head)))
        assert len(is_walk) == len(chance) == 600
        assert least <= ((chance > 0.5) == is_walk).mean() <= most
