"""The parts of the localnet's text: disjoint, reproducible, and large enough or refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from moesubnet.errors import ConfigError
from moesubnet.localnet import corpora
from moesubnet.localnet.sources import SOURCES, Source
from moesubnet.training.dedup import shingles
from moesubnet.training.tokenizer import train_tokenizer

WORDS = [
    "law",
    "token",
    "expert",
    "window",
    "router",
    "gate",
    "mixture",
    "student",
    "label",
    "seed",
    "block",
    "chain",
]


def invented(domain: str, documents: int) -> Source:
    """Documents of random sentences; the words of a domain carry its name."""

    def document(index: int) -> str:
        rng = random.Random(f"{domain}{index}")
        vocabulary = [f"{word}{domain}{n}" for word in WORDS for n in range(9)]
        paragraphs = [" ".join(rng.choices(vocabulary, k=40)) + "." for _ in range(12)]
        return "\n\n".join(paragraphs)

    return {f"{index}.txt": lambda index=index: document(index) for index in range(documents)}


SIZES = corpora.Sizes(
    public_chars=20_000, test_tokens=2_000, validator_tokens=2_000, min_expert_tokens=5_000
)


def build_small(root: Path, seed: int, **options):
    return corpora.build(
        root, seed, tokenizer_of=lambda public: train_tokenizer(public, 300), sizes=SIZES, **options
    )


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_no_text_is_in_two_parts(tmp_path: Path):
    sources = {name: lambda name=name: invented(name, 60) for name in ("red", "blue")}
    report = build_small(tmp_path, 0, sources=sources)
    parts = sorted(p for p in tmp_path.rglob("*.jsonl"))
    assert [p.relative_to(tmp_path).as_posix() for p in parts] == [
        *("experts/blue.jsonl", "experts/red.jsonl", "public.jsonl"),
        *("test/blue.jsonl", "test/red.jsonl", "validators/0.jsonl", "validators/1.jsonl"),
    ]
    seen: set[int] = set()
    for part in parts:
        marks = {mark for text in texts(part) for mark in shingles(text).tolist()}
        assert marks
        assert not marks & seen
        seen |= marks
    assert report["red"].test_tokens >= 2_000
    assert all(tokens >= 2_000 for tokens in report["red"].validator_tokens)
    assert {json.loads(line)["domain"] for line in (tmp_path / "public.jsonl").open()} == {
        *("red", "blue")
    }


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path):
    def build(name: str, seed: int) -> dict[str, bytes]:
        build_small(tmp_path / name, seed, sources={"red": lambda: invented("red", 40)})
        root = tmp_path / name
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.json*")}

    first = build("a", 1)
    assert build("b", 1) == first
    assert build("c", 2)["experts/red.jsonl"] != first["experts/red.jsonl"]


def test_too_little_text_says_which_domain(tmp_path: Path):
    with pytest.raises(ConfigError, match="'red'"):
        build_small(tmp_path, 0, sources={"red": lambda: invented("red", 14)})


def test_every_domain_finds_real_text_here():
    for domain, source in SOURCES.items():
        documents = source()
        assert len(documents) > 100, domain
        assert any(len(read()) > 600 for read in list(documents.values())[:50]), domain
