"""Honest pairs and dishonest ones through the statistics of `validator/checks.py`.

    python benchmarks/check_calibration.py MODEL --spec FOLDER --text GLOB [--other MODEL]
        [--walks 64] [--save FILE] [--laws NAME=FILE …]

Each law of MODEL, in float32 and asked alone, is compared with what it says otherwise: among seven
other texts in one batch, by two threads, in bfloat16 (alone and in a batch), in int8, and, as what
must be found, with weights in 4 bits, with noise that is fresh each time, sharpened, with another
model, with zeros and with the law of another place. Laws made elsewhere, by another machine or
other versions of the libraries, come by --save there and --laws here. Prints one Markdown table:
quantiles of the distance between two answers, of the median ratio of a replay, how often each is
over its threshold, and what `moesubnet validator replay` would say of such an expert: the median
over all places in the nearest of the precisions that it tries, and its verdict.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from moesubnet.engine.base import Query
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.mixture.law import Law
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.validator.checks import (
    REPLAY_RATIO,
    TWICE_DISTANCE,
    median_ratio,
    replay_verdict,
    total_variation,
)
from moesubnet.validator.pool import ONE_WINDOW, PREFIX_TOKENS, TextPool
from moesubnet.wire.step import Want

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from adversaries.cheap_self import round_weights

BATCH = 8
GROUP = 32  # weights that share a scale, as in the usual formats of 4 bits


def laws_of(
    model: Path,
    spec: LoadedSpec,
    walks: np.ndarray,
    dtype: str,
    batch: int,
    threads: int = 1,
    bits: int | None = None,
) -> np.ndarray:
    """float32 [walks, V]: of the token after each prefix."""
    engine = TransformersEngine(str(model), spec, dtype=dtype, threads=threads, packs=bits is None)
    if bits is not None:
        round_weights(engine._model, bits, GROUP)
    out = []
    for begin in range(0, len(walks), batch):
        queries = [
            Query(f"{begin + k}", ids[:PREFIX_TOKENS], PREFIX_TOKENS)
            for k, ids in enumerate(walks[begin : begin + batch])
        ]
        for query, rows in zip(queries, engine.rows(queries, Want("full")), strict=True):
            out.append(np.asarray(rows.logprobs[0], np.float16).astype(np.float32))  # as it travels
            engine.forget(query.session)
    return np.stack(out)


def normalised(logp: np.ndarray) -> np.ndarray:
    logp = np.asarray(logp, np.float64)
    top = logp.max(axis=-1, keepdims=True)
    return (logp - top - np.log(np.exp(logp - top).sum(axis=-1, keepdims=True))).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--other", type=Path, help="a model of another kind of text")
    parser.add_argument("--walks", type=int, default=64)
    parser.add_argument("--save", type=Path, help="write the laws (.npy), and compare nothing")
    parser.add_argument("--laws", action="append", default=[], metavar="NAME=FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec = load_spec(arguments.spec)
    tokenizer = load_tokenizer(spec.tokenizer_path)
    pool = TextPool.load(
        arguments.text, lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    )
    walks = np.stack([w.ids for w in pool.draw([ONE_WINDOW] * arguments.walks, {}, b"checks")])
    rng = np.random.default_rng(0)

    def said(dtype: str, batch: int, model: Path = arguments.model, **more: int) -> np.ndarray:
        return laws_of(model, spec, walks, dtype, batch, **more)

    alone = said("float32", 1)
    if arguments.save is not None:
        np.save(arguments.save, alone)
        return

    def noise(sigma: float) -> np.ndarray:
        return normalised(alone + sigma * rng.standard_normal(alone.shape))

    cases = {
        "the same, in a batch of 8": said("float32", BATCH),
        "the same, by two threads": said("float32", 1, threads=2),
        "bfloat16 alone, float32 alone": said("bfloat16", 1),
        "bfloat16 in a batch, float32 alone": said("bfloat16", BATCH),
        "int8, float32": said("int8", 1),
        "8 bits by groups of 32, float32": said("float32", 1, bits=8),
        "4 bits by groups of 32, float32": said("float32", 1, bits=4),
        "fresh noise of 0.1 nats": noise(0.1),
        "fresh noise of 0.3 nats": noise(0.3),
        "sharpened, power 1.3": normalised(1.3 * alone),
        "zeros (every token alike)": normalised(np.zeros_like(alone)),
        "a replayed answer (another place's)": np.roll(alone, 1, axis=0),
    }
    for named in arguments.laws:
        name, _, file = named.partition("=")
        cases[name] = np.load(file)
    if arguments.other is not None:
        cases["another model"] = said("float32", 1, arguments.other)
    bf16 = cases.pop("bfloat16 alone, float32 alone")
    rows = [("bfloat16: alone, in a batch of 8", bf16, cases["bfloat16 in a batch, float32 alone"])]
    rows += [("bfloat16 alone, float32 alone", alone, bf16)]
    rows += [(name, alone, other) for name, other in cases.items()]
    impostors = [
        float(np.median([median_ratio(Law(b), Law(a)) for a, b in zip(alone, case, strict=True)]))
        for case in (cases["zeros (every token alike)"], np.roll(alone, 1, axis=0))
    ]
    print(
        "| pair | distance: median | 99 % | largest | over | ratio: median | 99 % | over "
        "| nearest precision | verdict |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, one, other in rows:
        pairs = [(Law(a), Law(b)) for a, b in zip(one, other, strict=True)]
        far = np.array([total_variation(a, b) for a, b in pairs])
        ratio = np.array([median_ratio(b, a) for a, b in pairs])
        nearest = min(
            (
                [median_ratio(Law(b), Law(a)) for a, b in zip(ours, other, strict=True)]
                for ours in (alone, bf16)
            ),
            key=np.median,
        )
        print(
            f"| {name} | {np.median(far):.4f} | {np.quantile(far, 0.99):.4f} | {far.max():.4f} "
            f"| {np.mean(far > TWICE_DISTANCE):.1%} | {np.median(ratio):.4f} "
            f"| {np.quantile(ratio, 0.99):.4f} | {np.mean(ratio > REPLAY_RATIO):.1%} "
            f"| {np.median(nearest):.4f} | {replay_verdict(nearest, impostors)} |"
        )
    print(f"\n{len(walks)} prefixes of {PREFIX_TOKENS} tokens, V = {spec.spec.vocab_size:,}.")


if __name__ == "__main__":
    main()
