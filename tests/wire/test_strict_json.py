"""JSON that two readers could understand differently is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.wire.protocol import GenerateRequest
from moesubnet.wire.strict_json import parse_as, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
).filter(lambda value: "Infinity" not in json.dumps(value))


@given(VALUES)
def test_whatever_json_can_say_is_read_as_it_was_meant(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b'{"a": 1, "b": 2, "a": 1}', '"a"'),
        (b'{"x": [{"deep": {"key": 1, "key": 2}}]}', '"key"'),
        (b'{"a": 1, "\\u0061": 2}', '"a"'),
    ],
)
def test_a_repeated_key_is_named(text: bytes, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_json(text)


@pytest.mark.parametrize(
    "text", [b"", b"{} {}", b"NaN", b'["\\ud800"]', b"\xff", b"[" * 1_000_000, b"{'a': 1}"]
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_model_is_strict_about_its_keys_and_types() -> None:
    asked = parse_as(GenerateRequest, b'{"prompt_ids": [1, 2], "max_tokens": 3, "top_p": 1}')
    assert asked == GenerateRequest(prompt_ids=[1, 2], max_tokens=3)
    for body in (b'{"prompt_ids": [1], "max_tokens": "3"}', b'{"max_tokens":1,"max_tokens":1}'):
        with pytest.raises(ValueError):
            parse_as(GenerateRequest, body)
