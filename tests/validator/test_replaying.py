"""Open experts are replayed by lot beside a validator's work, in processes that may do little."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import subprocess
import sys
import time

import pytest

from moesubnet.types import Hotkey
from moesubnet.validator import replaying
from moesubnet.validator.checkbook import Checkbook
from moesubnet.validator.checks import Claim
from moesubnet.validator.replaying import Replaying, trim
from tests.validator.open_experts import sums

# `validator replay` with a chain that a file holds; all else is real.
WITH_CHAIN = """
import contextlib, pickle, sys
from moesubnet.chain.client import ChainClient
from moesubnet.cli import main

chain = pickle.load(open(sys.argv.pop(1), "rb"))

@contextlib.asynccontextmanager
async def connected():
    yield chain

async def connect(url):
    return connected()

ChainClient.connect = connect
main()
"""

SLEEPS = """
import os, sys, time
with open(sys.argv[1], "w") as file:
    file.write(f"{os.getpid()} {os.nice(0)}")
time.sleep(9e3)
"""


@pytest.fixture
def begun(replayed, tmp_path, tiny_spec, monkeypatch):
    """`await begun(most_bytes)`: an epoch begins, and its replay is over; → the book."""
    _, _, measurement, *_ = replayed
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cached"))
    (tmp_path / "chain").write_bytes(pickle.dumps(measurement._gates._chain))
    command = [sys.executable, "-c", WITH_CHAIN, str(tmp_path / "chain"), "validator", "replay"]
    options = ["--spec", str(tiny_spec.root), "--state-dir", str(tmp_path), "--allow-private"]

    async def run(most_bytes=2**24):
        beside = Replaying(measurement._book, options, most_bytes, command)
        async with asyncio.TaskGroup() as group:
            beside.begin(group)
            task = beside._task
            beside.begin(group)  # while it goes on no other begins
            assert beside._task is task
        return measurement._book

    return run


async def test_an_expert_by_lot_is_replayed_by_another_process_and_convicted(
    begun,
    replayed,
    monkeypatch,
    tmp_path,
):
    _, (_, sibling), measurement, *_ = replayed
    monkeypatch.setattr(replaying.SystemRandom, "choice", lambda _, of: sibling.hotkey)
    book = await begun()
    assert book.replayed()[sibling.hotkey].rows == 112
    assert book.records("replay")[sibling.hotkey].pairs == 3
    assert measurement.convicted() == {sibling.hotkey}
    measurement.show_verdicts()
    shown = measurement._metrics.registry.get_sample_value
    labels = {"check": "replay", "verdict": "cheat"}
    assert shown("moesubnet_validator_verdicts", labels) == 1.0
    [kept] = (tmp_path / "cached" / "moesubnet" / "weights").iterdir()
    assert kept.name == sibling.commitment


async def test_what_is_too_large_or_no_safetensors_is_not_loaded_and_said(
    begun,
    replayed,
    offer,
    caplog,
    monkeypatch,
):
    _, (honest, sibling), measurement, *_ = replayed
    caplog.set_level("INFO")
    book = await begun(most_bytes=1_000)
    assert "more than the 1,000 allowed" in caplog.text.replace("\n", " ")
    _, folder, _ = offer
    (folder / "model-00001-of-00001.gguf").write_bytes(b"GGUF")
    named = sums(folder, ["model-00001-of-00001.gguf"])
    for expert in (honest, sibling):
        expert.commitment = named
        measurement._book.note_claims({expert.hotkey: Claim(9, named, "https://x")})
    await begun()
    assert "GGUF file" in caplog.text
    assert not book.replayed()


async def test_it_is_nice_and_ends_with_the_validator(tmp_path):
    """Whatever it does: one that would sleep for ever, in an epoch in which the validator stops."""
    book = Checkbook(tmp_path / "checks.sqlite3", Hotkey("v"))
    place = tmp_path / "pid"
    with contextlib.closing(book):
        book.note_claims({Hotkey("x"): Claim(1, "a" * 64, "https://x")})
        beside = Replaying(book, [], 1, [sys.executable, "-c", SLEEPS, str(place)])
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.TaskGroup() as group:
                beside.begin(group)
                while not (place.exists() and place.read_text()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                beside._task.cancel()
    pid, niceness = map(int, place.read_text().split())
    assert niceness == 19
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: other systems bound it otherwise")
def test_a_wary_replay_has_so_much_memory_and_no_more():
    script = """
from moesubnet.validator.replay_command import _bound_memory
_bound_memory(2**29)
held = bytes(2**27)
try:
    bytes(2**29)
except MemoryError:
    print(open("/proc/self/oom_score_adj").read())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.split() == [b"1000"]


async def test_nobody_is_replayed_who_offers_nothing(tmp_path):
    book = Checkbook(tmp_path / "checks.sqlite3", Hotkey("v"))
    with contextlib.closing(book):
        book.note_claims({Hotkey("x"): Claim(1, "a" * 64, "https://x")})
        book.note_claims({Hotkey("x"): Claim(2, "a" * 64, None)})
        assert book.offering() == set()
        async with asyncio.TaskGroup() as group:
            Replaying(book, [], 1, ["/no/such/command"]).begin(group)


def test_what_was_used_longest_ago_makes_room(tmp_path):
    for age, name in enumerate(("new", "old", "oldest")):
        (tmp_path / name / "base").mkdir(parents=True)
        file = tmp_path / name / "base" / "model.safetensors"
        file.write_bytes(bytes(100))
        os.utime(file, (time.time() - age,) * 2)
    trim(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "old"}
    trim(tmp_path, 99)
    assert not list(tmp_path.iterdir())
    trim(tmp_path / "nowhere", 1)
