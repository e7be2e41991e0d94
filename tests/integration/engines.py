"""Engines that need no training time, honest and not, for miners in the integration tests."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np

from moesubnet.engine.base import context_token
from moesubnet.spec.tokenizer import load_tokenizer


class BigramEngine:
    """Counts of token pairs in one text file (`model`), smoothed by the single tokens."""

    name = "bigram"

    def __init__(self, model, spec, *, threads=1):
        self.vocab_size, self.context_tokens = spec.spec.vocab_size, spec.spec.context_tokens
        text = Path(model).read_text()
        self.commitment = hashlib.sha256(text.encode()).hexdigest()
        self.start = context_token(spec.spec)
        ids = np.array([self.start, *load_tokenizer(spec.tokenizer_path).encode(text).ids])
        pairs = np.zeros((self.vocab_size, self.vocab_size))
        np.add.at(pairs, (ids[:-1], ids[1:]), 1.0)
        single = np.bincount(ids, minlength=self.vocab_size) + 0.1
        pairs += 2.0 * single / single.sum()
        self.laws = np.log(pairs / pairs.sum(axis=1, keepdims=True)).astype(np.float32)

    def rows(self, batch, want):
        return [query.answer(self.laws[self.before(query)], want) for query in batch]

    def before(self, query):
        """The token before each position whose law is wanted."""
        return np.concatenate([[self.start], query.ids]).astype(int)[query.first_law :]

    def forget(self, session):
        pass


class CopierEngine(BigramEngine):
    """Answers what another expert answers, once it has that one's answer."""

    name = "copier"

    def rows(self, batch, want):
        time.sleep(0.15)
        return super().rows(batch, want)


class EchoEngine(BigramEngine):
    """Claims, with near certainty, whatever token it was shown last."""

    name = "echo"

    def rows(self, batch, want):
        out = []
        for query in batch:
            before = self.before(query)
            law = np.full((len(before), self.vocab_size), 1e-6)
            law[np.arange(len(before)), before] = 1.0
            laws = np.log(law / law.sum(axis=1, keepdims=True)).astype(np.float32)
            out.append(query.answer(laws, want))
        return out
