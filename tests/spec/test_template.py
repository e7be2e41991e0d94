"""Templates are rendered as transformers renders them, byte for byte, with all their constructs."""

from __future__ import annotations

from typing import Any

import pytest

from moesubnet.errors import PromptError
from moesubnet.spec.template import Template
from tests.families import families

TOOL = {"type": "function", "function": {"name": "f", "description": "<b> & 'q' \"世\" \u2028"}}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": ["é", None, 1.5, True]}}}
TALKS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": " hi "}],
    [{"role": "system", "content": "s"}, {"role": "user", "content": "<|im_end|>"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 3
    + [{"role": "user", "content": "c\n"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "name": None},
        {"role": "tool", "content": "5 < 6"},
    ],
]


def either(render: Any) -> str | type[Exception]:
    try:
        return str(render())
    except Exception as error:  # noqa: BLE001  # whichever: both must refuse, or neither
        return "refused: " + str(error)


@pytest.mark.parametrize("name", sorted(families()))
@pytest.mark.parametrize("messages", TALKS)
@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_template_gives_what_apply_chat_template_gives(
    name: str, messages: list, tools: list | None, goes_on: bool
) -> None:
    family = families()[name]
    ours = Template(family.template, family.special_tokens)
    theirs = family.transformers()
    assert either(
        lambda: ours.render(messages, tools=tools, add_generation_prompt=goes_on)
    ) == either(
        lambda: theirs.apply_chat_template(
            messages, tools=tools, add_generation_prompt=goes_on, tokenize=False
        )
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ raise_exception('roles must alternate') }}", "^roles must alternate$"),
        ("{{ messages[0].content.nothing() }}", "no attribute 'nothing'"),
        ("{{ 'x }}", "unexpected char"),
        ("{{ 1 // 0 }}", "by zero"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{% set x = messages.append(1) %}", "append"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe|undefined"),
    ],
)
def test_whatever_a_template_raises_is_told_in_its_words(source: str, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        Template(source, {}).render(TALKS[0])


def test_its_own_strings_are_known_without_running_it() -> None:
    template = Template(
        "<s>{# <c> #}{{ '<a>\\n' + x | f(\"<b>\") }}"
        "{% if '<i>' in y %}{{ 'two\nlines\\u0041' }}</s>",
        {},
    )
    assert template.strings == ("<a>\n", "<b>", "<i>", "two\nlinesA")
    assert "<s>" in template.literal_text
    assert "<c>" not in template.literal_text
