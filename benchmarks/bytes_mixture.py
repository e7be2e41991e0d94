"""Two models of different tokenizers, mixed over bytes: bits a byte of each and of the mixture.

    python benchmarks/bytes_mixture.py MODEL_A MODEL_B [--windows 4] [--bytes 600]

Every model reads cold windows of four kinds of text through the adapter; the mixture weighs them by
what they said of the bytes before, as a router does before there is a gate. "Own tokens": what the
model gives the same text in its own tokens. Decoding goes byte by byte through the first windows.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moesubnet.engine.base import Query
from moesubnet.engine.bytes_engine import BytesEngine
from moesubnet.engine.named import load_engine
from moesubnet.localnet.sources import SOURCES
from moesubnet.mixture.mixing import GAMMA
from moesubnet.spec.byte_unit import TEMPLATE, TOKEN_BYTES, byte_tokenizer
from moesubnet.spec.content import (
    BYTE_END,
    BYTE_SYMBOLS,
    LoadedSpec,
    Spec,
    SpecFile,
    file_sha256,
    spec_files,
)
from moesubnet.wire.step import Want

SEED = 0
DECODED_BYTES = 200
FULL = Want("full")


@dataclass(frozen=True)
class Read:
    """One model: log2 of each byte's probability [windows, bytes], and what it took."""

    name: str
    bits: NDArray[np.float64]
    own_bits: float
    laws_a_byte: float
    bytes_a_s: float
    tokens_a_s: float


def windows(kind: str, count: int, size: int) -> list[bytes]:
    draw = random.Random(f"{SEED}/{kind}")
    documents = sorted(SOURCES[kind]().items())
    found: list[bytes] = []
    while len(found) < count:
        text = draw.choice(documents)[1]()
        if len(text) > 3 * size:
            start = draw.randrange(len(text) - 2 * size)
            raw = text[start : start + size].encode()[:size]
            found.append(raw.decode("utf-8", "ignore").encode().ljust(size))
    return found


def bytes_spec(root: Path) -> LoadedSpec:
    byte_tokenizer().save(str(root / "tokenizer.json"))
    sha256 = file_sha256(root / "tokenizer.json")
    spec = Spec(
        name="bytes",
        unit="bytes",
        token_units=TOKEN_BYTES,
        vocab_size=BYTE_SYMBOLS,
        bos_id=BYTE_END,
        stop_ids=(BYTE_END,),
        context_tokens=8_192,
        chat_template=TEMPLATE,
        min_caller_stake_rao=0,
        **(spec_files(None) | {"tokenizer": SpecFile(path="tokenizer.json", sha256=sha256)}),
    )
    return LoadedSpec(root, sha256, spec)


def read(model: str, texts: list[bytes], spec: LoadedSpec) -> Read:
    adapter = load_engine("auto", model, spec)
    assert isinstance(adapter, BytesEngine)
    bits, own_bits = [], 0.0
    for k, text in enumerate(texts):
        ids = np.frombuffer(text, np.uint8).astype(np.uint32)
        (rows,) = adapter.rows([Query(f"{k}", ids, 0)], FULL)
        bits.append(-rows.logprobs[np.arange(len(ids)), ids] / np.log(2))
        adapter.forget(f"{k}")
        own_bits += own_cost(adapter, tokens_of(adapter, text))
        print(f"{model} window {k}: {bits[-1].mean():.3f} bits a byte", flush=True)
    ids = np.frombuffer(texts[0], np.uint8).astype(np.uint32)[:DECODED_BYTES]
    adapter.laws_asked = 0
    started_s = time.monotonic()
    for at in range(len(ids)):
        adapter.rows([Query("decode", ids[:at], at)], FULL)
    took_s = time.monotonic() - started_s
    path = tokens_of(adapter, texts[0][:DECODED_BYTES])
    started_s = time.monotonic()
    for at in range(len(path)):
        adapter.engine.rows([Query("own", path[:at], at)], FULL)
    own_s = time.monotonic() - started_s
    return Read(
        Path(model).name,
        np.array(bits, np.float64),
        own_bits / sum(map(len, texts)),
        adapter.laws_asked / len(ids),
        len(ids) / took_s,
        len(path) / own_s,
    )


def tokens_of(adapter: BytesEngine, text: bytes) -> NDArray[np.uint32]:
    return np.array(adapter.encode(text.decode("utf-8", "ignore")), np.uint32)


def own_cost(adapter: BytesEngine, ids: NDArray[np.uint32]) -> float:
    """Bits of a text in the model's own tokens."""
    (rows,) = adapter.engine.rows([Query("whole", ids, 0)], FULL)
    adapter.engine.forget("whole")
    return -float(rows.logprobs[np.arange(len(ids)), ids].sum()) / float(np.log(2))


def mixed(bits: NDArray[np.float64]) -> NDArray[np.float64]:
    """bits [models, windows, bytes] → of the mixture [windows, bytes]; equal priors."""
    gamma = GAMMA ** (1 / TOKEN_BYTES)
    evidence = np.zeros(bits.shape[:2])
    out = np.empty(bits.shape[1:])
    for at in range(bits.shape[2]):
        weights = np.exp(evidence - evidence.max(axis=0))
        weights /= weights.sum(axis=0)
        out[:, at] = -np.log2((weights * 2.0 ** -bits[:, :, at]).sum(axis=0))
        evidence = gamma * evidence - bits[:, :, at] * np.log(2)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs=2)
    parser.add_argument("--windows", type=int, default=4, help="of each kind of text")
    parser.add_argument("--bytes", type=int, default=600)
    args = parser.parse_args()
    texts = [text for kind in SOURCES for text in windows(kind, args.windows, args.bytes)]
    with tempfile.TemporaryDirectory() as folder:
        spec = bytes_spec(Path(folder))
        reads = [read(model, texts, spec) for model in args.models]
    laws = np.stack([r.bits for r in reads])
    columns = [*((r.name, r.bits) for r in reads), ("mixture", mixed(laws))]
    print(f"\nload {os.getloadavg()[0]:.1f}\n\n| bits a byte | {' | '.join(SOURCES)} | mean |")
    print("|---" * (len(SOURCES) + 2) + "|")
    for name, bits in columns:
        means = bits.mean(axis=1).reshape(len(SOURCES), -1).mean(axis=1)
        print(f"| {name} | {' | '.join(f'{m:.3f}' for m in means)} | {means.mean():.3f} |")
    better = min(laws, key=np.mean)  # of the two, on all windows
    gains = (better - columns[-1][1]).mean(axis=1)
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    print(
        f"\nbelow the better of the two by {gains.mean():.3f} ± {error:.3f} (of a mean of "
        f"{len(gains)} windows), below it in {(gains > 0).sum()} of them"
    )
    print("\n| model | own tokens, bits a byte | laws a byte | bytes/s | own tokens/s |")
    print("|---|---|---|---|---|")
    for r in reads:
        figures = f"{r.own_bits:.3f} | {r.laws_a_byte:.2f} | {r.bytes_a_s:.1f} | {r.tokens_a_s:.1f}"
        print(f"| {r.name} | {figures} |")


if __name__ == "__main__":
    main()
