"""JSON from strangers: one meaning or none.

A repeated key means the first to one reader and the last to another, so it is refused by name;
so is what JSON does not have (NaN, lone surrogates, anything after the end).
"""

from __future__ import annotations

from typing import Any, TypeVar

import jiter
from pydantic import BaseModel

ModelT = TypeVar("ModelT", bound=BaseModel)


def parse_json(data: bytes) -> Any:
    """Raises ValueError saying what is wrong and where."""
    return jiter.from_json(data, allow_inf_nan=False, catch_duplicate_keys=True)


def parse_as(kind: type[ModelT], data: bytes) -> ModelT:
    """Raises ValueError for what is no such JSON: pydantic's ValidationError is one."""
    return kind.model_validate(parse_json(data))
