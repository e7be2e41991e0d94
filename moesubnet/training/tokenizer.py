"""The subnet's tokenizer: byte-level BPE, so that every text has ids and every id has a text."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from moesubnet.errors import SpecError

END = "<|end|>"  # separates documents and stands before every sequence; always id 0


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE of exactly `vocab_size` entries, `<|end|>` as id 0. Deterministic.

    Raises SpecError when the texts are too short to fill the vocabulary.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END],
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if tokenizer.get_vocab_size() != vocab_size:
        raise SpecError(
            f"the text yields {tokenizer.get_vocab_size()} tokens, not {vocab_size}: "
            "give more text or a smaller vocabulary"
        )
    return tokenizer
