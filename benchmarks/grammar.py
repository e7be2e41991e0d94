"""What a JSON schema costs the router a token, beside what a token of the mixture costs it anyway.

One stream, four experts and the baseline, laws as values (the router's own mixing and drawing; no
network, no signatures, no engine): with and without a grammar, taking turns in one process. The
vocabulary is made up: all bytes, words of lower-case letters, and a tenth of JSON's punctuation.
Prints one Markdown table of CPU ms, means over all tokens; the first use of a grammar is apart.

    python benchmarks/grammar.py
    python benchmarks/grammar.py --spec FOLDER --model FOLDER

The second: a model of yours writes an answer to each of some drawn schemas, mixed with the
baseline; CPU of the schema beside the model's own, and how many answers parse.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import time
from pathlib import Path
from unittest import mock

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from moesubnet.engine.base import Query
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.law import Law, Mixture, law_of, mix
from moesubnet.router import grammar
from moesubnet.router.grammar import Grammars, Matcher, json_rule
from moesubnet.router.steering import NO_WISHES, Steering
from moesubnet.spec.content import Spec, load_spec, spec_files
from moesubnet.spec.pieces import Pieces
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.wire.protocol import want_for

EXPERTS, TOKENS, TEXTS, SEED = 4, 120, 12, 0
VOCABS = (2_048, 151_936)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "about": {"type": "string"},
        "numbers": {"type": "array", "items": {"type": "number"}},
        "kind": {"enum": ["one", "two", "three"]},
    },
    "required": ["name", "about", "numbers", "kind"],
    "additionalProperties": False,
}


def made_up(size: int, rng: np.random.Generator) -> Tokenizer:
    """A byte-level tokenizer of so many tokens; 0 ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {"<|end|>": 0} | {symbol: 1 + i for i, symbol in enumerate(alphabet)}
    while len(words) < size:
        letters = "{}[]:,0123456789" if rng.random() < 0.1 else "abcdefghijklmnopqrstuvwxyzĠ"
        word = "".join(rng.choice(list(letters), int(rng.integers(2, 9))))
        words.setdefault(word, len(words))
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


def laws(size: int, rng: np.random.Generator) -> list[Law]:
    """Of the experts, and last the baseline's."""
    base = Law(np.log(rng.dirichlet(np.ones(size)) + 1e-9).astype(np.float32))
    if size <= 8_192:
        rows = rng.dirichlet(np.full(size, 0.05), EXPERTS) + 1e-9
        return [*(Law(np.log(row).astype(np.float32)) for row in rows), base]
    found = []
    for _ in range(EXPERTS):
        ids = np.unique(np.concatenate([rng.choice(300, 150), rng.choice(size, 300)]))
        p = rng.dirichlet(np.full(len(ids) + 1, 0.3)) + 1e-9
        found.append(Law(np.log(p[:-1]).astype(np.float32), ids, float(p[-1]), base))
    return [*found, base]


def write(steps: list[list[Law]], matcher: Matcher | None, seed: int) -> tuple[int, float, int]:
    """(tokens, CPU s, tokens drawn from the baseline alone) of one text."""
    rng, steering, fallbacks = np.random.default_rng(seed), Steering(NO_WISHES, matcher), 0
    log_w = np.log(np.full(EXPERTS + 1, 1.0 / (EXPERTS + 1)))
    since_s = time.process_time()
    for count in range(1, TOKENS + 1):
        mixture: Mixture = mix(log_w, steps[count % len(steps)])
        shaped = steering.shaped(mixture)
        steering.push(shaped.draw(1.0, 1.0, rng))
        fallbacks += shaped.is_fallback
        if steering.is_over:
            break
    return count, time.process_time() - since_s, fallbacks


async def measure(size: int) -> str:
    rng = np.random.default_rng(SEED)
    tokenizer = made_up(size, rng)
    spec = Spec(
        name="made up",
        vocab_size=size,
        bos_id=0,
        stop_ids=(0,),
        context_tokens=1_024,
        chat_template="",
        min_caller_stake_rao=0,
        **spec_files(None),
    )
    grammars = Grammars(spec, tokenizer, Pieces(tokenizer))
    since_s = time.process_time()
    await grammars.matcher('start: "a"', "x")
    vocabulary_s = time.process_time() - since_s
    rules, since_s = "start: " + json_rule(SCHEMA, "x"), time.process_time()
    await grammars.matcher(rules, "x")
    compile_ms = (time.process_time() - since_s) * 1e3
    steps = [laws(size, rng) for _ in range(40)]
    totals = {False: [0, 0.0, 0], True: [0, 0.0, 0]}
    write(steps, await grammars.matcher(rules, "x"), SEED)  # warm
    for text in range(TEXTS):
        for with_grammar in (False, True):
            matcher = await grammars.matcher(rules, "x") if with_grammar else None
            for place, part in enumerate(write(steps, matcher, text)):
                totals[with_grammar][place] += part
    (plain_n, plain_s, _), (n, s, fallbacks) = totals[False], totals[True]
    return (
        f"| {size:,} | {plain_s / plain_n * 1e3:.3f} | {s / n * 1e3:.3f} | "
        f"{(s / n - plain_s / plain_n) * 1e3:+.3f} | {fallbacks / n:.1%} | {compile_ms:.1f} | "
        f"{vocabulary_s:.2f} |"
    )


