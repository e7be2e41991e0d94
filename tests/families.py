"""Small tokenizers of every kind that published families use, and templates with their constructs.

The templates are written for these tests; they do what the families' own do, in fewer words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from moesubnet.spec.content import Spec, spec_files

TEXT = (
    "the quick brown fox jumps over the lazy dog; naïve café 世界 STOP here.\n\n"
    "def main(argv):\n    return {'a': [1, 2], \"b\": None}\n\n"
    "system user assistant model tool <b>bold</b> a < b > c, x | y, [INST], think im_end im_start\n"
)
OWN_TOKENS = ("think", "tool_call", "tool_response")  # not special: shown as text


def byte_level(special: Iterable[str], added: Iterable[str] = ()) -> Tokenizer:
    """As GPT-2, Llama 3, Qwen, SmolLM."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return _with_tokens(tokenizer, special, added)


def sentencepiece(
    special: Iterable[str], added: Iterable[str] = (), *, kind: str = "llama2"
) -> Tokenizer:
    """BPE over `▁` with a token for each byte that has no other. kind: `llama2` puts a space before
    every text by its normalizer, `mistral` by its pre-tokenizer, `gemma` not at all."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    letters = sorted(set("▁" + TEXT.replace(" ", "").replace("\n", "")) - set("世界é"))
    merges: list[tuple[str, str]] = []
    for letter in letters:
        vocab.setdefault(letter, len(vocab))
    for word in ("▁the", "▁fox", "▁a", "▁b", "▁user", "▁▁", "▁▁▁▁", "ink", "im_", "</"):
        while (parts := _merged(word, merges)) != [word]:
            merges.append((parts[0], parts[1]))
            vocab.setdefault(parts[0] + parts[1], len(vocab))
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind == "mistral":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        steps = [normalizers.Prepend("▁")] if kind == "llama2" else []
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    if kind != "gemma":
        back.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(back)
    return _with_tokens(tokenizer, ["<unk>", "<s>", "</s>", *special], added)


def unigram(special: Iterable[str]) -> Tokenizer:
    """As T5 and its like: pieces with scores, among them the special ones; Metaspace both ways."""
    letters = sorted(set("▁" + TEXT.replace(" ", "").replace("\n", "")))
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    pieces += [(letter, -5.0) for letter in letters]
    pieces += [(word, -6.0) for word in ("▁the", "▁fox", "▁user", "▁quick", "es")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _with_tokens(tokenizer, ["<unk>", "<s>", "</s>", *special], ())


def _merged(word: str, merges: list[tuple[str, str]]) -> list[str]:
    parts = list(word)
    for left, right in merges:
        for i in range(len(parts) - 1):
            if parts[i : i + 2] == [left, right]:
                parts[i : i + 2] = [left + right]
                break
    return parts


def _with_tokens(tokenizer: Tokenizer, special: Iterable[str], added: Iterable[str]) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return tokenizer


@dataclass(frozen=True)
class Family:
    """A tokenizer with its template; `bos` and `stops` by their texts."""

    name: str
    tokenizer: Tokenizer
    template: str
    bos: str
    stops: tuple[str, ...]
    special_tokens: dict[str, str]

    @property
    def spec(self) -> Spec:
        ids = self.tokenizer.token_to_id
        return Spec(
            name=self.name,
            vocab_size=self.tokenizer.get_vocab_size(),
            bos_id=ids(self.bos),
            stop_ids=tuple(sorted(ids(stop) for stop in self.stops)),
            context_tokens=512,
            chat_template=self.template,
            special_tokens=self.special_tokens,
            min_caller_stake_rao=0,
            **spec_files(None),
        )

    def transformers(self) -> Any:
        """The same as a tokenizer of transformers, to compare with."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(
            tokenizer_object=self.tokenizer,
            chat_template=self.template,
            clean_up_tokenization_spaces=False,
            **self.special_tokens,
        )


def template(name: str) -> str:
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text()


@cache
def families() -> dict[str, Family]:
    """One of each kind."""
    ends = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    headers = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
    return {
        family.name: family
        for family in (
            Family(
                "chatml",
                byte_level(
                    ends,
                    [f"<{end}{name}>" for name in OWN_TOKENS for end in ("", "/")],
                ),
                template("chatml"),
                "<|endoftext|>",
                ("<|im_end|>", "<|endoftext|>"),
                {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
            ),
            Family(
                "headers",
                byte_level([*headers, "<|eom_id|>", "<|eot_id|>"]),
                template("headers"),
                "<|begin_of_text|>",
                ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
                {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
            ),
            Family(
                "turns",
                sentencepiece(
                    ["<start_of_turn>", "<end_of_turn>"], ["\n", "\n\n", "<b>"], kind="gemma"
                ),
                template("turns"),
                "<s>",
                ("</s>", "<end_of_turn>"),
                {"bos_token": "<s>", "eos_token": "</s>"},
            ),
            Family(
                "inst",
                sentencepiece(()),
                template("inst"),
                "<s>",
                ("</s>",),
                {"bos_token": "<s>", "eos_token": "</s>"},
            ),
            Family(
                "inst tokens",
                sentencepiece(["[INST]", "[/INST]"], kind="mistral"),
                template("inst"),
                "<s>",
                ("</s>",),
                {"bos_token": "<s>", "eos_token": "</s>"},
            ),
            Family(
                "roles",
                sentencepiece(
                    ["<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
                ),
                template("roles"),
                "<s>",
                ("<|endoftext|>", "<|end|>", "<|assistant|>"),
                {"bos_token": "<s>", "eos_token": "<|endoftext|>"},
            ),
            Family(
                "unigram",
                unigram(()),
                template("inst"),
                "<s>",
                ("</s>",),
                {"bos_token": "<s>", "eos_token": "</s>"},
            ),
        )
    }
