"""What a tokenizer's tokens spell, and which of them may stand side by side.

A tokenizer is read from its JSON: byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM), BPE over `▁` with
byte fallback (Llama 2, Gemma, Mistral), unigram (SentencePiece). What is not known to be one of
these is refused: a law over bytes that is slightly wrong is worse than none.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from moesubnet.errors import EngineError
from moesubnet.spec.pieces import byte_of_symbol

Ids = npt.NDArray[np.intp]
_SPACE = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPLITS = {"Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"}
# Two trailing spaces, digits by threes from the right: how patterns look ahead.
_KNOWN_AHEAD = re.compile(r"\\s\+\(\?!\\S\)|\(\?=\((?:\?:)?(\\d|\\p\{Nd?\})\{3\}\)[*+]\(\?!\1\)\)")
_MEMO = 1 << 18


class Lexicon:
    """The tokens of one tokenizer that spell text; ids below `vocab_size` only.

    controls: ids that no text may become; where texts end, and what a template writes.
    Attributes: `order` intp [T], the ids of tokens that spell, sorted by what they spell; `lead`,
    a space that stands before every text, where the tokenizer puts one; `longest_bytes`.
    Raises EngineError for a tokenizer of an unknown kind.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, controls: Collection[int]) -> None:
        content: dict[str, Any] = json.loads(tokenizer.to_str())
        model = content["model"]
        self.kind: str = model["type"]
        _check_model(model)
        steps = list(_steps(content.get("pre_tokenizer"), "pretokenizers"))
        self.is_byte_level = any(step["type"] == "ByteLevel" for step in steps)
        self.spaced, lead = _spaces(content.get("normalizer"), steps)
        if self.is_byte_level == self.spaced:
            raise EngineError(_unknown("neither byte-level nor of SentencePiece's kind"))
        self.lead = b" " if lead else b""
        self.ignores_merges = bool(model.get("ignore_merges"))
        self.splitter = _splitter(content, self.spaced)
        self._added: dict[int, bytes] = {}
        hidden = set(controls)
        for token in content["added_tokens"]:
            if token["special"] or token["id"] in hidden:
                hidden.add(token["id"])
            elif token["single_word"] or token["lstrip"] or token["rstrip"]:
                raise EngineError(_unknown(f"its token {token['content']!r} takes more than it is"))
            else:
                self._added[token["id"]] = token["content"].encode()
        self._model = _plain_model(content, tokenizer, hidden)
        self.bytes_of = self._spelled(model, vocab_size, hidden)
        self._names = {i: str(tokenizer.id_to_token(i)) for i in self.bytes_of}
        self._index(vocab_size)
        self._joins: dict[tuple[int, int], bool] = {}
        self._whole: dict[bytes, int] = {raw: i for i, raw in self._added.items()}
        self.added_texts = sorted((raw.decode() for raw in self._added.values()), key=len)

    def _spelled(
        self, model: dict[str, Any], vocab_size: int, hidden: set[int]
    ) -> dict[int, bytes]:
        vocab = model["vocab"]
        names = {name: i for i, (name, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab
        unknown = model.get("unk_id"), names.get(model.get("unk_token"))
        spelled = dict(self._added)
        self._byte_tokens: dict[int, int] = {}
        for name, i in names.items():
            if i in hidden or i in spelled or i in unknown:
                continue
            if self.is_byte_level:
                table = byte_of_symbol()
                if all(symbol in table for symbol in name):
                    spelled[i] = bytes(table[symbol] for symbol in name)
            elif byte := _BYTE.fullmatch(name):
                spelled[i] = bytes([int(byte[1], 16)])
                self._byte_tokens[i] = spelled[i][0]
            else:
                spelled[i] = name.replace(_SPACE, " ").encode()
        if not self.is_byte_level and len(self._byte_tokens) != 256:
            raise EngineError(_unknown("it has no token for each byte, so not every text is one"))
        self._token_of_byte = {byte: i for i, byte in self._byte_tokens.items()}
        self._chars = {raw for i, raw in spelled.items() if i not in self._byte_tokens}
        return {i: raw for i, raw in spelled.items() if i < vocab_size and raw}

    def _index(self, vocab_size: int) -> None:
        ids = sorted(self.bytes_of, key=lambda i: (self.bytes_of[i], i))
        self._sorted = [self.bytes_of[i] for i in ids]
        self.order: Ids = np.array(ids, np.intp)
        self._places = np.zeros(vocab_size, np.intp)
        self._places[self.order] = np.arange(len(ids))
        self._ids_of: dict[bytes, list[int]] = {}
        for i in ids:
            self._ids_of.setdefault(self.bytes_of[i], []).append(i)
        self._letters = np.frombuffer(b"".join(self._sorted), np.uint8)
        self._lengths = np.array([len(raw) for raw in self._sorted], np.intp)
        self._starts = np.cumsum(self._lengths) - self._lengths
        self.longest_bytes = int(self._lengths.max())

    def spelling(self, raw: bytes) -> Sequence[int]:
        """The tokens that spell just this."""
        return self._ids_of.get(raw, ())

    def each(self, raw: bytes) -> list[int]:
        """A token for each byte; none for one that has none."""
        if self._byte_tokens:
            return [self._token_of_byte[byte] for byte in raw]
        return [self._ids_of[bytes([b])][0] for b in raw if bytes([b]) in self._ids_of]

    def beyond(self, prefix: bytes) -> tuple[int, int]:
        """The part of `order` whose tokens spell `prefix` and more."""
        low = bisect_left(self._sorted, prefix)
        low += len(self._ids_of.get(prefix, ()))
        end = prefix.rstrip(b"\xff")
        if not end:
            return low, len(self._sorted)
        return low, bisect_left(self._sorted, end[:-1] + bytes([end[-1] + 1]))

    def next_bytes(self, low: int, high: int, depth: int) -> npt.NDArray[np.uint8]:
        """uint8 [high - low]: which byte follows the first `depth` of each."""
        letters: npt.NDArray[np.uint8] = self._letters[self._starts[low:high] + depth]
        return letters

    def whole(self, pretoken: bytes) -> int | None:
        """The token that alone spells this pretoken, whatever the merges say."""
        found = self._whole.get(pretoken)
        if found is None and self.ignores_merges:
            ids = self._ids_of.get(pretoken, ())
            return ids[0] if ids else None
        return found

    def spell(self, tokens: Sequence[int]) -> bool:
        """Whether the tokenizer writes just these for what they spell, inside one pretoken."""
        if self.kind == "Unigram":
            return self._spell_unigram(tokens)
        return all(map(self._reached, tokens)) and all(
            map(self.joins, tokens, tokens[1:])  # canonical just when all neighbours are
        )

    def joins(self, left: int, right: int) -> bool:
        """BPE: whether `right` may follow `left` in a pretoken: no merge reaches over them."""
        known = self._joins.get((left, right))
        if known is None:
            if len(self._joins) > _MEMO:
                self._joins.clear()
            known = self._joins[left, right] = self._join(left, right)
        return known

    def place(self, token: int) -> int:
        """Where a token that spells stands in `order`."""
        return int(self._places[token])

    def falls_back(self, char: str) -> bool:
        """Whether byte tokens write this character: it is not in the vocabulary."""
        return char.encode() not in self._chars

    def is_byte_token(self, token: int) -> bool:
        return token in self._byte_tokens

    def _join(self, left: int, right: int) -> bool:
        if left in self._byte_tokens or right in self._byte_tokens:
            return True  # no merge knows them
        if left in self._added or right in self._added:
            return False
        return self._tokenize(self._names[left] + self._names[right]) == [left, right]

    def _reached(self, token: int) -> bool:
        """Whether merges lead to it; of added tokens they may, but none is written so."""
        known = self._joins.get((token, -1))
        if known is None:
            known = self._joins[token, -1] = token in self._byte_tokens or (
                self._tokenize(self._names[token]) == [token]
            )
        return known

    def _spell_unigram(self, tokens: Sequence[int]) -> bool:
        raw = b"".join(self.bytes_of[token] for token in tokens)
        text = raw.decode("utf-8", "ignore")  # without a character that has only begun
        begun = len(raw) - len(text.encode())
        return self._tokenize(text.replace(" ", _SPACE)) == list(tokens[: len(tokens) - begun])

    def _tokenize(self, text: str) -> list[int]:
        return [token.id for token in self._model.tokenize(text)]


def _steps(step: dict[str, Any] | None, parts: str) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, one by one."""
    if step is None:
        return
    if step["type"] == "Sequence":
        for part in step[parts]:
            yield from _steps(part, parts)
    else:
        yield step


def _check_model(model: dict[str, Any]) -> None:
    if model["type"] not in ("BPE", "Unigram"):
        raise EngineError(_unknown(f"its model is {model['type']}"))
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise EngineError(_unknown(f"its model has {name}"))
    if model["type"] == "Unigram" and not model.get("byte_fallback"):
        raise EngineError(_unknown("it has no token for each byte, so not every text is one"))


def _spaces(normalizer: dict[str, Any] | None, steps: list[dict[str, Any]]) -> tuple[bool, bool]:
    """Whether spaces are written `▁`, and whether one stands before every text."""
    spaced = lead = False
    for step in _steps(normalizer, "normalizers"):
        kind = step["type"]
        if kind == "Replace" and step["pattern"] == {"String": " "} and step["content"] == _SPACE:
            spaced = True
        elif kind == "Prepend" and step["prepend"] == _SPACE:
            lead = True
        elif kind != "NFC":  # what is in that form already it leaves alone
            raise EngineError(_unknown(f"its normalizer {kind} changes texts"))
    for step in steps:
        kind = step["type"]
        if kind == "Metaspace" and step["replacement"] == _SPACE:
            spaced, lead = True, lead or step.get("prepend_scheme") != "never"
        elif kind == "ByteLevel":
            lead = lead or step["add_prefix_space"]
        elif kind == "Split" and step["behavior"] in _SPLITS:
            pattern = step["pattern"].get("Regex", "")
            if re.search(r"\(\?<?[=!]", _KNOWN_AHEAD.sub("", pattern)):
                raise EngineError(_unknown(f"its pattern {pattern!r} looks around in a new way"))
        elif kind == "Punctuation" and step["behavior"] in _SPLITS:
            pass
        elif kind != "Digits":
            raise EngineError(_unknown(f"its pre-tokenizer has a step {kind}"))
    return spaced, lead


def _splitter(content: dict[str, Any], spaced: bool) -> Any | None:
    """Its pre-tokenizer without the space that it puts before texts; None if it never splits."""
    steps = []
    for step in _steps(content.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Metaspace":
            step |= {"prepend_scheme": "never"}
            if step.get("split") is False:
                continue
        elif step["type"] == "ByteLevel":
            step |= {"add_prefix_space": False}
            if not step.get("use_regex", True):
                continue
        elif step["type"] == "Split" and step["pattern"] == {"String": " "} and spaced:
            continue  # no space is left when it comes
        steps.append(step)
    if not steps:
        return None
    bare = {"type": "BPE", "vocab": {}, "merges": []}
    sequence = {"type": "Sequence", "pretokenizers": steps}
    state = {"version": "1.0", "added_tokens": [], "pre_tokenizer": sequence, "model": bare}
    return Tokenizer.from_str(json.dumps(state)).pre_tokenizer


def _plain_model(content: dict[str, Any], tokenizer: Tokenizer, hidden: set[int]) -> Any:
    """Its model without what is none of text's: the way to take whole words (`whole` has it), and
    of a unigram's pieces the hidden ones."""
    model = content["model"]
    if model["type"] == "Unigram":
        pieces = [
            [f"\U000e0fff{i}" if i in hidden else name, score]
            for i, (name, score) in enumerate(model["vocab"])
        ]
        model = model | {"vocab": pieces}
    elif model.get("ignore_merges"):
        model = model | {"ignore_merges": False}
    else:
        return tokenizer.model
    state = {"version": "1.0", "added_tokens": [], "model": model}
    return Tokenizer.from_str(json.dumps(state)).model


def _unknown(why: str) -> str:
    return (
        f"this tokenizer cannot serve bytes: {why}. Known are byte-level BPE, and BPE or unigram "
        "over '▁' with byte fallback, whose steps lose nothing of a text"
    )
