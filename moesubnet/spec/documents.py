"""Text as it lies in files: a spec's public text, a validator's own, a corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesubnet.errors import ConfigError
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.template import Message


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text and the domain it belongs to (empty where nobody says)."""

    domain: str
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Who said what, in OpenAI's form: at least one message."""

    messages: tuple[Message, ...]


def read_documents(path: Path) -> Iterator[Document]:
    """Documents of one file: a `.jsonl` has one a line (`{"text": …, "domain": …}`), any other
    file is one document of UTF-8 text. Raises ConfigError."""
    for text in read_texts(path):
        if isinstance(text, Conversation):
            raise ConfigError(f'{path} has lines of "messages": only "text" is read here')
        yield text


def read_texts(path: Path) -> Iterator[Document | Conversation]:
    """The same, where a line may be a conversation (`{"messages": [{"role", "content"}, …]}`)."""
    try:
        if path.suffix != ".jsonl":
            yield Document("", path.read_text("utf-8"))
            return
        with path.open(encoding="utf-8") as lines:
            for line in filter(str.strip, lines):
                yield _text(json.loads(line))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        forms = '{"text": …} or {"messages": [{"role": …, "content": …}, …]}'
        raise ConfigError(f"{path} is not JSON lines of {forms}") from error


def _text(row: Any) -> Document | Conversation:
    """Raises KeyError, TypeError, ValueError (text that is no Unicode)."""
    if "messages" not in row:
        return Document(str(row.get("domain", "")), _unicode(row["text"]))
    for message in row["messages"]:
        _unicode(message["role"])
        if message.get("content") is not None:  # of a call there may be none
            _unicode(message["content"])
    return Conversation(tuple(row["messages"]))


def _unicode(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError
    text.encode()
    return text


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """Write a `.jsonl` that `read_documents` reads back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            row = {"domain": document.domain, "text": document.text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def public_texts(spec: LoadedSpec) -> Iterator[str]:
    """The documents of a spec's public text. Raises ConfigError."""
    for document in read_documents(spec.path(spec.spec.public_text)):
        yield document.text
