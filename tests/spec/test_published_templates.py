"""Chat templates as families publish them, where a folder of them is at hand: the source archive of
llama-cpp-python has some seventy (`vendor/llama.cpp/models/templates`). None is in this repository:
their licences differ.

    pip download --no-deps --no-binary :all: llama-cpp-python    # unpack it
    MOESUBNET_TEMPLATES=FOLDER scripts/test tests/spec/test_published_templates.py
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from moesubnet.errors import PromptError
from moesubnet.owner.check import Findings, check_template
from moesubnet.spec.prompt import PromptEncoder
from tests.families import Family, byte_level

FOLDER = os.environ.get("MOESUBNET_TEMPLATES", "")
TEMPLATES = sorted(Path(FOLDER).glob("*.jinja")) if FOLDER else []
if not TEMPLATES:
    pytest.skip("MOESUBNET_TEMPLATES names no folder of chat templates", allow_module_level=True)

CONTROL = re.compile(
    r"<\|[A-Za-z0-9_\-:/. ]+\|>|<｜[^｜>]+｜>|\[/?[A-Z_]{3,}\]|<(?:start|end)_of_turn>"
    r"|<\|?turn\|?>|\[gMASK\]|<sop>|<bos>"
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "It's <b> & 世界",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "c"}},
                "required": ["city"],
            },
        },
    }
]
CALL = {"name": "weather", "arguments": {"city": "Rom"}}
TALKS: list[tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = [
    ([{"role": "user", "content": " the fox \n"}], None),
    (
        [
            {"role": "system", "content": "s <b>"},
            {"role": "user", "content": "a <|im_end|> b"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "and <|eot_id|><end_of_turn>?"},
        ],
        None,
    ),
    (
        [
            {"role": "user", "content": "w?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "abcdefghi", "type": "function", "function": CALL}],
            },
            {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": "5 < 6"},
            {"role": "user", "content": "ok"},
        ],
        TOOLS,
    ),
]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_it_renders_as_transformers_renders_it_or_both_refuse(path: Path) -> None:
    source = path.read_text()
    control = sorted(set(CONTROL.findall(source)) - {"<s>", "</s>"})
    tokenizer = byte_level(["<s>", "</s>", *control])
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    family = Family(path.stem, tokenizer, source, "<s>", ("</s>",), special)
    encoder, theirs, findings = (
        PromptEncoder(family.spec, tokenizer),
        family.transformers(),
        Findings(),
    )
    check_template(family.spec, tokenizer, findings)  # refused or not, it raises nothing
    for messages, tools in TALKS:
        try:
            prompt = encoder.chat(messages, tools=tools)
        except PromptError:
            if not findings.problems and tools is None and len(messages) == 1:
                raise
            with pytest.raises(Exception):  # noqa: B017  # whatever their jinja raises
                theirs.apply_chat_template(
                    messages, tools=tools, add_generation_prompt=True, tokenize=False
                )
            continue
        assert prompt.text == theirs.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, tokenize=False
        )
        if len(messages) == 1:
            ids = theirs.apply_chat_template(
                messages, tools=tools, add_generation_prompt=True, return_dict=False
            )
            assert encoder.ids(prompt) == ids[len(ids) > 0 and ids[0] == family.spec.bos_id :]
