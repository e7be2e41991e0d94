"""A model read as its own family beneath a subnet over bytes: tokenizer, template, where texts end.

A conversation arrives as roles and text and is rendered by the model's own template, so that no
byte of a message becomes a control token; where there is none, or it refuses the conversation, as
plain text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moesubnet.engine.bytes_borders import Borders
from moesubnet.engine.bytes_lexicon import Lexicon
from moesubnet.engine.bytes_reading import Reader
from moesubnet.engine.bytes_witness import check_reading
from moesubnet.errors import PromptError
from moesubnet.spec.byte_unit import Section, talk
from moesubnet.spec.content import LoadedSpec, Spec, SpecFile, file_sha256, spec_files
from moesubnet.spec.family import Family
from moesubnet.spec.prompt import PromptEncoder

log = logging.getLogger(__name__)


def own_spec(family: Family, spec: LoadedSpec, context_tokens: int | None = None) -> LoadedSpec:
    """A spec of unit tokens, of the model's family and as long as the subnet's, or as the model or
    what runs it (context_tokens) allows."""
    path = family.tokenizer_path
    longest = (family.context_tokens, context_tokens, spec.spec.context_tokens)
    said = Spec(
        name=spec.spec.name,
        vocab_size=family.vocab_size,
        bos_id=family.bos_id,
        stop_ids=tuple(sorted(family.stops)),
        context_tokens=min(length for length in longest if length),
        chat_template=family.template,
        special_tokens=family.special_tokens,
        min_caller_stake_rao=0,
        **(spec_files(None) | {"tokenizer": SpecFile(path=path.name, sha256=file_sha256(path))}),
    )
    return LoadedSpec(root=family.folder, sha256=spec.sha256, spec=said)


@dataclass(frozen=True)
class Own:
    """A model's own reading, which several engines over it share. Raises EngineError for a
    tokenizer that is not understood."""

    spec: LoadedSpec
    encoder: PromptEncoder
    text: Reader  # of what people write
    said: Reader  # of what the model writes itself

    @classmethod
    def of(cls, family: Family, spec: LoadedSpec) -> Own:
        encoder = PromptEncoder(spec.spec, family.tokenizer)
        stops = set(spec.spec.stop_ids)

        def encode(text: str) -> list[int]:
            return encoder.ids(encoder.text(text))

        def reader(controls: frozenset[int] | set[int]) -> Reader:
            lexicon = Lexicon(family.tokenizer, family.vocab_size, controls)
            borders = Borders(lexicon)
            check_reading(family.tokenizer, lexicon, borders)
            return Reader(lexicon, borders, encode)

        text = reader(encoder.control_ids | stops)
        is_one = encoder.special_ids | stops == encoder.control_ids | stops
        return cls(spec, encoder, text, text if is_one else reader(encoder.special_ids | stops))

    def before(self, section: Section) -> tuple[int, ...]:
        """The tokens of a conversation up to where a section begins, by the model's own template,
        else as plain text. Raises PromptError for what no conversation is."""
        if section.turns is None or section.head is None or section.head["role"] == "tools":
            return ()
        messages, tools = talk(section.turns)
        role = str(section.head["role"])
        try:
            return tuple(self.encoder.ids(self.encoder.turn(messages, role, tools=tools)))
        except PromptError as error:
            log.debug("read as plain text: %s", error)
            plain = self.encoder.text(plain_talk(messages, role, tools))
            return tuple(self.encoder.ids(plain))


def plain_talk(messages: Sequence[Mapping[str, Any]], role: str, tools: object) -> str:
    """A conversation as text, up to where a turn of `role` says something."""
    turns = [("tools", json.dumps(tools))] if tools else []
    for message in messages:
        calls = message.get("tool_calls")
        turns.append((message["role"], message["content"] + (json.dumps(calls) if calls else "")))
    return "".join(f"{who}:\n{said}\n\n" for who, said in turns) + f"{role}:\n"
