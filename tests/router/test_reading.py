"""What a model writes, divided, whatever the pieces in which it comes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.router.reading import Habits, Part, Reader
from moesubnet.spec.calls import CallSyntax

QWEN = CallSyntax(
    '<tool_call>\n{"name": "',
    '", "arguments": ',
    ("}\n</tool_call>",),
    ('}\n</tool_call>\n<tool_call>\n{"name": "',),
)
LLAMA = CallSyntax('{"name": "', '", "parameters": ', ("}",), None)
MISTRAL = CallSyntax(
    '[TOOL_CALLS][{"name": "',
    '", "arguments": ',
    (', "id": "', '"}]'),
    (', "id": "', '"}, {"name": "'),
)
FIRST, SECOND = {"city": 'P"a}r{is', "n": [1, {"x": "\\"}]}, {}


def read(text: str, cuts: list[int], habits: Habits) -> list[Part]:
    reader = Reader(habits)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    parts = []
    for start, end in zip([0, *ends], ends, strict=False):
        parts += reader.push(text[start:end])
    return parts + reader.finish()


def joined(parts: list[Part]) -> list[tuple[str, str]]:
    """Neighbours of a kind as one, ids left out."""
    found: list[tuple[str, str]] = []
    for part in parts:
        if found and found[-1][0] == part.kind and part.kind != "call":
            found[-1] = (part.kind, found[-1][1] + part.text)
        else:
            found.append((part.kind, part.text))
    return found


def written(syntax: CallSyntax, calls: list[tuple[str, object]]) -> str:
    between = None if syntax.between is None else "abc123DEF".join(syntax.between)
    inner = (between or "").join(
        name + syntax.middle + json.dumps(arguments) for name, arguments in calls
    )
    return syntax.opening + inner + "abc123DEF".join(syntax.closing)


cuts = st.lists(st.integers(0, 300), max_size=40)


@given(cuts)
@pytest.mark.parametrize("syntax", [QWEN, MISTRAL])
@pytest.mark.parametrize("before", ["", "Let me look. <b", "<tool", "{"])
def test_calls_are_found_wherever_the_text_is_cut(syntax, before, cuts) -> None:
    text = before + written(syntax, [("get", FIRST), ("stop", SECOND)])
    parts = read(text, cuts, Habits(calls=syntax))
    expected = [("call", "get"), ("arguments", json.dumps(FIRST)), ("call", "stop")]
    expected += [("arguments", json.dumps(SECOND))]
    assert joined(parts) == ([("text", before.rstrip())] if before else []) + expected
    assert [part.index for part in parts if part.kind == "call"] == [0, 1]
    ids = [part.call_id for part in parts if part.kind == "call"]
    assert len(set(ids)) == 2
    assert all(len(call_id) == 9 for call_id in ids) == (syntax is MISTRAL)


@given(cuts)
def test_a_family_of_bare_json_calls_at_the_beginning_only(cuts) -> None:
    call = written(LLAMA, [("get", FIRST)])
    habits = Habits(calls=LLAMA)
    assert joined(read(call, cuts, habits)) == [("call", "get"), ("arguments", json.dumps(FIRST))]
    assert joined(read("so: " + call, cuts, habits)) == [("text", "so: " + call)]
    assert joined(read('{"nam', cuts, habits)) == [("text", '{"nam')]


@given(cuts)
def test_a_thought_is_apart_from_the_answer(cuts) -> None:
    begins = Habits(may_think=True, calls=QWEN)
    for habits, text in (
        (begins, "\n<think>\nHm.\n\nSo <b>\n</think>\n\nYes.\n"),
        (Habits(is_thinking=True), "Hm.\n\nSo <b>\n</think>\n\nYes.\n"),
    ):
        assert joined(read(text, cuts, habits)) == [
            ("reasoning", "Hm.\n\nSo <b>"),
            ("text", "Yes.\n"),
        ]
    cut_off = read("<think>\nHm. </thi", cuts, begins)
    assert joined(cut_off) == [("reasoning", "Hm. </thi")]
    assert joined(read("a <think> b", cuts, begins)) == [("text", "a <think> b")]


@given(st.text(alphabet='<tool_ca>l {"n\n[', max_size=60), cuts)
def test_whatever_is_no_call_is_text_and_all_of_it(text, cuts) -> None:
    if QWEN.opening in text:
        return
    assert joined(read(text, cuts, Habits(calls=QWEN))) == ([("text", text)] if text else [])
