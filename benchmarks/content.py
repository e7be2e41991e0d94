"""What the text of a prompt alone tells a miner of whose it is, before it is scored on anything.

    python benchmarks/content.py LOCALNET [--sessions 6000]

LOCALNET: a localnet's folder, with its spec and corpora. Walks' prompts are drawn from the text of
its validator 0, at places where windows begin, users' from that of validator 1: other documents of
the same kinds, as nobody's users are there. A logistic regression over hashed one-, two- and
three-grams of tokens, the first four of them with their places, learns on sessions of half of the
documents, and is judged on those of the others. As long as each other, so length tells nothing.

Users are `inside` (they begin anywhere, as walks do: what the other documents alone tell), `begun`
(at the beginning of a paragraph, as people do) or `chat` (the same under the spec's template). Last
the validator's text is chats too (`both chat`), as where its private text was written in the
template, and only a chat's beginning is a walk's.

The miner leaves sessions that are a probe's with a chance under so much that it answers the part p
of probes' sessions, and u of users'. It is paid p² · (1 − 8 % · (1 − u)): 8 % is what all routers
together take of who answers none of their users (economy `validators-only`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np
from tokenizers import Tokenizer

from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.spec.template import Template
from moesubnet.validator.pool import WINDOW_TOKENS
from moesubnet.validator.shapes import Shapes

ANSWERED = (0.99, 0.95, 0.9, 0.8)  # of probes
ROUTERS_TAKE = 0.08
FEATURES = 2**18

Ids = Sequence[int]
Prompt = Callable[[str, int, Random], Ids]  # of a document, so many tokens


def grams(ids: Ids) -> Iterator[str]:
    for n in (1, 2, 3):
        yield from (f"{n} {ids[k : k + n]}" for k in range(len(ids) - n + 1))
    yield from (f"at {place} {token}" for place, token in enumerate(ids[:4]))


class Prompts:
    """Of a spec: as its tokens and its template make them."""

    def __init__(self, spec: LoadedSpec) -> None:
        self._tokenizer = Tokenizer.from_file(str(spec.tokenizer_path))
        self._template = Template(spec.spec.chat_template, spec.spec.special_tokens)
        self._whole: dict[str, Ids] = {}  # documents

    def encode(self, text: str) -> Ids:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def inside(self, text: str, tokens: int, lots: Random) -> Ids:
        if text not in self._whole:
            self._whole[text] = self.encode(text)
        ids = self._whole[text]
        start = WINDOW_TOKENS * lots.randrange(max(1, (len(ids) - tokens) // WINDOW_TOKENS))
        return ids[start : start + tokens]

    def begun(self, text: str, tokens: int, lots: Random) -> Ids:
        paragraphs = [part.lstrip() for part in text.split("\n\n")]
        first = lots.randrange(len(paragraphs))
        return self.encode("\n\n".join(paragraphs[first:])[: 8 * tokens])[:tokens]

    def chat(self, text: str, tokens: int, lots: Random) -> Ids:
        said = self._tokenizer.decode(list(self.begun(text, tokens, lots)))
        return self.encode(self._template.render([{"role": "user", "content": said}]))


def sessions(texts: Sequence[str], prompt: Prompt, count: int, lots: Random) -> list[Ids]:
    lengths = [shape.prefix for shape in Shapes.public(2_048).draw(count, lots)]
    return [prompt(lots.choice(texts), tokens, lots) for tokens in lengths]


def told(
    walks: tuple[list[Ids], list[Ids]], users: tuple[list[Ids], list[Ids]]
) -> tuple[np.ndarray, np.ndarray]:
    """Of sessions judged: whether a walk's, and the chance of it. Each: to learn on, to judge."""
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.linear_model import SGDClassifier

    hasher = FeatureHasher(FEATURES, input_type="string", alternate_sign=False)
    parts = [
        (
            hasher.transform(grams(ids) for ids in itertools.chain(walks[k], users[k])),
            np.repeat([True, False], [len(walks[k]), len(users[k])]),
        )
        for k in (0, 1)
    ]
    scaled = [(np.log1p(rows), labels) for rows, labels in parts]
    classifier = SGDClassifier("log_loss", alpha=1e-5, class_weight="balanced", random_state=0)
    classifier.fit(*scaled[0])
    return scaled[1][1], classifier.predict_proba(scaled[1][0])[:, 1]


def read(path: Path) -> tuple[list[str], list[str]]:
    """A corpus, its documents in two halves."""
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    return texts[::2], texts[1::2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("localnet", type=Path)
    parser.add_argument("--sessions", type=int, default=6_000)
    arguments = parser.parse_args()
    prompts, lots = Prompts(load_spec(arguments.localnet / "spec")), Random(0)
    mine, theirs = (read(arguments.localnet / f"corpora/validators/{k}.jsonl") for k in (0, 1))
    count = arguments.sessions // 4
    names = [f"{p:.0%} of probes answered: of users, paid" for p in ANSWERED]
    print(f"| users | balanced accuracy | {' | '.join(names)} |")
    print("|---" * (2 + len(ANSWERED)) + "|")
    for name, walk, user in (
        ("inside", prompts.inside, prompts.inside),
        ("begun", prompts.inside, prompts.begun),
        ("chat", prompts.inside, prompts.chat),
        ("both chat", prompts.chat, prompts.chat),
    ):
        walks, users = (
            tuple(sessions(half, prompt, count, lots) for half in halves)
            for halves, prompt in ((mine, walk), (theirs, user))
        )
        is_walk, chance = told(walks, users)  # type: ignore[arg-type]
        right = (chance > 0.5) == is_walk
        accuracy = (right[is_walk].mean() + right[~is_walk].mean()) / 2
        cells = []
        for p in ANSWERED:
            u = (chance >= np.quantile(chance[is_walk], 1 - p))[~is_walk].mean()
            cells.append(f"{u:.0%}, {p**2 * (1 - ROUTERS_TAKE * (1 - u)):.0%}")
        print(f"| {name} | {accuracy:.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
