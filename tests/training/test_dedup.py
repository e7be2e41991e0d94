"""Every block of text occurs once, exact copies and near ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moesubnet.training.dedup import SHINGLE_WORDS, Deduplicator, shingles

LICENCE = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this "
    "software and associated documentation files, to deal in the software without restriction."
)
STORY = "Once there was a router that knew nothing, and asked four experts about every single word."
OTHER = "The mixture of two laws is a law again, and its weight on a token lies between both."


def test_a_repeated_block_is_kept_once():
    dedup = Deduplicator()
    assert dedup.unique(f"{LICENCE}\n\n{STORY}") == f"{LICENCE}\n\n{STORY}"
    assert dedup.unique(f"{LICENCE}\n\n{OTHER}") == OTHER
    assert dedup.dropped_chars == len(LICENCE)


def test_case_spacing_and_a_changed_word_do_not_hide_a_copy():
    dedup = Deduplicator()
    dedup.unique(LICENCE)
    assert dedup.unique(LICENCE.upper().replace(" ", "  ")) == ""
    assert dedup.unique(LICENCE.replace("restriction", "limits")) == ""


def test_a_text_of_its_own_stays_whole():
    dedup = Deduplicator()
    dedup.unique(LICENCE)
    assert dedup.unique(STORY) == STORY


def test_indented_blocks_keep_their_indentation():
    text = "def f():\n    a = 1\n\n    return a"
    assert Deduplicator().unique(text) == text


@given(st.text())
def test_blocks_too_short_to_tell_are_never_dropped(text: str):
    dedup = Deduplicator()
    once = dedup.unique(text)
    if not len(shingles(text)):
        assert dedup.unique(text) == once


@given(st.lists(st.sampled_from(["alpha", "beta", "+", "7"]), min_size=SHINGLE_WORDS, max_size=40))
def test_there_is_one_shingle_for_every_run_of_words(words: list[str]):
    assert len(shingles(" ".join(words))) == len(words) - SHINGLE_WORDS + 1
