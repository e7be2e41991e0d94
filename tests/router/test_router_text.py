"""Text as it is shown: every byte once, whole characters, nothing of a stop sequence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from moesubnet.router.openai_api import TokenRecord, completion_logprobs
from moesubnet.router.text import TextStream, token_bytes

TEXT = "naïve café 世界 🎉 hello"


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT * 4], trainer)
    return tokenizer


TOKENIZER = byte_level()
BYTE_IDS = {token_bytes(TOKENIZER, i): i for i in range(TOKENIZER.get_vocab_size())}
IDS = st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=40)


def ids_of(raw: bytes) -> list[int]:
    """One token a byte: every character is split."""
    return [BYTE_IDS[bytes([byte])] for byte in raw]


def shown(ids: list[int], stops: tuple[str, ...] = (), prompt: tuple[int, ...] = ()) -> list[str]:
    stream, pieces = TextStream(TOKENIZER, stops, prompt), []
    for token_id in ids:
        pieces.append(stream.push(token_id))
        if stream.stopped:
            return pieces
    return [*pieces, stream.finish()]


@given(IDS)
def test_the_pieces_join_to_what_the_tokenizer_decodes_at_once(ids: list[int]) -> None:
    assert "".join(shown(ids)) == TOKENIZER.decode(ids)


@settings(max_examples=300)
@given(
    st.text("aé世🎉", max_size=20),
    st.lists(st.text("aé世🎉", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_nothing_of_a_stop_sequence_is_shown_and_everything_before_it_is(
    text: str, stops: list[str]
) -> None:
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    pieces = shown(ids_of(text.encode()), tuple(stops))
    joined = "".join(pieces)
    if not ends:
        assert joined == text
    else:  # of several the one that is complete first; it may have begun after another
        assert not any(stop in joined for stop in stops)
        assert text.startswith(joined)
        assert any(text.startswith(stop, len(joined)) for stop in stops)
    assert "\ufffd" not in joined


def test_a_character_waits_for_its_last_byte_and_an_unfinished_one_is_not_lost() -> None:
    assert shown(ids_of("世".encode())) == ["", "", "世", ""]
    assert shown(ids_of("a世".encode()[:3])) == ["a", "", "", "\ufffd"]
    assert shown(ids_of("世".encode()[2:]), prompt=tuple(ids_of("世".encode()[:2]))) == ["世", ""]


def test_bytes_that_are_no_text_are_shown_at_once() -> None:
    assert shown(ids_of(b"a\xff\xffb")) == ["a", "\ufffd", "\ufffd", "b", ""]


def test_a_vocabulary_of_words_keeps_its_spaces() -> None:
    tokenizer = Tokenizer(models.WordLevel({"▁the": 0, "▁fox": 1, "es": 2}, unk_token="es"))
    tokenizer.decoder = decoders.Metaspace()
    stream = TextStream(tokenizer, (), [0])
    assert "".join([*map(stream.push, [1, 2]), stream.finish()]) == " foxes"


def test_tokens_that_are_no_text_alone_keep_their_own_log_probabilities() -> None:
    top = [("\ufffd", b"\xe4", -0.5), ("\ufffd", b"\xe5\xa7", -1.5), ("é", "é".encode(), -2.0)]
    record = TokenRecord(text="\ufffd", raw=b"\xe4", logprob=-0.5, top=top, offset=0)
    logprobs = completion_logprobs([record])
    assert logprobs["tokens"] == [r"bytes:\xe4"]
    assert logprobs["top_logprobs"] == [{r"bytes:\xe4": -0.5, r"bytes:\xe5\xa7": -1.5, "é": -2.0}]


@pytest.mark.parametrize("stop", ["<|end|>", "\ufffd"])
def test_special_tokens_are_no_text(stop: str) -> None:
    assert "".join(shown([0, *ids_of(b"ab"), 0], (stop,))) == "ab"
