"""What users' own words, and the tokens that the mixture draws for them, tell of an expert's law.

    python benchmarks/record_laws.py FOLDER          # once
    python benchmarks/users_words.py FOLDER [--splits 4] [--least 0.5]

A router asks blind for the last two tokens of a prompt, which its user wrote, and for each token of
the answer, which it draws. Could it hold against an expert there that it says another thing to
users than to probes? On recorded laws: gates are fit on half of the walks; of the other half each
is a user's prompt, and its first two scored tokens are the user's words. Text that is unlike
probes' is a domain of which no expert is there and the gate has seen nothing.

First table, by the expert's weight w at these two places, over b the baseline, m the mixture:
users' words: Σ w (ln q − ln b) / Σ w of what the user wrote; drawn: the same, and of ln q − ln m,
where the token is m's (exact expectations); shape: KL(q, b), which is the first of these where
what is drawn is credited to whoever said it. lost: nats a token that the mixture lacks on sixteen
tokens, where this law is in the expert's place.

--least: only texts in which the gate alone gives the expert so much of the weight, before any word.

Second table: what two rules would take of its reliability, where users write as much as one likes.
alone: 1 − (users' words) / (probes'), median: less what the median expert has of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cast import SPECIALISTS, Recordings

from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.mixture.gate import Gate, fit_theta, initial_features, update_features
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.mixture.sheet import MICRO
from moesubnet.spec.documents import read_documents
from moesubnet.spec.tokenizer import load_tokenizer
from moesubnet.training.dataset import encode
from moesubnet.types import Hotkey
from moesubnet.validator.pool import PREFIX_TOKENS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from adversaries.ngram_cache import NgramCache

Float = npt.NDArray[np.float64]
ELSEWHERE = 7  # walks on, for a law of another place
CHEAP = ("the baseline's", "an n-gram cache's", "its own of another place")
NAMES = tuple(sorted(SPECIALISTS))


@dataclass(frozen=True)
class Text:
    """ids u32 [N, T], laws float16 by expert and kind of cheap law [N, T − prefix, V], domain [N],
    the baseline's law [V]."""

    ids: npt.NDArray[np.uint32]
    laws: Mapping[str, npt.NDArray[np.float16]]
    domain: npt.NDArray[np.intp]
    base: Float

    def said(self, law: npt.NDArray[np.float16], of: npt.NDArray[np.intp]) -> Float:
        """Of the labels of some walks, [n, labels]."""
        labels = self.ids[of, PREFIX_TOKENS:].astype(np.intp)
        return np.take_along_axis(law[of], labels[..., None], 2)[..., 0].astype(np.float64)

    def log_q(self, names: Sequence[str], of: npt.NDArray[np.intp], **instead: str) -> Float:
        """[n, labels, experts + 1]. instead: another law in an expert's place."""
        said = [self.said(self.laws[instead.get(name, name)], of) for name in names]
        return np.stack([*said, self.base[self.ids[of, PREFIX_TOKENS:]]], axis=2)


def load(recorded: Recordings) -> Text:
    ids, base = recorded.walks, np.asarray(recorded.baseline.logp, np.float64)
    laws = {name: np.load(recorded.path(name), mmap_mode="r") for name in NAMES}
    ngrams = NgramCache(recorded.public_ids(), recorded.spec.spec.vocab_size)
    shape = (len(ids), ids.shape[1] - PREFIX_TOKENS)
    counted = np.array(
        [[ngrams(walk[: PREFIX_TOKENS + k]) for k in range(shape[1])] for walk in ids], np.float16
    )
    cheap = {
        CHEAP[0]: np.broadcast_to(base.astype(np.float16), (*shape, len(base))),
        CHEAP[1]: counted,
        **{f"{CHEAP[2]}:{name}": np.roll(law, ELSEWHERE, axis=0) for name, law in laws.items()},
    }
    return Text(ids, laws | cheap, domains(recorded), base)


