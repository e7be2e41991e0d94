"""Adapters of one base and their mixture on text that nothing was trained on, by domain and mixed.

    python benchmarks/lora_table.py BASE CORPORA python=ADAPTER maths=ADAPTER prose=ADAPTER

CORPORA is what `localnet.prepare.prepare_corpora` wrote; the adapters are of
`moesubnet expert train --from BASE --lora`. Of the validators' private text every other document is
judged, in cold windows, each token's law given before it was seen; weights are of
`mixture.mixing.Walk`, with the uniform gate that holds before the first sheet (blind evidence alone
tells who knows the text), and with one fit on walks through the other documents, as sheets hold
them: a prefix of some length and the 16 tokens after it. Prints Markdown, perplexities, and how the
mixtures stand to each domain's own adapter.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterable, Mapping, Sequence
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
from moesubnet.spec.documents import Document, read_documents
from moesubnet.types import Hotkey

WINDOW_TOKENS = 256
WALK_TOKENS, STEPS, LEAST_PREFIX = 128, 16, 4
NOBODY = -1e9  # the law of a member without a part


def windows(
    documents: Iterable[Document], tokenizer: AutoTokenizer, tokens: int, count: int
) -> np.ndarray:
    """Ids [windows, tokens] that do not overlap, from all over the documents."""
    found = []
    for document in documents:
        ids = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        found += [ids[at : at + tokens] for at in range(0, len(ids) - tokens + 1, tokens)]
    return np.array(found[:: max(1, len(found) // count)][:count], np.uint32)


@torch.inference_mode()
def log_p(
    model: torch.nn.Module, texts: Sequence[np.ndarray], kept: int, bos_id: int
) -> np.ndarray:
    """Of each of the last `kept` tokens given those before it [texts, kept]."""
    rows = []
    for text in texts:
        ids = text.astype(np.int64)
        logits = model(torch.tensor([[bos_id, *ids[:-1]]]), logits_to_keep=kept).logits[0].float()
        laws = torch.log_softmax(logits, -1)
        rows.append(laws.gather(1, torch.tensor(ids[-kept:])[:, None])[:, 0].numpy())
    return np.array(rows, np.float64)


def fitted(by_member: np.ndarray, walks: Sequence[np.ndarray]) -> Gate:
    """On walks of whose last STEPS tokens all were asked: log p [members, walks, STEPS]."""
    rows = []
    for ids in walks:
        features = update_features(initial_features((1,)), ids[None, :-STEPS])
        for token in ids[-STEPS:]:
            rows.append(features[0])
            features = update_features(features, np.array([[token]]))
    said = np.stack([*by_member, np.full(by_member.shape[1:], NOBODY)], -1)
    theta = fit_theta(np.stack(rows), said.reshape(len(rows), -1))
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
    parser.add_argument("--windows", type=int, default=30, help="of each domain")
    parser.add_argument("--walks", type=int, default=480, help="that the gate is fit on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    base = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.bfloat16).eval()
    adapters = dict(text.split("=", 1) for text in arguments.adapters)
    private = list(read_documents(arguments.corpora / "validators" / "0.jsonl"))
    of = {domain: [d for d in private if d.domain == domain] for domain in adapters}
    texts = {
        domain: windows(of[domain][::2], tokenizer, WINDOW_TOKENS, arguments.windows)
        for domain in adapters
    }
    each = arguments.walks // len(adapters)
    heard = np.concatenate(
        [windows(of[domain][1::2], tokenizer, WALK_TOKENS, each) for domain in adapters]
    )
    prefixes = np.random.default_rng(0).integers(LEAST_PREFIX, WALK_TOKENS - STEPS, len(heard))
    walks = [ids[: prefix + STEPS] for ids, prefix in zip(heard, prefixes, strict=True)]

    def said_by(model: torch.nn.Module) -> tuple[dict[str, np.ndarray], np.ndarray]:
        judged = {
            domain: log_p(model, list(ids), WINDOW_TOKENS, tokenizer.bos_token_id)
            for domain, ids in texts.items()
        }
        return judged, log_p(model, walks, STEPS, tokenizer.bos_token_id)

    said = [said_by(base)]
    model: torch.nn.Module | None = None
    for name, folder in adapters.items():
        if model is None:
            model = PeftModel.from_pretrained(base, folder, adapter_name=name).eval()
        else:
            model.load_adapter(folder, adapter_name=name)
        model.set_adapter(name)
        said.append(said_by(model))
    gate = fitted(np.stack([walked for _, walked in said]), walks)
    laws = {domain: np.stack([judged[domain] for judged, _ in said]) for domain in texts}
    print(table(laws, texts, gate))


def table(laws: Mapping[str, np.ndarray], texts: Mapping[str, np.ndarray], gate: Gate) -> str:
    """Markdown. laws: log p [base and adapters, windows, tokens] by domain."""
    rows: dict[str, list[float]] = {}
    names = ["base", *texts, "even mixture", "gated, before the first sheet", "gated, fit"]
    beside = []
    for own, (domain, ids) in enumerate(texts.items(), start=1):
        said = laws[domain]
        even = log_sum_exp(said.transpose(1, 2, 0)) - math.log(len(said))
        mixed = [gated(said, ids, one) for one in (uniform_gate(), gate)]
        for name, by_token in zip(names, [*said, even, *mixed], strict=True):
            rows.setdefault(name, []).append(-float(by_token.mean()))
        more = said[own] - mixed[-1]  # nats that the mixture loses to the domain's own adapter
        error = more.mean(1).std() / math.sqrt(len(more))
        beside.append(
            f"{domain} {more.mean():+.4f} ± {error:.4f} "
            f"(first 32 tokens {more[:, :32].mean():+.4f}, then {more[:, 32:].mean():+.4f})"
        )
    counts = ", ".join(str(len(ids)) for ids in texts.values())
    lines = [
        f"windows of {WINDOW_TOKENS} tokens: {counts}; load {os.getloadavg()[0]:.1f}",
        "",
        f"| | {' | '.join(texts)} | mixed |",
        "|---" * (len(texts) + 2) + "|",
    ]
    for name, losses in rows.items():
        cells = [f"{math.exp(x):.2f}" for x in (*losses, sum(losses) / len(losses))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "gated, fit, nats a token above each domain's own: " + "; ".join(beside)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
