"""What a JSON schema costs the router a token, beside what a token of the mixture costs it anyway.

One stream, four experts and the baseline, laws as values (the router's own mixing and drawing; no
network, no signatures, no engine): with and without a grammar, taking turns in one process. The
vocabulary is made up: all bytes, words of lower-case letters, and a tenth of JSON's punctuation.
Prints one Markdown table of CPU ms, means over all tokens; the first use of a grammar is apart.

    python benchmarks/grammar.py

What a real model's answers are and how fast is in schemas.py.
"""

from __future__ import annotations

import asyncio
import platform
import time

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from moesubnet.mixture.law import Law, Mixture, mix
from moesubnet.router.grammar import Grammars, Matcher, json_rule
from moesubnet.router.steering import NO_WISHES, Steering
from moesubnet.spec.content import Spec, spec_files
from moesubnet.spec.pieces import Pieces

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


async def main() -> None:
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