def domains(recorded: Recordings) -> npt.NDArray[np.intp]:
    """Of which kind each walk's document is."""
    tokenizer = load_tokenizer(recorded.spec.tokenizer_path)
    texts = defaultdict(list)
    for path in sorted((recorded.root / "corpora/validators").glob("*.jsonl")):
        kinds = [json.loads(line)["domain"] for line in path.read_text().splitlines()]
        for kind, document in zip(kinds, read_documents(path), strict=True):
            texts[kind] += encode([document.text], tokenizer)
    known = {name: [np.asarray(ids, "<u4").tobytes() for ids in texts[name]] for name in NAMES}
    found = []
    for walk in recorded.walks:
        part = np.asarray(walk[1:], "<u4").tobytes()
        found.append([any(part in text for text in known[name]) for name in NAMES].index(True))
    return np.array(found)


def gate_of(text: Text, names: Sequence[str], of: npt.NDArray[np.intp]) -> Gate:
    log_q, features = text.log_q(names, of), initial_features((len(of),))
    features = update_features(features, text.ids[of, :PREFIX_TOKENS])
    prefixes = []
    for k in range(log_q.shape[1]):
        prefixes.append(features)
        features = update_features(features, text.ids[of, PREFIX_TOKENS + k, None])
    theta = fit_theta(np.concatenate(prefixes), np.concatenate(list(log_q.swapaxes(0, 1))))
    return Gate(tuple(Hotkey(name) for name in names), theta, (MICRO,) * len(names))


def weights(
    gate: Gate, text: Text, of: npt.NDArray[np.intp], names: Sequence[str], log_q: Float
) -> Float:
    """[n, labels, experts + 1], before each label, of these experts."""
    walk = Walk(gate, members_of([Hotkey(name) for name in names]), len(of))
    walk.show(text.ids[of, :PREFIX_TOKENS])
    found = []
    for k in range(log_q.shape[1]):
        found.append(np.exp(walk.log_weights()))
        walk.observe(text.ids[of, PREFIX_TOKENS + k], log_q[:, k])
    return np.stack(found, axis=1)


def seen(
    gate: Gate,
    text: Text,
    of: npt.NDArray[np.intp],
    name: str,
    cheap: str = "",
    *,
    least: float,
    whole: bool,
) -> dict[str, float]:
    """What is told of one expert on these walks, of those in which its weight was `least` before
    any word. cheap: the law that it gives there. whole: also of what is drawn."""
    names, cut = list(gate.hotkeys), slice(0, BLIND_PROMPT_TOKENS)
    law = f"{cheap}:{name}" if cheap == CHEAP[2] else cheap or name
    log_q = text.log_q(names, of, **{name: law})
    w, column = weights(gate, text, of, names, log_q), names.index(Hotkey(name))
    mine = np.where(w[:, :1, column] >= least, w[:, cut, column], 0.0)

    def mean(x: Float) -> float:
        return float((mine * x).sum() / max(mine.sum(), 1e-9))

    told = {
        "weight": float(mine.mean()),
        "users": mean(log_q[:, cut, column] - log_q[:, cut, -1]),
        "nats": nats(w, log_q),
    }
    if not whole:
        return told
    laws = [text.laws[law if n == name else n][of, cut].astype(np.float64) for n in names]
    own, base = laws[column], text.base
    parts = np.stack([*laws, np.broadcast_to(base, own.shape)], axis=2)
    mixed = np.einsum("nke,nkev->nkv", w[:, cut], np.exp(parts))
    return told | {
        "drawn": mean((mixed * (own - base)).sum(axis=2)),
        "to_mixture": mean((mixed * (own - np.log(mixed))).sum(axis=2)),
        "shape": mean((np.exp(own) * (own - base)).sum(axis=2)),
    }


def nats(w: Float, log_q: Float) -> float:
    return float(np.log((w * np.exp(log_q)).sum(axis=2)).mean())


