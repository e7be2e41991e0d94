"""Adapters of one base and their mixture on text that nothing was trained on, by domain and mixed.

    python benchmarks/lora_table.py BASE CORPORA python=ADAPTER maths=ADAPTER prose=ADAPTER

CORPORA is what `localnet.prepare.prepare_corpora` wrote; the adapters are of
`moesubnet expert train --from BASE --lora`. Cold windows, each token's law given before it was
seen; weights are of `mixture.mixing.Walk`, with the uniform gate that holds before the first sheet
(blind evidence alone tells who knows the text), and with one fit on windows of the validators'
text. Prints Markdown, perplexities.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from moesubnet.mixture.gate import (
    Gate,
    fit_theta,
    initial_features,
    uniform_gate,
    update_features,
)
from moesubnet.mixture.mixing import Walk, log_sum_exp, members_of
from moesubnet.mixture.sheet import MICRO
from moesubnet.spec.documents import read_documents
from moesubnet.types import Hotkey

WINDOW_TOKENS = 128
NOBODY = -1e9  # the law of a member without a part


def windows(path: Path, tokenizer: AutoTokenizer, count: int) -> np.ndarray:
    """Ids [windows, WINDOW_TOKENS] that do not overlap, from all over the documents."""
    found = []
    for document in read_documents(path):
        ids = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        found += [
            ids[at : at + WINDOW_TOKENS]
            for at in range(0, len(ids) - WINDOW_TOKENS + 1, WINDOW_TOKENS)
        ]
    return np.array(found[:: max(1, len(found) // count)][:count], np.uint32)


@torch.inference_mode()
def log_p(model: torch.nn.Module, ids: np.ndarray, bos_id: int) -> np.ndarray:
    """Of each token given those before it [windows, WINDOW_TOKENS]."""
    rows = []
    for window in ids.astype(np.int64):
        logits = model(torch.tensor([[bos_id, *window[:-1]]])).logits[0].float()
        laws = torch.log_softmax(logits, -1)
        rows.append(laws.gather(1, torch.tensor(window)[:, None])[:, 0].numpy())
    return np.array(rows, np.float64)


def fitted(by_member: np.ndarray, ids: np.ndarray) -> Gate:
    """On windows that all members were asked about, each token an item."""
    features, states = initial_features((len(ids),)), []
    for at in range(ids.shape[1]):
        states.append(features)
        features = update_features(features, ids[:, at : at + 1])
    said = np.stack([*by_member, np.full(ids.shape, NOBODY)], -1)
    rows = np.stack(states, 1).reshape(ids.size, -1)
    theta = fit_theta(rows, said.reshape(ids.size, -1))
    return Gate(_names(by_member), theta, (MICRO,) * len(by_member))


def gated(by_member: np.ndarray, ids: np.ndarray, gate: Gate) -> np.ndarray:
    """log p [members, windows, tokens] → of the mixture [windows, tokens]."""
    walk = Walk(gate, members_of(_names(by_member)), len(ids))
    alive = np.ones(len(by_member) + 1, bool)
    alive[-1] = False  # the baseline, a unigram, has no part
    mixed = np.empty(ids.shape)
    for at in range(ids.shape[1]):
        said = np.column_stack([*by_member[:, :, at], np.full(len(ids), NOBODY)])
        mixed[:, at] = log_sum_exp(walk.log_weights(alive) + said)
        walk.observe(ids[:, at], said, blind=alive)
    return mixed


def _names(by_member: np.ndarray) -> tuple[Hotkey, ...]:
    return tuple(Hotkey(f"h{i}") for i in range(len(by_member)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base")
    parser.add_argument("corpora", type=Path)
    parser.add_argument("adapters", nargs="+", help="domain=folder")
    parser.add_argument("--windows", type=int, default=10, help="of each domain")
    parser.add_argument("--fit", type=int, default=40, help="windows of the validators' text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    base = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.bfloat16).eval()
    adapters = dict(text.split("=", 1) for text in arguments.adapters)
    texts = {
        domain: windows(arguments.corpora / "test" / f"{domain}.jsonl", tokenizer,
                        arguments.windows)
        for domain in adapters
    }  # fmt: skip
    heard = windows(arguments.corpora / "validators" / "0.jsonl", tokenizer, arguments.fit)
    asked = {**texts, "": heard}
    by_domain = {d: [log_p(base, ids, tokenizer.bos_token_id)] for d, ids in asked.items()}
    model: torch.nn.Module | None = None
    for name, folder in adapters.items():
        if model is None:
            model = PeftModel.from_pretrained(base, folder, adapter_name=name).eval()
        else:
            model.load_adapter(folder, adapter_name=name)
        model.set_adapter(name)
        for domain, ids in asked.items():
            by_domain[domain].append(log_p(model, ids, tokenizer.bos_token_id))
    rows: dict[str, list[float]] = {}
    gate = fitted(np.stack(by_domain[""]), heard)
    names = ["base", *adapters, "even mixture", "gated, before the first sheet", "gated, fit"]
    for domain, ids in texts.items():
        laws = np.stack(by_domain[domain])
        even = log_sum_exp(laws.transpose(1, 2, 0)) - math.log(len(laws))
        mixed = [gated(laws, ids, one) for one in (uniform_gate(), gate)]
        for name, said in zip(names, [*laws, even, *mixed], strict=True):
            rows.setdefault(name, []).append(-float(said.mean()))
    counts = ", ".join(str(len(ids)) for ids in texts.values())
    print(f"windows of {WINDOW_TOKENS} tokens: {counts}; load {os.getloadavg()[0]:.1f}\n")
    print(f"| | {' | '.join(texts)} | mixed |")
    print("|---" * (len(texts) + 2) + "|")
    for name, losses in rows.items():
        cells = [f"{math.exp(x):.2f}" for x in (*losses, sum(losses) / len(losses))]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
