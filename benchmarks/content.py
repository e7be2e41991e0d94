"""What the text of a prompt alone tells a miner of whose it is, before it is scored on anything.

    python benchmarks/content.py LOCALNET [--sessions 6000]

LOCALNET: a localnet's folder, with its spec and corpora. Walks' prompts are drawn from the text of
its validator 0, at places where windows begin, users' from that of validator 1: other documents of
the same kinds, as nobody's users are there. A logistic regression over hashed one-, two- and
three-grams of tokens, the first four of them with their places, learns on sessions of half of the
documents, and is judged on those of the others. As long as each other, so length tells nothing.

Users are `inside` (they begin anywhere, as walks do: what the other documents alone tell), `begun`
(at the beginning of a paragraph, as people do) or `chat` (the same under the spec's template). Then
the validator's private text is conversations too, as its pool draws them for users' lengths
(`both chat`: a paragraph is asked and what follows is the answer); at last half of both
(`both, of both kinds`: users' texts are `begun` and chats, the pool has windows and conversations).

The miner leaves sessions that are a probe's with a chance under so much that it answers the part p
of probes' sessions, and u of users'. It is paid p² · (1 − 8 % · (1 − u)): 8 % is what all routers
together take of who answers none of their users (economy `validators-only`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
from tokenizers import Tokenizer

from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.spec.content import LoadedSpec, load_spec
from moesubnet.spec.prompt import PromptEncoder
from moesubnet.validator.conversations import turns
from moesubnet.validator.pool import WINDOW_TOKENS, TextPool
from moesubnet.validator.shapes import PROMPT_TOKENS, Shapes
from moesubnet.wire.usage import LENGTH_KINDS, Usage, length_kind

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
        self._encoder = PromptEncoder(spec.spec, self._tokenizer)
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
        return self._chat(self._tokenizer.decode(list(self.begun(text, tokens, lots))))

    def both(self, text: str, tokens: int, lots: Random) -> Ids:
        return (self.chat if lots.random() < 0.5 else self.begun)(text, tokens, lots)

    def _chat(self, said: str) -> Ids:
        encoder = self._encoder
        return encoder.ids(encoder.chat([{"role": "user", "content": said}]))

    def drawn(
        self, texts: Sequence[str], users: Sequence[Ids], part: float, lots: Random
    ) -> list[Ids]:
        """Prompts of as many walks as users, whose lengths a router tells, such a part of which are
        conversations: of a pool of these documents that has more than enough of both."""
        count, lengths = len(users), Counter(length_kind(len(ids)) for ids in users)
        pool = self._pool(texts, 4 * count, lots, with_text=part < 1.0)
        prompts = [lengths[kind] for kind in range(LENGTH_KINDS)]
        told = Usage(netuid=1, epoch=0, router="r", rows=[], prompts=prompts)
        shapes = Shapes.public(2_048).as_users([(told, 1)])
        shapes = replace(shapes, later=0.0, conversations=part)
        chats = [[shape] for shape in shapes.draw(count, lots)]
        used: dict[bytes, set[int]] = {}
        for document, start in pool.repeats({}, []):
            used.setdefault(document, set()).add(start)
        walks = pool.draw_chats(chats, shapes.conversing(chats, lots), used, lots.randbytes(8))
        return [walk.ids[: walk.first + BLIND_PROMPT_TOKENS].tolist() for [walk] in walks]

    def _pool(self, texts: Sequence[str], count: int, lots: Random, *, with_text: bool) -> TextPool:
        least, most = map(math.log, PROMPT_TOKENS)
        lines: list[dict[str, object]] = [{"text": text} for text in texts] if with_text else []
        for _ in range(count):
            asked = round(math.exp(lots.uniform(least, most)))
            ids = list(self.begun(lots.choice(texts), asked + 64, lots))
            question, answer = (self._tokenizer.decode(part) for part in (ids[:asked], ids[asked:]))
            said = [("user", question), ("assistant", answer)]
            lines.append({"messages": [{"role": who, "content": what} for who, what in said]})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "private.jsonl"
            path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
            return TextPool.load(
                str(path), self.encode, turns=lambda one: turns(one, self._encoder, 1_024)
            )


def sessions(texts: Sequence[str], prompt: Prompt, count: int, lots: Random) -> list[Ids]:
    shapes = Shapes.public(2_048).draw(count, lots)
    lengths = [shape.prefix + BLIND_PROMPT_TOKENS for shape in shapes]
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
    for name, conversations, user in (
        ("inside", None, prompts.inside),
        ("begun", None, prompts.begun),
        ("chat", None, prompts.chat),
        ("both chat", 1.0, prompts.chat),
        ("both, of both kinds", 0.5, prompts.both),
    ):
        users = tuple(sessions(half, user, count, lots) for half in theirs)
        if conversations is None:
            walks = tuple(sessions(half, prompts.inside, count, lots) for half in mine)
        else:
            pairs = zip(mine, users, strict=True)
            walks = tuple(prompts.drawn(half, of, conversations, lots) for half, of in pairs)
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