def drawn_schema(rng: np.random.Generator) -> dict[str, object]:
    """Nobody chose it: an object of one to four keys."""
    kinds: list[dict[str, object]] = [
        {"type": "string"},
        {"type": "integer"},
        {"type": "boolean"},
        {"type": "array", "items": {"type": "number"}},
        {"enum": ["red", "green", "blue"]},
    ]
    words = rng.permutation(["name", "age", "colour", "is_new", "scores", "city", "note"])
    keys = [str(word) for word in words[: rng.integers(1, 5)]]
    named = {key: kinds[rng.integers(len(kinds))] for key in keys}
    return {
        "type": "object",
        "properties": named,
        "required": keys,
        "additionalProperties": False,
    }


async def real(spec_dir: Path, model: str, schemas: int) -> None:
    """See the module."""
    from moesubnet.engine.transformers_engine import TransformersEngine

    spec, rng = load_spec(spec_dir), np.random.default_rng(SEED)
    tokenizer, base = load_tokenizer(spec.tokenizer_path), load_baseline(spec).law
    engine, grammars = (
        TransformersEngine(model, spec),
        Grammars(spec.spec, tokenizer, Pieces(tokenizer)),
    )
    want, log_w = want_for(spec.spec.vocab_size), np.log([0.95, 0.05])
    cpu_s, tokens, whole, parse = np.zeros(3), 0, 0, 0
    for place in range(schemas):
        schema = drawn_schema(rng)
        steering = Steering(
            NO_WISHES, await grammars.matcher("start: " + json_rule(schema, "x"), "x")
        )
        ids = tokenizer.encode(f"{json.dumps(schema)}\n\nA JSON object of this schema:\n").ids
        prompt = len(ids)
        while len(ids) - prompt < TOKENS and not steering.is_over:
            marks = [time.process_time()]
            (rows,) = engine.rows([Query(f"{place}", np.array(ids, np.uint32), len(ids))], want)
            marks.append(time.process_time())
            mixture = mix(log_w, [law_of(rows, 0, base), base])
            mixture.draw(1.0, 1.0, rng)
            marks.append(time.process_time())
            shaped = steering.shaped(mixture)
            ids.append(shaped.draw(0.7, 1.0, rng))
            steering.push(ids[-1])
            marks.append(time.process_time())
            if len(ids) > prompt + 1:  # not the prompt's
                cpu_s, tokens = cpu_s + np.diff(marks), tokens + 1
        whole += steering.is_over
        if steering.is_over:
            stops = set(spec.spec.stop_ids)
            with contextlib.suppress(ValueError):
                json.loads(tokenizer.decode([i for i in ids[prompt:] if i not in stops]))
                parse += 1
    mine, mixing, steered = cpu_s / tokens * 1e3
    load = os.getloadavg()[0]
    print(
        f"V = {spec.spec.vocab_size:,}, {tokens} tokens, load {load:.1f}; CPU ms a token: the model"
    )
    print(f"{mine:.1f}, mixing and drawing {mixing:.2f}, drawing with the schema {steered:.2f}")
    print(
        f"{schemas} schemas: {whole} answers whole, of which {parse} parse; {schemas - whole} cut"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--schemas", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.model:
        with mock.patch.object(grammar, "PATIENCE_S", 600.0):  # a machine may be busy
            await real(arguments.spec, arguments.model, arguments.schemas)
        return
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    print(
        "| V | mixing and drawing, ms a token | with the schema | the schema's part | "
        "tokens of the baseline alone | compiling the schema, ms | reading the vocabulary, s |"
    )
    print("|---|---|---|---|---|---|---|")
    for size in VOCABS:
        print(await measure(size))


if __name__ == "__main__":
    asyncio.run(main())
