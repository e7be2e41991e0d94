"""Honest pairs and dishonest ones through the statistics of `validator/checks.py`.

    python benchmarks/check_calibration.py MODEL --spec FOLDER --text GLOB [--other MODEL]
        [--walks 64] [--save FILE] [--laws NAME=FILE …]

Each law of MODEL, in float32 and asked alone, is compared with what it says otherwise: among seven
and 31 other texts in one batch, by two threads, in bfloat16 (alone and in a batch), in int8 and by
weights rounded to 8 bits; as a draft of DRAFTED tokens read in one pass, against one token at a
time, in each precision; and, as what must be found, with weights in 4 bits, with noise that is
fresh each time, sharpened, with another model, with zeros, with the law of another place, and of
drafts with a certainty of each or with the drafter's law (MODEL's in place of another's). Laws made
elsewhere, by another machine or other versions of the libraries, come by --save there and --laws
here.

Prints one Markdown table. Distance between two answers: quantiles, how often over its threshold,
at most how often (95 %), and what the sequential test says after all pairs. Replay (not of drafts):
quantiles of a place's ratio in our float32; the median in the nearest of the precisions that
`moesubnet validator replay` tries, its verdict, and of REPLAYS replays of 32 places drawn from
these how many would be called a cheat. Below it, of all pairs of HONEST kinds together, how often
such an expert is apart from itself, and so how often, asked the same in another epoch, it would be
taken for another (`Checkbook.changed_in`: most of the prefixes, two of them as a rule).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from honest_epochs import upper_bound

from moesubnet.engine.base import Query
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.mixture.law import Law
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.validator.checks import (
    REPLAY_ROWS,
    TWICE_DISTANCE,
    Record,
    Verdict,
    median_ratio,
    replay_verdict,
    total_variation,
)
from moesubnet.validator.pool import ONE_WINDOW, PREFIX_TOKENS, TextPool
from moesubnet.wire.step import Want

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from adversaries.cheap_self import round_weights
from adversaries.yes_man import YesMan

BATCHES = (8, 32)
DRAFTED = 4
REPLAYS = 10_000
HONEST = ("the same", "bfloat16", "float32:", "int8:", "8 bits")  # one expert, run otherwise
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


def drafted_laws(
    model: Path, spec: LoadedSpec, walks: np.ndarray, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """float32 [walks × DRAFTED, V] each: of the tokens after each prefix, all of them shown to a
    session that has the prefix, and one at a time to another."""
    engine = TransformersEngine(str(model), spec, dtype=dtype, threads=1)
    shown, blind = [], []
    for ids in walks:
        end = PREFIX_TOKENS + DRAFTED
        steps = [(1, PREFIX_TOKENS, PREFIX_TOKENS), (1, end, PREFIX_TOKENS)]
        steps += [(2, n, n) for n in range(PREFIX_TOKENS, end)]
        said = {1: shown, 2: blind}
        for session, length, first in steps:
            query = Query(f"{session}", ids[:length], first)
            [rows] = engine.rows([query], Want("full"))
            laws = np.asarray(rows.logprobs, np.float16).astype(np.float32)
            if session == 2 or length == end:
                said[session] += list(laws[:DRAFTED])
        for session in ("1", "2"):
            engine.forget(session)
    return np.stack(shown), np.stack(blind)


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

    bf16 = said("bfloat16", 1)
    in_batches = {b: (said("float32", b), said("bfloat16", b)) for b in BATCHES}
    cases = [
        *((f"the same, in a batch of {b}", alone, f32) for b, (f32, _) in in_batches.items()),
        ("the same, by two threads", alone, said("float32", 1, threads=2)),
        ("bfloat16 alone, float32 alone", alone, bf16),
        *(
            (f"bfloat16: alone, in a batch of {b}", bf16, other)
            for b, (_, other) in in_batches.items()
        ),
        *(
            (f"bfloat16 in a batch of {b}, float32 alone", alone, o)
            for b, (_, o) in in_batches.items()
        ),
        ("int8, float32", alone, said("int8", 1)),
        ("8 bits by groups of 32, float32", alone, said("float32", 1, bits=8)),
        ("4 bits by groups of 32, float32", alone, said("float32", 1, bits=4)),
        ("fresh noise of 0.1 nats", alone, noise(0.1)),
        ("fresh noise of 0.3 nats", alone, noise(0.3)),
        ("sharpened, power 1.3", alone, normalised(1.3 * alone)),
        ("zeros (every token alike)", alone, zeros := normalised(np.zeros_like(alone))),
        ("a replayed answer (another place's)", alone, moved := np.roll(alone, 1, axis=0)),
    ]
    for named in arguments.laws:
        name, _, file = named.partition("=")
        cases.append((name, alone, np.load(file)))
    if arguments.other is not None:
        cases.append(("another model", alone, said("float32", 1, arguments.other)))
    impostors = [
        float(np.median([median_ratio(Law(b), Law(a)) for a, b in zip(alone, case, strict=True)]))
        for case in (zeros, moved)
    ]
    print(
        f"| pair | pairs | distance: median | 99 % | largest | over {TWICE_DISTANCE} | at most "
        "| asked twice | ratio: median | 99 % | nearest precision | replay "
        f"| of {REPLAY_ROWS} places a cheat |"
    )
    print("|" + 13 * "---|")
    for name, one, other in cases:
        print(f"| {name} | {of_pairs(one, other)} | {of_replay(other, alone, bf16, impostors)} |")
    drafted = drafts(arguments.model, arguments.other, spec, walks)
    for name, shown, blind in drafted:
        print(f"| {name} | {of_pairs(shown, blind)} | – | – | – | – | – |")
    print(f"\n{len(walks)} prefixes of {PREFIX_TOKENS} tokens, V = {spec.spec.vocab_size:,}.")
    honest = [apart(a, b) for name, a, b in [*cases, *drafted] if name.startswith(HONEST)]
    over, count = int(sum(map(np.sum, honest))), sum(map(len, honest))
    most = upper_bound(over, count)
    print(
        f"Of {count:,} honest pairs {over} are over, at most {most:.2%} (95 %). An expert that "
        f"runs otherwise in another epoch is taken for another in {most:.2%} of epochs at most, if "
        f"its prefixes go together, and in {most**2:.1e} if they are independent."
    )


Drafts = list[tuple[str, np.ndarray, np.ndarray]]


def drafts(model: Path, other: Path | None, spec: LoadedSpec, walks: np.ndarray) -> Drafts:
    """Of each kind, what is said of drafts and of the same tokens blind."""
    found: Drafts = []
    for dtype in ("float32", "bfloat16", "int8"):
        shown, blind = drafted_laws(model, spec, walks, dtype)
        found.append((f"{dtype}: {DRAFTED} drafts in one pass, token by token", shown, blind))
    tokens = walks[:, PREFIX_TOKENS : PREFIX_TOKENS + DRAFTED].ravel()
    ids = walks[0]  # whatever they are: what it would say is in `blind`
    certain = np.stack(
        [
            YesMan(lambda _, law=law: law).shown(ids, int(token))
            for law, token in zip(blind, tokens, strict=True)
        ]
    )
    found.append(("certain of every draft", certain.astype(np.float32), blind))
    if other is not None:
        of_other = drafted_laws(other, spec, walks, "float32")[1]
        found.append(("of every draft what another model says", of_other, blind))
    return found


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.array([total_variation(Law(a), Law(b)) for a, b in zip(one, other, strict=True)])


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return distances(one, other) > TWICE_DISTANCE


def of_pairs(one: np.ndarray, other: np.ndarray) -> str:
    """Columns of the distance."""
    far = distances(one, other)
    over = far > TWICE_DISTANCE
    record = Record()
    for is_over in over.tolist():
        record = record.after(is_over)
    return (
        f"{len(far):,} | {np.median(far):.4f} | {np.quantile(far, 0.99):.4f} | {far.max():.4f} "
        f"| {over.mean():.1%} | {upper_bound(int(over.sum()), len(far)):.2%} | {record.verdict}"
    )


def of_replay(
    theirs: np.ndarray, float32: np.ndarray, bfloat16: np.ndarray, impostors: list[float]
) -> str:
    """Columns of the ratio: of their laws against ours."""
    ratios = [
        np.array([median_ratio(Law(b), Law(a)) for a, b in zip(ours, theirs, strict=True)])
        for ours in (float32, bfloat16)
    ]
    nearest = min(ratios, key=lambda of: float(np.median(of)))
    rng = np.random.default_rng(1)
    drawn = rng.choice(nearest, (REPLAYS, min(REPLAY_ROWS, len(nearest))))
    cheats = np.mean([replay_verdict(row, impostors) == Verdict.CHEAT for row in drawn])
    return (
        f"{np.median(ratios[0]):.4f} | {np.quantile(ratios[0], 0.99):.4f} "
        f"| {np.median(nearest):.4f} | {replay_verdict(nearest, impostors)} | {cheats:.2%}"
    )


if __name__ == "__main__":
    main()