def nats_without(gate: Gate, text: Text, of: npt.NDArray[np.intp], name: str) -> float:
    """What the mixture of the others gives to a token."""
    others = [hotkey for hotkey in gate.hotkeys if hotkey != name]
    log_q = text.log_q(others, of)
    return nats(weights(gate, text, of, others, log_q), log_q)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--splits", type=int, default=4, help="of the walks, at random")
    parser.add_argument("--least", type=float, default=0.0, help="weight by the gate alone")
    arguments = parser.parse_args()
    least = arguments.least
    text = load(Recordings(arguments.folder.expanduser()))
    rows: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    users: dict[tuple[str, str, str], list[dict[str, float]]] = defaultdict(list)  # who, where, law
    for split in range(arguments.splits):
        order = np.random.default_rng(split).permutation(len(text.ids))
        fit, rest = np.array_split(order, 2)
        gate = gate_of(text, NAMES, fit)
        for name in NAMES:
            is_own = text.domain[rest] == NAMES.index(name)
            own = seen(gate, text, rest[is_own], name, least=least, whole=True)
            for law in ("", *CHEAP):
                told = seen(gate, text, rest[is_own], name, law, least=least, whole=True)
                rows[name, law].append(told | {"lost": own["nats"] - told["nats"]})
            without = nats_without(gate, text, rest[is_own], name)
            rows[name, "silence"].append({"lost": own["nats"] - without})
            for law in ("", *CHEAP[:2]):
                told = seen(gate, text, rest, name, law, least=least, whole=False)
                users[name, "as probes", law].append(told)
                for k, kind in enumerate(NAMES):
                    of = rest[text.domain[rest] == k]
                    told = seen(gate, text, of, name, law, least=least, whole=False)
                    users[name, f"only {kind}", law].append(told)
        for k, unseen in enumerate(NAMES):
            names = [name for name in NAMES if name != unseen]
            other = gate_of(text, names, fit[text.domain[fit] != k])
            for name in names:
                is_new = text.domain[rest] == k
                rows[name, f"unseen {unseen}"].append(
                    seen(other, text, rest[is_new], name, least=least, whole=True)
                )
                for law in ("", *CHEAP[:2]):
                    new, known = (
                        seen(other, text, rest[which], name, law, least=least, whole=False)
                        for which in (is_new, ~is_new)
                    )
                    users[name, f"unseen {unseen}", law].append(new)
                    users[name, f"half of it unseen {unseen}", law] += [new, known]
    show_laws(rows)
    show_rules(users)


def show_laws(rows: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]) -> None:
    print("| expert | law | weight | users' words | drawn, − ln b | drawn, − ln m | shape | lost |")
    print("|---|---|---|---|---|---|---|---|")
    keys = ("weight", "users", "drawn", "to_mixture", "shape", "lost")
    for name, law in sorted(rows):
        told = {key: [row[key] for row in rows[name, law] if key in row] for key in keys}
        shown = [f"{np.mean(found):.2f}" if found else "–" for found in told.values()]
        where = f"its own, text {law}" if law.startswith("unseen") else law or "its own"
        print(f"| {name} | {where} | " + " | ".join(shown) + " |")


def show_rules(users: Mapping[tuple[str, str, str], Sequence[Mapping[str, float]]]) -> None:
    def words(name: str, where: str, law: str = "") -> float:
        rows = users[name, where, law]
        total = sum(row["weight"] for row in rows)
        return sum(row["weight"] * row["users"] for row in rows) / total if total else np.nan

    part = {
        (name, where, law): words(name, where, law) / words(name, "as probes")
        for name, where, law in users
    }
    print(f"\n| users write | rule | honest | {' | '.join(CHEAP[:2])} |\n|---|---|---|---|---|")
    for where in sorted({where for _, where, _ in part}):
        there = [name for name in NAMES if (name, where, "") in part]
        honest = [part[name, where, ""] for name in there]
        for rule in ("alone", "median"):
            shown = []
            for law in ("", *CHEAP[:2]):
                losses = []
                for k, name in enumerate(there):
                    mine = part[name, where, law]
                    usual = float(np.nanmedian([*honest[:k], mine, *honest[k + 1 :]]))
                    loss = (1.0 if rule == "alone" else usual) - mine
                    losses.append("–" if np.isnan(loss) else f"{min(max(loss, 0.0), 1.0):.0%}")
                shown.append(", ".join(losses))
            print(f"| {where} ({', '.join(there)}) | {rule} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
