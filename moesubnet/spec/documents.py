"""Text as it lies in files: a spec's public text, a validator's own, a corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from moesubnet.errors import ConfigError
from moesubnet.spec.content import LoadedSpec


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text and the domain it belongs to (empty where nobody says)."""

    domain: str
    text: str


def read_documents(path: Path) -> Iterator[Document]:
    """Documents of one file: a `.jsonl` has one a line (`{"text": …, "domain": …}`), any other
    file is one document of UTF-8 text. Raises ConfigError."""
    try:
        if path.suffix != ".jsonl":
            yield Document("", path.read_text("utf-8"))
            return
        with path.open(encoding="utf-8") as lines:
            for line in filter(str.strip, lines):
                row = json.loads(line)
                if not isinstance(text := row["text"], str):
                    raise TypeError
                yield Document(str(row.get("domain", "")), text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason}") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f'{path} is not JSON lines of {{"text": …}}') from error


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
