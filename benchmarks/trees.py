"""Drafts beside each other against drafts in a line: what a tree of drafts gains, and costs.

    python benchmarks/trees.py FOLDER [--student FOLDER] [--texts 4] [--temperatures 1 0]

FOLDER is a local network's (`moesubnet localnet`): its experts, its student, its spec and texts.
Rounds are played by the models themselves, at the same places of texts that the mixture wrote on
from windows of the final test part, with the weights that it had there (a gate that knows nothing):
the student drafts a tree, every expert says its laws at all places of it, and drafts are judged so
that each token has exactly the mixture's law (`judged`).

A shape is a tree, a line among them. First it is measured how often the first, second, third and
fourth draft of a token are kept where those before were not; by these shares the shape of up to
MOST drafts that gives most tokens a second is taken (Chen et al., 2402.12374), of lines and of
trees, and both are played. Only time is a model, and its numbers stand below: no sockets here.

A Markdown table: tokens a round (± a standard error over texts), positions that each expert answers
for a token that is written (all owed), and tokens a second against undrafted, and the tree's
against the line's, compared text by text.
"""

from __future__ import annotations

import argparse
import copy
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from drafting import PROMPT_TOKENS, hotkey_of, windows
from transformers import AutoModelForCausalLM, DynamicCache

from moesubnet.mixture.drafting import Draft, Drawn
from moesubnet.mixture.gate import uniform_gate
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.spec.content import load_spec

WIDEST, MOST = 4, 64  # drafts of one token, and of one round
WRITTEN, EVERY = 96, 4  # tokens of a text, and from one place where rounds are played to the next
ROUND_TRIPS_S = (0.0, 0.04, 0.1, 0.25)
ROUND_S, AFTER_S, BESIDE_S = 0.010, 0.004, 0.001  # a round; a draft after another, or beside one
SEED = 0

Shape = list[tuple[int, int]]  # of each draft: after which it stands (−1: the text), which of them
BESIDE: Shape = [(-1, rank) for rank in range(WIDEST)]


def judged(m: Drawn, drafts: Sequence[Draft]) -> tuple[list[float], Drawn]:
    """How likely each of the drafts of one token becomes it, and what is drawn if none does.

    Each was drawn without those before it, and is judged by what is left of m when these were not
    kept: recursive rejection sampling without replacement (Jeon et al., 2402.14160). A draft
    without a law (`drawn_from` None) may be chosen by anything but m.
    """
    chances, left = [], 1.0
    for draft in drafts:
        kept = draft.kept(m)
        chances.append(left * kept)
        left *= 1.0 - kept
        m = draft.instead(m)
    return chances, m


def drawn_beside(q: Drawn, count: int, rng: np.random.Generator) -> list[Draft]:
    """Drafts of one token, one after the other without replacement, as far as there are any."""
    drafts: list[Draft] = []
    while len(drafts) < count and q.probs.any():
        drafts.append(Draft(q.draw(rng), q))
        q = without(q, drafts[-1].token_id)
    return drafts


def without(q: Drawn, token_id: int) -> Drawn:
    """What is drawn where this token is not; nothing (all zero) if it was the last one."""
    probs = np.where(np.arange(len(q.probs)) == token_id, 0.0, q.probs)
    return Drawn(probs / probs.sum() if probs.any() else probs)


def grown(kept: Sequence[float], size: int, widest: int = WIDEST) -> tuple[Shape, list[float]]:
    """The tree of so many drafts that keeps most, and the chance of each to be kept.

    kept: of the first, second, … draft of a token, where those before it were not.
    """
    shape: Shape = []
    chances: list[float] = []
    nexts = [(-kept[0], -1, 0, 1.0)]  # chance, after which, which of its drafts, left before it
    while len(shape) < size:
        chance, after, rank, left = heapq.heappop(nexts)
        shape.append((after, rank))
        chances.append(-chance)
        heapq.heappush(nexts, (chance * kept[0], len(shape) - 1, 0, -chance))
        left *= 1.0 - kept[rank]
        if rank + 1 < min(widest, len(kept)):
            heapq.heappush(nexts, (-left * kept[rank + 1], after, rank + 1, left))
    return shape, chances


