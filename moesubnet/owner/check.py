"""Whether a spec works: its files, and its template on conversations of every shape."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from tokenizers import Tokenizer

from moesubnet.errors import MoesubnetError, PromptError, SpecError
from moesubnet.mixture.baseline import load_baseline
from moesubnet.spec.calls import call_syntax
from moesubnet.spec.content import MAX_SPEC_BYTES, LoadedSpec, Spec
from moesubnet.spec.documents import public_texts
from moesubnet.spec.pieces import Pieces
from moesubnet.spec.prompt import PromptEncoder
from moesubnet.spec.source import MAX_FILE_BYTES
from moesubnet.spec.tokenizer import load_tokenizer

_FEW_DOCUMENTS = 1_000  # of the public text that are looked at
_TYPED = 64  # control tokens that are tried in a message
_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Who it was.",
        "parameters": {
            "type": "object",
            "properties": {"who": {"type": "string"}},
            "required": ["who"],
        },
    },
}
_FIRST, _ANSWER, _SECOND, _RULE = "Who was Ada?", "She wrote <b>it</b> {'a': 1}.", "When?", "Brief."


@dataclass
class Findings:
    """problems: why nobody should join; notes: what the owner may want to know."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_spec(spec: LoadedSpec) -> Findings:
    """Everything about a spec whose hashes were right when it was loaded."""
    findings = Findings()
    for path in (spec.root / "spec.json", *map(spec.path, spec.spec.files)):
        most = MAX_SPEC_BYTES if path.name == "spec.json" else MAX_FILE_BYTES
        if (size := path.stat().st_size) > most:
            findings.problems.append(
                f"{path.name} has {size:,} bytes and nobody fetches more than {most:,}: shorten it"
            )
    for look in (load_baseline, _read_public_text, _check_tokenizer):
        try:
            look(spec)
        except MoesubnetError as error:
            findings.problems.append(str(error))
    if not findings.problems:
        check_template(spec.spec, load_tokenizer(spec.tokenizer_path), findings)
    return findings


def check_template(spec: Spec, tokenizer: Tokenizer, findings: Findings) -> None:
    """Whether conversations come out whole, and with no control token but the template's; the
    first problem ends it."""
    encoder = PromptEncoder(spec, tokenizer)
    if not spec.chat_template:
        findings.notes.append(
            "no chat template: /v1/chat/completions and /v1/responses will be refused"
        )
        return
    for name, messages in _talks():
        try:
            prompt = encoder.chat(messages)
            ids = encoder.ids(prompt)
        except PromptError as error:
            if messages[0]["role"] == "system":  # some families have none
                findings.notes.append(f"the template refuses {name}: {error}")
                continue
            findings.problems.append(f"the template cannot render {name}: {error}")
            return
        lost = [m["content"] for m in messages if m["content"] not in prompt.text]
        if lost:
            findings.problems.append(f"the template leaves {lost[0]!r} out of {name}")
            return
        if max(ids, default=0) >= spec.vocab_size:
            findings.problems.append(
                f"the template writes token {max(ids)}; the vocabulary has {spec.vocab_size}"
            )
            return
    _check_typed(spec, tokenizer, encoder, findings)
    _check_tools(spec, tokenizer, encoder, findings)


def _check_typed(
    spec: Spec, tokenizer: Tokenizer, encoder: PromptEncoder, findings: Findings
) -> None:
    """Type control tokens as a user might; PromptEncoder refuses what it cannot keep apart."""
    tokens = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
    ends = [text for i in spec.stop_ids if (text := tokenizer.id_to_token(i))]
    for token in dict.fromkeys([*ends, *islice(tokens, _TYPED)]):
        for text in (token, f" {token}{token}\n", f"<{token} x"):
            try:
                encoder.ids(encoder.chat([{"role": "user", "content": text}]))
            except PromptError as error:
                findings.notes.append(f"a message of {text!r} will be refused: {error}")


def _check_tools(
    spec: Spec, tokenizer: Tokenizer, encoder: PromptEncoder, findings: Findings
) -> None:
    """Tools, and a call that is sent back with its answer, as a client sends them."""
    stops = [tokenizer.id_to_token(stop_id) or "" for stop_id in spec.stop_ids]
    calls = call_syntax(encoder.template, stops)
    if calls is None:
        findings.notes.append(
            "the template writes no calls of tools as JSON: tools will be refused"
        )
        return
    given: dict[str, Any] = {"name": "look_up", "arguments": {"who": "Ada"}}
    if calls.arguments_as_text:
        given["arguments"] = json.dumps(given["arguments"])
    call = {"id": "call00001", "type": "function", "function": given}
    asked = {"role": "assistant", "content": "", "tool_calls": [call]}
    answer = {"role": "tool", "tool_call_id": call["id"], "name": "look_up", "content": _ANSWER}
    user = {"role": "user", "content": _FIRST}
    talks: list[tuple[str, list[Mapping[str, Any]], str]] = [
        ("tools", [user], "look_up"),
        ("a call of a tool with its answer", [user, asked, answer], _ANSWER),
    ]
    for name, messages, shown in talks:
        try:
            prompt = encoder.chat(messages, tools=[_TOOL])
            encoder.ids(prompt)
        except PromptError as error:
            findings.notes.append(f"the template refuses {name}: {error}")
            return
        if not any(text in prompt.text for text in (shown, json.dumps(shown)[1:-1])):
            findings.notes.append(f"the template leaves {shown!r} out of {name}")
            return


def _talks() -> Iterator[tuple[str, Sequence[dict[str, Any]]]]:
    user, answer = {"role": "user", "content": _FIRST}, {"role": "assistant", "content": _ANSWER}
    again, rule = {"role": "user", "content": _SECOND}, {"role": "system", "content": _RULE}
    yield "a question", [user]
    yield "a second question", [user, answer, again]
    yield "a conversation of twenty turns", [*[user, answer] * 10, again]
    yield "a system message", [rule, user]


def _read_public_text(spec: LoadedSpec) -> None:
    for _ in islice(public_texts(spec), _FEW_DOCUMENTS):
        pass


def _check_tokenizer(spec: LoadedSpec) -> None:
    check_tokenizer(spec.spec, load_tokenizer(spec.tokenizer_path))


def check_tokenizer(spec: Spec, tokenizer: Tokenizer) -> None:
    """Raises SpecError for one that cannot serve this spec."""
    for token_id in (spec.bos_id, *spec.stop_ids):
        if tokenizer.id_to_token(token_id) is None:
            raise SpecError(f"the tokenizer has no token {token_id}, which spec.json names")
    if not Pieces(tokenizer).is_exact:
        raise SpecError(
            "what this tokenizer's tokens add to a text depends on those that follow (its decoder "
            "is neither byte-level nor of SentencePiece's kind), so answers cannot be streamed"
        )
