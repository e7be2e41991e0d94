"""The syntax of calls as published families' templates write it, read off templates like theirs."""

import pytest

from moesubnet.spec.calls import CallSyntax, call_syntax
from moesubnet.spec.template import Template
from tests.families import families

QWEN = """{% for m in messages %}<|im_start|>{{ m.role }}
{%- if m.role == 'assistant' and loop.last %}{{ '\n<think>\n\n</think>\n' }}{% endif %}
{%- if m.content %}{{ '\n' + m.content }}{% endif %}
{%- for c in m.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' + c.function.name + '", "arguments": ' }}
{{- c.function.arguments | tojson }}{{ '}\n</tool_call>' }}
{%- endfor %}<|im_end|>
{% endfor %}"""
MISTRAL = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'user' %}[INST] {{ m.content }}[/INST]
{%- elif m.role == 'tool' %}[TOOL_RESULTS]{"content": {{ m.content | tojson }}}[/TOOL_RESULTS]
{%- elif m.tool_calls %}[TOOL_CALLS][
{%- for c in m.tool_calls %}
{%- if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{{- '{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments | tojson }}
{{- ', "id": "' + c.id + '"}' }}{% if not loop.last %}, {% endif %}
{%- endfor %}]{{ eos_token }}
{%- else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"""
DEEPSEEK = """{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}
{%- elif m.role == 'assistant' %}<|Assistant|>{{ m.content }}{% if m.tool_calls %}<|calls|>
{%- for c in m.tool_calls %}<|call|>function<|sep|>{{ c.function.name + '\n```json\n' }}
{{- c.function.arguments + '\n```<|/call|>' }}{% endfor %}<|/calls|>{% endif %}<|eos|>
{%- else %}<|out|>{{ m.content }}{% endif %}{% endfor %}"""
XML = """{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}
{%- for c in m.tool_calls or [] %}<function={{ c.function.name }}>
{%- for k, v in c.function.arguments | items %}<p={{ k }}>{{ v }}</p>{% endfor %}</function>
{%- endfor %}<|im_end|>{% endfor %}"""


def syntax(source: str, *stops: str) -> CallSyntax | None:
    return call_syntax(Template(source, {"bos_token": "<s>", "eos_token": "</s>"}), stops)


def test_a_family_that_marks_each_call() -> None:
    found = syntax(QWEN, "<|im_end|>")
    assert found == CallSyntax(
        opening='<tool_call>\n{"name": "',
        middle='", "arguments": ',
        closing=("}\n</tool_call>",),
        between=('}\n</tool_call>\n<tool_call>\n{"name": "',),
    )
    assert found.marker == "<tool_call>"
    assert not found.writes_ids


def test_a_family_that_writes_a_list_with_ids() -> None:
    found = syntax(MISTRAL, "</s>")
    assert found == CallSyntax(
        opening='[TOOL_CALLS][{"name": "',
        middle='", "arguments": ',
        closing=(', "id": "', '"}]'),
        between=(', "id": "', '"}, {"name": "'),
    )
    assert found.marker == "[TOOL_CALLS]"
    assert found.writes_ids


def test_a_family_whose_template_joins_texts() -> None:
    found = syntax(DEEPSEEK, "<|eos|>")
    assert found is not None
    assert found.arguments_as_text
    assert found.opening == "<|calls|><|call|>function<|sep|>"
    assert found.middle == "\n```json\n"
    assert found.closing == ("\n```<|/call|><|/calls|>",)


def test_a_family_whose_calls_are_bare_json_one_at_a_time() -> None:
    family = families()["headers"]
    found = syntax(family.template, *family.stops)
    assert found == CallSyntax('{"name": "', '", "arguments": ', ("}",), None)
    assert found.marker == ""


@pytest.mark.parametrize("source", [XML, families()["inst"].template, "", "{{ broken"])
def test_where_calls_are_not_json_there_is_no_syntax(source) -> None:
    assert syntax(source, "</s>", "<|im_end|>") is None