def depth(shape: Shape) -> int:
    levels: list[int] = []
    for after, _ in shape:
        levels.append(1 + (levels[after] if after >= 0 else 0))
    return max(levels, default=0)


def round_s(shape: Shape, round_trip_s: float) -> float:
    after = depth(shape)
    return ROUND_S + round_trip_s + AFTER_S * after + BESIDE_S * (len(shape) - after)


def best(kept: Sequence[float], round_trip_s: float, widest: int) -> Shape:
    """Of all sizes, the shape that promises most tokens a second."""
    shapes = [grown(kept, size, widest) for size in range(MOST + 1)]
    return max(shapes, key=lambda s: (1.0 + sum(s[1])) / round_s(s[0], round_trip_s))[0]


class Held:
    """A model and the keys and values of a text that only grows."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.begin()

    def begin(self) -> None:
        self._cache, self._length = DynamicCache(), 0

    @torch.inference_mode()
    def laws(self, text: Sequence[int], paths: Sequence[Sequence[int]]) -> np.ndarray:
        """Log-probabilities after the text and after each token of each path that goes on from it:
        float64 [paths, 1 + longest, V]."""
        new = list(text[self._length : -1])
        if new:
            self._model(torch.tensor([new]), past_key_values=self._cache, use_cache=True)
            self._length += len(new)
        longest = max(map(len, paths))
        rows = [[text[-1], *path, *[0] * (longest - len(path))] for path in paths]
        cache = copy.deepcopy(self._cache)
        if self._length:
            cache.batch_repeat_interleave(len(rows))
        logits = self._model(torch.tensor(rows), past_key_values=cache, use_cache=True).logits
        return torch.log_softmax(logits.double(), -1).numpy()


def drafted(
    student: Held, text: Sequence[int], shape: Shape, temperature: float, rng: np.random.Generator
) -> dict[int, tuple[list[int], list[Draft]]]:
    """Of the text (−1) and of each draft by its place in the shape: the tokens from the text to
    it, and what is drafted after it. Without what a law of few tokens has no draft for."""

    def beside(path: list[int], count: int) -> list[Draft]:
        log_q = student.laws(text, [path])[0, -1]
        if temperature == 0.0:  # the likeliest: a law of one token gives no others
            return [Draft(int(token)) for token in np.argsort(-log_q)[:count]]
        return drawn_beside(Drawn.of(log_q, None, temperature, 1.0), count, rng)

    found: dict[int, tuple[list[int], list[Draft]]] = {}
    for place, (after, rank) in enumerate([(-1, 0), *shape], -1):
        path: list[int] = []
        if place >= 0:
            before, drafts = found.get(after, ([], []))
            if rank >= len(drafts):
                continue
            path = [*before, drafts[rank].token_id]
        wanted = sum(of == place for of, _ in shape)
        found[place] = path, beside(path, wanted) if wanted else []
    return found


@dataclass
class Round:
    """tokens: written. outcomes: of each with drafts, which was kept (−1: none), of how many.
    log_p: what each model says of the last token."""

    tokens: list[int]
    outcomes: list[tuple[int, int]]
    log_p: np.ndarray


def played(
    models: Sequence[Held],
    text: Sequence[int],
    log_w: np.ndarray,
    shape: Shape,
    temperature: float,
    rng: np.random.Generator,
) -> Round:
    """One round after the text. models: the experts, and the student last. log_w: their weights."""
    found = drafted(models[-1], text, shape, temperature, rng)
    order, paths = list(found), [path for path, _ in found.values()]
    said = np.stack([model.laws(text, paths) for model in models])
    place, outcomes = -1, list[tuple[int, int]]()
    while True:
        path, drafts = found[place]
        log_p = said[:, order.index(place), len(path)]
        m = Drawn.of(np.logaddexp.reduce(log_w[:, None] + log_p), None, temperature, 1.0)
        chances, rest = judged(m, drafts)
        kept = int(np.searchsorted(np.cumsum(chances), rng.random(), side="right"))
        is_kept = kept < len(drafts)
        token = drafts[kept].token_id if is_kept else rest.draw(rng)
        if drafts:
            outcomes.append((kept if is_kept else -1, len(drafts)))
        if not is_kept:
            return Round([*path, token], outcomes, log_p[:, token])
        place = shape.index((place, kept))


@dataclass
class Text:
    """Of the mixture, undrafted. places: how long it was, and the models' log weights then."""

    ids: list[int]
    places: list[tuple[int, np.ndarray]]


