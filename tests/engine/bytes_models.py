"""Tiny tokenizers of every kind, and models with a law for every sequence of their tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RIGHT_DIGITS = r"\p{N}{1,3}(?=(\p{N}{3})*(?!\p{N}))| ?[^\s\p{N}]+|\s+"
TEXT = (
    "a ab ba aab  abba bab aa's ab's b's  aa   bb 1 12 123 1234 11 121 a1 b22\n\n ab\n  ba\n"
    "é née caféé 世界 世 界世 😀😀 ab! a!! !! a'a s's as 'as\n abab baba b! b.\n"
) * 3


def byte_level(pattern: str = GPT2, size: int = 320, *, shortcut: bool = False) -> Tokenizer:
    """As GPT-2, Llama 3 (shortcut: with its way of taking whole words), Qwen, SmolLM."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=shortcut))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        max_token_length=3,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def gemma(size: int = 330) -> Tokenizer:
    """BPE over `▁`, no pre-tokenizer, a token for each byte, line ends as added tokens."""
    return _sentencepiece(size, normalizers.Replace(" ", "▁"), added=("\n", "\n\n", "<t>"))


def llama2(size: int = 330) -> Tokenizer:
    """The same with a space before every text."""
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    return _sentencepiece(size, normalizers.Sequence(steps))


def unigram() -> Tokenizer:
    pieces = [("<unk>", 0.0), ("<|end|>", 0.0)]
    pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    rng = np.random.default_rng(1)
    words = ["▁", "a", "b", "s", "1", "▁a", "ab", "ba", "▁ab", "aab", "▁▁", "bb", "▁b", "é", "'s"]
    pieces += [(word, -float(rng.uniform(2, 6))) for word in words]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


def _sentencepiece(size: int, normalizer: object, added: Sequence[str] = ()) -> Tokenizer:
    helper = Tokenizer(models.BPE())
    helper.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=size - 259, max_token_length=3, show_progress=False)
    helper.train_from_iterator(TEXT.replace("界", "").split("\n"), trainer)
    model = json.loads(helper.to_str())["model"]
    vocab = {"<unk>": 0, "<|end|>": 1} | {f"<0x{byte:02X}>": 2 + byte for byte in range(256)}
    for name in model["vocab"]:
        vocab[name] = len(vocab)
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return tokenizer


class RandomModel:
    """A law for every path, from a hash of its last two tokens. never: ids without a share."""

    def __init__(self, vocab_size: int, never: Sequence[int] = ()) -> None:
        self.vocab_size, self.never = vocab_size, list(never)
        self.law = cache(self._law)

    def of(self, path: Sequence[int]) -> npt.NDArray[np.float32]:
        """float32 [V] of log-probabilities."""
        return self.law(tuple(path[-2:]))

    def _law(self, last: tuple[int, ...]) -> npt.NDArray[np.float32]:
        seed = int.from_bytes(hashlib.sha256(repr(last).encode()).digest()[:8], "little")
        logits = np.random.default_rng(seed).normal(0, 2.0, self.vocab_size)
        logits[self.never] = -60.0
        return (logits - np.log(np.exp(logits).sum())).astype(np.float32)
