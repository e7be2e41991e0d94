"""Packing: every token once, no document sees another, and what is held out is unseen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.training.packing import NO_LABEL, pack, split_documents

from .test_head import model_of

START, END = 1, 2
documents = st.lists(st.lists(st.integers(3, 50), max_size=90), max_size=12)


@given(documents, st.integers(20, 64))
def test_every_token_and_every_end_is_a_label_once_and_in_order(texts, window):
    packed = pack([np.array(t, np.uint32) for t in texts], window, START, END)
    assert packed.ids.shape[1] == window
    labels = packed.labels[packed.labels != NO_LABEL]
    assert labels.tolist() == [token for text in texts for token in [*text, END]]
    begins = packed.positions == 0
    assert (packed.ids[begins] == START).all()
    assert begins[:, 0].all()
    empty = (packed.labels == NO_LABEL).sum()
    assert empty <= begins.sum() + len(packed), "only starts and window ends predict nothing"


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen2"])
def test_a_packed_document_is_read_as_if_it_were_alone(family):
    model = model_of(family, **({"sliding_window": 4} if family == "gemma3_text" else {}))
    rng = np.random.default_rng(0)
    texts = [rng.integers(3, 50, n).astype(np.uint32) for n in (9, 17, 30, 5)]
    packed = pack(texts, 40, START, END)
    with torch.inference_mode():
        law = model(
            input_ids=torch.from_numpy(packed.ids).long(),
            position_ids=torch.from_numpy(packed.positions).long(),
            use_cache=False,
        ).logits.log_softmax(-1)
        alone = model(
            input_ids=torch.tensor([[START, *texts[1].tolist()]]), use_cache=False
        ).logits.log_softmax(-1)[0]
    first = 9 + 2  # start and end of the one before
    torch.testing.assert_close(law[0, first : first + 18], alone, atol=1e-4, rtol=1e-4)


def test_what_is_held_out_does_not_occur_in_the_rest():
    rng = np.random.default_rng(3)
    texts = [rng.integers(0, 900, 300).astype(np.uint32) for _ in range(200)]
    _, clean = split_documents(texts, 10)
    assert 5 < len(clean) < 40
    nearly = [np.concatenate([text[:20], text]) for text in clean[:3]]
    kept, held_out = split_documents([*texts, *nearly], 10)
    known = {text.tobytes() for text in kept}
    copied = [text for text, copy in zip(clean, nearly, strict=False) if copy.tobytes() in known]
    assert copied
    assert not {text.tobytes() for text in copied} & {text.tobytes() for text in held_out}
    assert len(held_out) >= len(clean) - len(copied)


def test_a_text_stays_on_its_side_when_others_come():
    rng = np.random.default_rng(4)
    texts = [rng.integers(0, 900, 100).astype(np.uint32) for _ in range(120)]
    _, before = split_documents(texts[:60], 10)
    _, after = split_documents(texts, 10)
    assert {text.tobytes() for text in before} <= {text.tobytes() for text in after}


def test_even_one_text_has_a_piece_held_out():
    text = np.random.default_rng(5).integers(0, 900, 9_000).astype(np.uint32)
    kept, held_out = split_documents([text], 20)
    assert len(held_out) >= 1
    assert sum(map(len, kept)) + sum(map(len, held_out)) == 9_000
    assert split_documents([], 20) == ([], [])
