"""A chat template, rendered by transformers' own function: the text is what its users get.

The template is a stranger's program. It runs in Jinja's sandbox, sees plain data and nothing else,
and what it raises is a PromptError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from moesubnet.errors import PromptError

Message = Mapping[str, Any]  # `role`, `content` and what the family's templates know beside them


class Template:
    """special_tokens: its variables `bos_token`, `eos_token` …"""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text, up to where the assistant goes on. Raises PromptError.

        variables: what else a caller says to the template, such as `enable_thinking`."""
        from transformers.utils.chat_template_utils import render_jinja_template

        render: Any = render_jinja_template  # its annotations promise one text
        try:
            [text], _ = render(
                conversations=[[_without_none(message) for message in messages]],
                tools=tools and list(tools),
                chat_template=self.source,
                add_generation_prompt=add_generation_prompt,
                **{**(variables or {}), **self._special_tokens},
            )
        except ImportError:
            raise
        except Exception as error:  # a program of strangers: it may raise anything
            raise PromptError(str(error) or type(error).__name__) from error
        return str(text)

    @cached_property
    def strings(self) -> tuple[str, ...]:
        """The string constants in its expressions, such as it looks for or writes."""
        return tuple(text for kind, text in self._literals if kind == "string")

    @cached_property
    def literal_text(self) -> str:
        """Whatever it may write of its own, without what it builds from pieces."""
        return "\0".join(text for _, text in self._literals)

    @cached_property
    def _literals(self) -> list[tuple[str, str]]:
        from jinja2 import Environment, TemplateSyntaxError

        try:
            tokens = [
                (token.type, token.value) for token in Environment().lexer.tokenize(self.source)
            ]
        except TemplateSyntaxError:
            return []  # rendering says what is wrong
        return [(kind, text) for kind, text in tokens if kind in ("data", "string")]


def _without_none(message: Message) -> dict[str, Any]:
    # As apply_chat_template: an API's `tool_calls: null` is no tool call.
    return {key: value for key, value in message.items() if value is not None}
