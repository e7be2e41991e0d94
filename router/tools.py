"""Tools as requests offer them, and the grammar of answers that call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moesubnet.router.grammar import Grammars, cannot, json_rule
from moesubnet.router.openai_api import ApiError, Form, JsonObject, Name
from moesubnet.router.reading import END_THINK
from moesubnet.spec.calls import ID_CHARS, CallSyntax

MOST_CALLS = 16  # in one answer

Choice = Literal["auto", "none", "required"]
ANY_OBJECT = '%json {"type": "object"}'
PARAMETERS = "tools.{}.function.parameters"
NO_ARGUMENTS: JsonObject = {"type": "object", "properties": {}, "additionalProperties": False}
ANY_TEXT = r"""
TEXT: /(.|\n)*/
GAP: /[ \n]{1,4}/
thought[lazy]: TEXT "</think>"
"""


class Function(Form):
    """A tool's function. Its arguments are of its schema; where that cannot be honoured they are
    any object, unless `strict` is asked."""

    name: Name
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    def described(self) -> JsonObject:
        """As templates know it."""
        said = self.model_dump(exclude_none=True, exclude={"strict"})
        return {"type": "function", "function": {"parameters": NO_ARGUMENTS} | said}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request says of tools. forced: the only one that may be called."""

    tools: tuple[Function, ...] = ()
    choice: Choice = "none"
    forced: str | None = None
    parallel: bool = True

    def described(self) -> list[JsonObject]:
        return [] if self.choice == "none" else [tool.described() for tool in self.tools]


async def answer_rules(
    schema_rule: str | None,
    use: ToolUse,
    syntax: CallSyntax | None,
    grammars: Grammars,
    *,
    is_thinking: bool,
    caller: str,
) -> str | None:
    """The rules of an answer; None where it may be any text.

    schema_rule: of its text, if that must have a schema. is_thinking: it begins inside a thought.
    caller: by whom grammars take their turn.
    Raises ApiError 400 for a strict tool whose schema cannot be honoured.
    """
    if use.choice == "none" or syntax is None:
        if schema_rule is None:
            return None
        answer, rules = schema_rule, list[str]()
    else:
        answer, rules = await _calls(schema_rule, use, syntax, grammars, caller)
    start = f"start: {grammars.lead} {_thought(grammars) if is_thinking else ''} answer"
    return "\n".join([start, f"answer: {answer}", *rules, ANY_TEXT])


async def _calls(
    schema_rule: str | None, use: ToolUse, syntax: CallSyntax, grammars: Grammars, caller: str
) -> tuple[str, list[str]]:
    """The alternatives of an answer, and the rules that they need."""
    literal = grammars.literal
    tools = [tool for tool in use.tools if use.forced in (None, tool.name)]
    rules = [f"call: {' | '.join(f'tool_{i}' for i in range(len(tools)))}"]
    arguments = await _arguments(tools, grammars, caller)
    for index, (tool, rule) in enumerate(zip(tools, arguments, strict=True)):
        rules.append(f"tool_{index}: {literal(tool.name)} {literal(syntax.middle)} {rule}")
    more = ""
    if use.parallel and use.forced is None and syntax.between is not None:
        more = f"({_around_id(syntax.between, grammars)} call){{0,{MOST_CALLS - 1}}}"
    rules.append(f"calls: call {more} {_around_id(syntax.closing, grammars)}")
    if use.choice == "required":
        return f"{literal(syntax.opening)} calls", rules
    if schema_rule is not None:
        return f"{schema_rule} | {literal(syntax.opening)} calls", rules
    # The marker of a call ends what may be text: whoever writes it goes on with a call.
    if control := grammars.control_before(syntax.opening):
        rest = literal(syntax.opening.removeprefix(control))
        return f"TEXT | TEXT? {literal(control)} {rest} calls", rules
    marker = syntax.marker or syntax.opening
    rest = literal(syntax.opening.removeprefix(marker))
    rules.append(f"head[lazy]: {'TEXT' if syntax.marker else ''} {literal(marker)}")
    return f"TEXT | head {rest} calls", rules


def _thought(grammars: Grammars) -> str:
    end = grammars.literal(END_THINK)
    return f"TEXT? {end} GAP?" if grammars.control_before(END_THINK) else "thought GAP?"


async def _arguments(tools: Sequence[Function], grammars: Grammars, caller: str) -> list[str]:
    """The rule of each tool's arguments; that of any object where its schema cannot be honoured.

    Raises ApiError 400 for a strict tool's, and where they take too much.
    """
    rules = []
    for index, tool in enumerate(tools):
        try:
            schema = NO_ARGUMENTS if tool.parameters is None else tool.parameters
            rules.append(json_rule(schema, PARAMETERS.format(index)))
        except ApiError:
            if tool.strict:
                raise
            rules.append(ANY_OBJECT)
    verdicts = await grammars.tried([f"start: {rule}" for rule in rules], "tools", caller)
    for index, (tool, why) in enumerate(zip(tools, verdicts, strict=True)):
        if why and tool.strict:
            raise cannot(PARAMETERS.format(index), why)
    return [ANY_OBJECT if why else rule for rule, why in zip(rules, verdicts, strict=True)]


def _around_id(parts: Sequence[str], grammars: Grammars) -> str:
    return f" /[A-Za-z0-9]{{{ID_CHARS}}}/ ".join(grammars.literal(part) for part in parts)


def tool_use(
    tools: Sequence[Function], choice: Choice | None, forced: str | None, *, parallel: bool
) -> ToolUse:
    """From a request's fields. Raises ApiError 400."""
    names = [tool.name for tool in tools]
    if not tools and choice == "required":
        raise ApiError(400, "tool_choice needs tools.", param="tool_choice", code="invalid_value")
    if len(set(names)) < len(names):
        raise ApiError(400, "Two tools have one name.", param="tools", code="invalid_value")
    if forced is not None and forced not in names:
        text = f"tool_choice names '{forced}', which is no tool of this request."
        raise ApiError(400, text, param="tool_choice", code="invalid_value")
    return ToolUse(tuple(tools), (choice or "auto") if tools else "none", forced, parallel)
