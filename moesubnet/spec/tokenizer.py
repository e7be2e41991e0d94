"""Reading a subnet's or a model's tokenizer."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from moesubnet.errors import SpecError


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`. Raises SpecError when it is not one."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise SpecError(f"{path} is not a tokenizer.json: {error}") from error
