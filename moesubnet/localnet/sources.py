"""Where the text of the localnet comes from: named documents, read when wanted."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path

from moesubnet.errors import ConfigError

Source = dict[str, Callable[[], str]]  # a stable name → read the document

# Tests, tables, prose that is a domain of its own, and what is not the library.
_STDLIB_LEFT_OUT = {
    *("test", "tests", "idle_test", "encodings", "pydoc_data"),
    *("ensurepip", "site-packages", "dist-packages"),
}
_PROSE_PACKAGES = (
    *("torch", "numpy", "networkx", "huggingface_hub", "pydantic", "rich"),
    *("pip", "click", "typer", "jinja2", "fsspec", "aiohttp"),
)
_DOCSTRING = re.compile(r'^[ \t]*[rRuU]?"""(.*?)"""', re.MULTILINE | re.DOTALL)
_SYMBOL = re.compile(r"[^\w\s,.]|[\d_]")
_MIN_PARAGRAPH_WORDS = 10
_MAX_SYMBOL_SHARE = 0.08


def python_sources() -> Source:
    root = Path(sysconfig.get_path("stdlib"))
    return _files(
        root,
        (p for p in root.rglob("*.py") if not _STDLIB_LEFT_OUT & set(p.relative_to(root).parts)),
        _read,
    )


def cpp_headers() -> Source:
    root = _package("torch") / "include"
    return _files(root, (p for p in root.rglob("*.h")), _read_header)


def maths_tests() -> Source:
    root = _package("sympy")
    return _files(root, root.rglob("tests/test_*.py"), _read)


def english_prose() -> Source:
    from pydoc_data.topics import topics

    prose: Source = {f"topic/{name}": partial(_prose, text) for name, text in topics.items()}
    for name in _PROSE_PACKAGES:
        if importlib.util.find_spec(name) is not None:
            root = _package(name)
            paths = (p for p in root.rglob("*.py") if "tests" not in p.parts)
            prose |= {f"{name}/{k}": v for k, v in _files(root, paths, _read_docstrings).items()}
    for distribution in metadata.distributions():
        about = distribution.read_text("METADATA") or ""
        prose[f"about/{distribution.name}"] = partial(_prose, about.partition("\n\n")[2])
    return prose


SOURCES: Mapping[str, Callable[[], Source]] = {
    "python": python_sources,
    "cpp": cpp_headers,
    "prose": english_prose,
    "maths": maths_tests,
}


def _package(name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the package {name!r} is missing: install `moesubnet[all]`")
    return Path(spec.submodule_search_locations[0])


def _files(root: Path, paths: Iterable[Path], read: Callable[[Path], str]) -> Source:
    return {path.relative_to(root).as_posix(): partial(read, path) for path in paths}


def _read(path: Path) -> str:
    return path.read_text("utf-8", errors="replace").replace("\r\n", "\n").expandtabs(4)


def _read_header(path: Path) -> str:
    text = _read(path)
    return "" if "@generated" in text[:400] else text


def _read_docstrings(path: Path) -> str:
    return "\n\n".join(map(_prose, _DOCSTRING.findall(_read(path))))


def _prose(text: str) -> str:
    """The paragraphs that are English sentences: no signatures, tables, examples or lists."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return "\n\n".join(filter(_is_english, map(inspect.cleandoc, paragraphs)))


def _is_english(paragraph: str) -> bool:
    return len(paragraph.split()) >= _MIN_PARAGRAPH_WORDS and len(
        _SYMBOL.findall(paragraph)
    ) <= _MAX_SYMBOL_SHARE * len(paragraph)
