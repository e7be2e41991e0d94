"""Text as it is shown: every byte once, whole characters, nothing of a stop sequence."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from moesubnet.router.openai_api import TokenRecord, completion_logprobs
from moesubnet.router.text import TextStream
from moesubnet.spec.pieces import Pieces
from tests.families import families

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
PIECES = Pieces(TOKENIZER)
BYTE_IDS = {PIECES.inside(i): i for i in range(TOKENIZER.get_vocab_size())}
IDS = st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=40)


def ids_of(raw: bytes) -> list[int]:
    """One token a byte: every character is split."""
    return [BYTE_IDS[bytes([byte])] for byte in raw]


def shown(ids: list[int], stops: tuple[str, ...] = (), prompt: tuple[int, ...] = ()) -> list[str]:
    stream, pieces = TextStream(PIECES, stops, prompt), []
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


KINDS = sorted(families())
WHOLE = {name: Pieces(families()[name].tokenizer) for name in KINDS}
NO_TEXT = re.compile(r"(<0x[0-9A-F]{2}>)+")


def streamed(name: str, ids: list[int], before: list[int]) -> str:
    stream = TextStream(WHOLE[name], (), before)
    return "".join([*map(stream.push, ids), stream.finish()])


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(
        st.sampled_from(
            ["the fox", " a", "  ", "世🎉", "é", "\n\n", "▁", "<b>", "</s>", "zzz", " "]
        )
        | st.text(max_size=5),
        max_size=4,
    ),
    split=st.integers(0, 12),
)
@example(texts=["🎉", "世", " the"], split=2)
def test_every_kind_of_tokenizer_streams_what_it_decodes_at_once(
    name: str, texts: list[str], split: int
) -> None:
    tokenizer = families()[name].tokenizer
    ids = [i for text in texts for i in tokenizer.encode(text, add_special_tokens=False).ids]
    assert streamed(name, ids, []) == tokenizer.decode(ids)
    before, after = ids[:split], ids[split:]
    shown = tokenizer.decode(before)
    if "\ufffd" not in shown:  # the prompt ends with a whole character
        assert shown + streamed(name, after, before) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_ids_stream_as_they_decode_but_for_rows_of_bytes_that_are_no_text(
    name: str, data: st.DataObject
) -> None:
    tokenizer = families()[name].tokenizer
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=12))
    rows = "".join(tokenizer.id_to_token(i) for i in ids if i not in WHOLE[name].hidden)
    shown, whole = streamed(name, ids, []), tokenizer.decode(ids)
    if not WHOLE[name].is_byte_level and NO_TEXT.search(rows):
        bad = [
            bytes.fromhex(m[0].replace("<0x", "").replace(">", "")) for m in NO_TEXT.finditer(rows)
        ]
        if any(raw.decode("utf-8", "ignore").encode() != raw for raw in bad):
            shown, whole = (re.sub("[^\x21-\x7e]+", "", text) for text in (shown, whole))
            assert set(whole) <= set(shown)
            return
    assert shown == whole


@pytest.mark.parametrize("name", ["inst", "inst tokens", "turns", "unigram"])
def test_the_space_before_a_word_is_kept_behind_a_prompt_and_not_at_the_beginning(
    name: str,
) -> None:
    tokenizer = families()[name].tokenizer
    the, fox = tokenizer.token_to_id("▁the"), tokenizer.token_to_id("▁fox")
    assert streamed(name, [fox], [the]) == " fox"
    begins = " fox" if name == "turns" else "fox"
    assert streamed(name, [fox], []) == begins == tokenizer.decode([fox])
    assert streamed(name, [1, fox], [1]) == begins  # a special token is no text


def test_a_character_in_bytes_waits_for_the_last_and_stops_work_across_them() -> None:
    tokenizer, pieces = families()["inst"].tokenizer, WHOLE["inst"]
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "a世🎉b".encode()]
    stream = TextStream(pieces, ())
    assert [stream.push(i) for i in ids] == ["a", "", "", "世", "", "", "", "🎉", "b"]
    stream = TextStream(pieces, ("世🎉",))
    assert "".join(map(stream.push, ids)) == "a"
    assert stream.stopped
    stream = TextStream(pieces, ())
    assert [*map(stream.push, ids[:3]), stream.push(tokenizer.token_to_id("▁the"))] == (
        ["a", "", "", "\ufffd the"]
    )


def test_decoders_that_do_not_work_token_by_token_are_known() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.BPEDecoder()
    assert not Pieces(tokenizer).is_exact
    assert all(pieces.is_exact for pieces in WHOLE.values())


def test_tokens_that_are_no_text_alone_keep_their_own_log_probabilities() -> None:
    top = [("\ufffd", b"\xe4", -0.5), ("\ufffd", b"\xe5\xa7", -1.5), ("é", "é".encode(), -2.0)]
    record = TokenRecord(text="\ufffd", raw=b"\xe4", logprob=-0.5, top=top, offset=0)
    logprobs = completion_logprobs([record])
    assert logprobs["tokens"] == [r"bytes:\xe4"]
    assert logprobs["top_logprobs"] == [{r"bytes:\xe4": -0.5, r"bytes:\xe5\xa7": -1.5, "é": -2.0}]


@pytest.mark.parametrize("stop", ["<|end|>", "\ufffd"])
def test_special_tokens_are_no_text(stop: str) -> None:
    assert "".join(shown([0, *ids_of(b"ab"), 0], (stop,))) == "ab"