def write(
    models: Sequence[Held], prompt: np.ndarray, temperature: float, rng: np.random.Generator
) -> tuple[Text, list[tuple[int, int]]]:
    """A text, and what became of WIDEST drafts beside each other at its places."""
    for model in models:
        model.begin()
    members = members_of([hotkey_of(str(k)) for k in range(len(models) - 1)])
    text, walk, outcomes = Text(prompt.tolist(), []), Walk(uniform_gate(), members), []
    walk.show(prompt[None])
    for count in range(WRITTEN):
        log_w = walk.log_weights()[0]
        if count % EVERY == 0:
            text.places.append((len(text.ids), log_w))
            outcomes += played(models, text.ids, log_w, BESIDE, temperature, rng).outcomes
        written = played(models, text.ids, log_w, [], temperature, rng)
        text.ids += written.tokens
        walk.observe(np.array(written.tokens), written.log_p[None])
    return text, outcomes


def tokens_a_round(
    models: Sequence[Held],
    texts: Sequence[Text],
    shape: Shape,
    temperature: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """One round at each place of the texts: the mean of each text."""
    means = []
    for text in texts:
        for model in models:
            model.begin()
        rounds = [
            played(models, text.ids[:length], log_w, shape, temperature, rng)
            for length, log_w in text.places
        ]
        means.append(np.mean([len(one.tokens) for one in rounds]))
    return np.array(means)


def of_texts(values: np.ndarray) -> str:
    """Their mean, and its standard error."""
    return f"{values.mean():.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"


def shares(outcomes: Sequence[tuple[int, int]]) -> list[float]:
    """How often the first, second, … draft of a token was kept where those before it were not."""
    found = []
    for rank in range(WIDEST):
        judged_ones = [kept for kept, count in outcomes if rank < count and not 0 <= kept < rank]
        found.append(float(np.mean([kept == rank for kept in judged_ones])) if judged_ones else 0.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--student", type=Path, help="by default FOLDER/student")
    parser.add_argument("--texts", type=int, default=4, help="of each domain")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.7, 0.0])
    arguments = parser.parse_args()
    root = arguments.folder.expanduser()
    spec, experts = load_spec(root / "spec"), sorted((root / "experts").iterdir())
    models = [Held(path) for path in (*experts, arguments.student or root / "student")]
    prompts = [
        ids[:PROMPT_TOKENS]
        for of_domain in windows(root, spec, arguments.texts).values()
        for ids in of_domain
    ]
    head = ["temperature", "kept", "round trip", "shape", "tokens a round", "owed a token"]
    print(f"| {' | '.join([*head, 'speed', 'beside the line'])} |\n{'|---' * 8}|")
    for temperature in arguments.temperatures:
        rng = np.random.default_rng(SEED)
        written = [write(models, prompt, temperature, rng) for prompt in prompts]
        kept = shares([outcome for _, outcomes in written for outcome in outcomes])
        texts, known = [text for text, _ in written], dict[str, np.ndarray]()
        for round_trip_s in ROUND_TRIPS_S:
            line = np.zeros(0)  # tokens a second, of each text
            for name, widest in {"line": 1, "tree": WIDEST}.items():
                shape = best(kept, round_trip_s, widest)
                if str(shape) not in known:
                    known[str(shape)] = tokens_a_round(models, texts, shape, temperature, rng)
                tokens = known[str(shape)]
                rate = tokens / round_s(shape, round_trip_s)
                line = line if len(line) else rate
                cells = [
                    f"{temperature}",
                    ", ".join(f"{share:.2f}" for share in kept),
                    f"{round_trip_s * 1e3:.0f} ms",
                    f"{name} of {len(shape)}, {depth(shape)} deep",
                    of_texts(tokens),
                    f"{(1 + len(shape)) / tokens.mean():.1f}",
                    f"{rate.mean() * round_s([], round_trip_s):.2f}×",
                    of_texts(rate / line.mean() - line / line.mean() + 1.0),  # text by text
                ]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
