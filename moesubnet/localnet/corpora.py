"""Four domains of real text that every installation has, split so that nothing leaks.

    python   the standard library's sources, without its tests
    cpp      the C++ headers that torch ships, without generated ones
    prose    English: the language reference in `pydoc_data.topics`, the paragraphs of docstrings
             in large packages, package descriptions
    maths    sympy's test suites: formulas and what they are equal to

Blocks of text that occur twice are removed across all domains (`dedup.py`), then documents are
dealt to disjoint parts: the public transfer set, the final test (which nothing ever trains on),
one pool per validator, and each expert's private text. All parts but the experts' take an excerpt
of many documents instead of a few whole ones; the rest of such a document is used nowhere.

The same installation and seed give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from moesubnet.errors import ConfigError
from moesubnet.localnet.sources import SOURCES, Source
from moesubnet.spec.documents import Document, write_documents
from moesubnet.training.dataset import encode
from moesubnet.training.dedup import Deduplicator

POOL_CHARS = 2_500_000  # a domain's text before it is dealt
DOCUMENT_CHARS = range(600, 40_000)  # shorter ones are dropped, longer ones cut
PUBLIC_EXCERPT_CHARS = 1_500
TEST_EXCERPT_TOKENS = 1_000
VALIDATOR_EXCERPT_TOKENS = 8_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of a domain goes where."""

    public_chars: int = 42_000  # about 15k tokens of a small vocabulary
    test_tokens: int = 22_000
    validator_tokens: int = 72_000  # four domains make ≥ 300k
    min_expert_tokens: int = 300_000


FULL = Sizes()


@dataclass(frozen=True, slots=True)
class DomainReport:
    """What one domain gave. Tokens are the subnet's."""

    documents: int
    duplicate_chars: int
    public_tokens: int
    test_tokens: int
    validator_tokens: tuple[int, ...]
    expert_tokens: int


def build(
    root: Path,
    seed: int,
    *,
    tokenizer_of: Callable[[Sequence[str]], Tokenizer],
    sizes: Sizes = FULL,
    validators: int = 2,
    sources: Mapping[str, Callable[[], Source]] = SOURCES,
) -> dict[str, DomainReport]:
    """Write under `root`: `public.jsonl`, `tokenizer.json` (made from the public part only, or
    given), `test/<domain>.jsonl`, `validators/<i>.jsonl`, `experts/<domain>.jsonl`.

    Raises ConfigError when this installation has too little text of a domain.
    """
    dedup = Deduplicator()
    public: dict[str, list[str]] = {}
    rest: dict[str, list[str]] = {}
    duplicate_chars: dict[str, int] = {}
    for domain, source in sources.items():
        before = dedup.dropped_chars
        documents = _collect(source(), f"{seed}/{domain}", dedup)
        duplicate_chars[domain] = dedup.dropped_chars - before
        public[domain], rest[domain] = _deal(documents, sizes.public_chars, PUBLIC_EXCERPT_CHARS)
    tokenizer = tokenizer_of([text for texts in public.values() for text in texts])

    pools: list[list[Document]] = [[] for _ in range(validators)]
    report = {}
    for domain, documents in rest.items():
        public_tokens = _count_tokens(public[domain], tokenizer)
        chars_per_token = sum(map(len, public[domain])) / public_tokens

        def chars(tokens: int, rate: float = chars_per_token) -> int:
            return round(tokens * rate)

        test, left = _deal(documents, chars(sizes.test_tokens), chars(TEST_EXCERPT_TOKENS))
        validator_tokens = []
        for pool in pools:
            part, left = _deal(left, chars(sizes.validator_tokens), chars(VALIDATOR_EXCERPT_TOKENS))
            pool += [Document(domain, text) for text in part]
            validator_tokens.append(_count_tokens(part, tokenizer))
        report[domain] = DomainReport(
            documents=len(documents) + len(public[domain]),
            duplicate_chars=duplicate_chars[domain],
            public_tokens=public_tokens,
            test_tokens=_count_tokens(test, tokenizer),
            validator_tokens=tuple(validator_tokens),
            expert_tokens=_count_tokens(left, tokenizer),
        )
        if report[domain].expert_tokens < sizes.min_expert_tokens:
            raise ConfigError(
                f"this installation has too little text of {domain!r}: only "
                f"{report[domain].expert_tokens:,} tokens are left for its expert"
            )
        for name, texts in (("test", test), ("experts", left)):
            write_documents(
                root / name / f"{domain}.jsonl", (Document(domain, text) for text in texts)
            )
    for index, pool in enumerate(pools):
        write_documents(root / "validators" / f"{index}.jsonl", _shuffled(pool))
    everything = [Document(domain, text) for domain, texts in public.items() for text in texts]
    write_documents(root / "public.jsonl", _shuffled(everything))
    tokenizer.save(str(root / "tokenizer.json"))
    return report


def _collect(source: Source, salt: str, dedup: Deduplicator) -> list[str]:
    """Unique documents in an order given by `salt`, until the pool is full."""
    documents, chars = [], 0
    for name in sorted(source, key=lambda name: _digest(f"{salt}/{name}")):
        if chars >= POOL_CHARS:
            break
        text = dedup.unique(source[name]()[: DOCUMENT_CHARS.stop])
        if len(text) >= DOCUMENT_CHARS.start:
            documents.append(text)
            chars += len(text)
    return documents


def _deal(
    documents: list[str], total_chars: int, excerpt_chars: int
) -> tuple[list[str], list[str]]:
    """Excerpts of the first documents, `total_chars` in all, and the untouched documents."""
    part: list[str] = []
    chars = 0
    for index, text in enumerate(documents):
        if chars >= total_chars:
            return part, documents[index:]
        part.append(_middle(text, excerpt_chars))
        chars += len(part[-1])
    return part, []


def _middle(text: str, chars: int) -> str:
    """About `chars` characters from the middle of `text` in whole lines: its head is imports."""
    if len(text) <= chars:
        return text
    start = text.find("\n", (len(text) - chars) // 2) + 1
    end = text.find("\n", start + chars)
    return text[start : end if end > 0 else start + chars]


def _shuffled(documents: list[Document]) -> list[Document]:
    return sorted(documents, key=lambda document: _digest(document.text))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _count_tokens(texts: list[str], tokenizer: Tokenizer) -> int:
    return sum(map(len, encode(texts, tokenizer)))
